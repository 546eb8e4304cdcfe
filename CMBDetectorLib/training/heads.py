"""Images of heads that no scanner made: label maps deformed, painted with random contrast, and degraded.

Domain randomization after Billot et al. (SynthSeg, Medical Image Analysis 2023), half of the time with a prior for
SWI: white and gray matter close, deep gray matter darker, fluid near both. Numbers and artifacts are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

from CMBDetectorLib.preprocessing import SEGMENTER_SPACING_MM
from CMBDetectorLib.simulation.heads import atrophied, load_head
from CMBDetectorLib.training.split import heads_of

Array = npt.NDArray[np.float32]

GRID_MM = SEGMENTER_SPACING_MM  # of the images made here
UNKNOWN_SIDE = 2  # beside 0 (right) and 1 (left)

# FreeSurfer numbers. Left and right have the same tissue, so one of each pair is painted and the other follows.
LEFT_TO_RIGHT = {
    2: 41, 3: 42, 4: 43, 5: 44, 7: 46, 8: 47, 10: 49, 11: 50, 12: 51, 13: 52, 17: 53, 18: 54, 25: 57, 26: 58, 28: 60,
    30: 62, 163: 164,
}  # fmt: skip
WHITE = (2, 7, 16, 28)
CORTEX = (3, 8, 17, 18)
DEEP_GRAY = (10, 11, 12, 13, 26)
FLUID = (4, 5, 14, 15, 24)
FLUID_OF_BOTH_SIDES = (*FLUID, *(LEFT_TO_RIGHT[number] for number in FLUID if number in LEFT_TO_RIGHT))
VESSELS = (30,)
FIRST_OUTSIDE = 500  # this number and those above lie outside the brain
NUMBERS = 600


@dataclass(frozen=True, eq=False)
class Head:
    """A head's anatomy at 1 mm.

    Attributes
    ----------
    code : ndarray
        (R, A, S) uint16: (FreeSurfer number * 14 + MARS label) * 2 + left.
    center : ndarray
        Centroid of brain tissue, voxels.
    """

    code: npt.NDArray[np.uint16]
    center: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image for the segmenter and what is in it, all (R, A, S) at 1 x 1 x 2 mm.

    Attributes
    ----------
    image : ndarray
        float32, any scale.
    label : ndarray
        MARS label, 0-13.
    left : ndarray
        1 on the left side, 0 on the right, `UNKNOWN_SIDE` where nobody knows.
    """

    image: Array
    label: npt.NDArray[np.uint8]
    left: npt.NDArray[np.uint8]


def load_heads(folder: Path, part: str, atrophies: int = 0) -> list[Head]:
    """Read ``NN_labels.nii.gz`` and ``NN_mars.nii.gz`` of a part's heads; `InputError` when one is missing.

    Each comes with so many more whose cortex is thinner, each in its own way.
    """
    whole = [load_head(folder, name) for name in heads_of(part)]
    thin = [atrophied(head, np.random.default_rng(n)) for n, head in enumerate(whole * atrophies)]
    return [with_sides(anatomy.labels.astype(np.uint16), anatomy.mars) for anatomy in whole + thin]


def with_sides(numbers: npt.NDArray[np.uint16], mars: npt.NDArray[np.uint8]) -> Head:
    """Join FreeSurfer numbers, MARS labels and sides; an unpaired structure is on the nearest paired one's side."""
    coarse = numbers[::2, ::2, ::2]  # a side needs no finer edge
    to_left, to_right = (
        ndimage.distance_transform_edt(~np.isin(coarse, list(side)))
        for side in (LEFT_TO_RIGHT.keys(), LEFT_TO_RIGHT.values())
    )
    left = (to_left < to_right).repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in numbers.shape)]
    left[np.isin(numbers, list(LEFT_TO_RIGHT.keys()))] = True
    left[np.isin(numbers, list(LEFT_TO_RIGHT.values()))] = False
    center = np.array([axis.mean() for axis in np.nonzero(mars)])
    return Head(((numbers * 14 + mars) * 2 + left).astype(np.uint16), center)


def random_sample(head: Head, shape: Sequence[int], rng: np.random.Generator, veined: float = 0.0) -> Sample:
    """Make one image of a head, deformed, in random contrast, with the artifacts of a scan.

    The share `veined` of such images has veins in the fluid.
    """
    flipped = rng.random() < 0.5
    where = random_coordinates(head.center, shape, flipped, rng)
    code = ndimage.map_coordinates(head.code, where, order=0)
    numbers, label = code // 28, (code // 2 % 14).astype(np.uint8)
    left = (code % 2 ^ int(flipped)).astype(np.uint8)

    mean, deviation = swi_contrast(rng) if rng.random() < 0.85 else any_contrast(rng)
    image = mean[numbers] + deviation[numbers] * rng.standard_normal(shape, np.float32)
    if rng.random() < 0.3:
        image *= _skull_stripped(numbers, label, rng)
    if veined and rng.random() < veined:
        image *= _veins_in_fluid(np.isin(numbers, FLUID_OF_BOTH_SIDES), rng)
    image = ndimage.gaussian_filter(np.maximum(image, 0), rng.uniform(0.3, 0.6))  # partial volume
    return Sample(degrade(image, rng), label, left)


def random_coordinates(
    center: npt.NDArray[np.float64], shape: Sequence[int], flipped: bool, rng: np.random.Generator
) -> Array:
    """Voxels of a head (1 mm) for those of a new image (`GRID_MM`): affine, elastic, off center, perhaps mirrored.

    Parameters
    ----------
    center : ndarray
        What comes to lie near the middle of the new image, voxels of the head.
    flipped : bool
        Exchange left and right.

    Returns
    -------
    ndarray
        (3, *shape) float32.
    """
    rotation = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True).as_matrix()
    shear = np.eye(3) + np.triu(rng.uniform(-0.08, 0.08, (3, 3)), 1)
    scale = np.diag(rng.uniform(0.92, 1.08, 3) * rng.uniform(0.9, 1.1) * ([-1, 1, 1] if flipped else [1, 1, 1]))
    axes = [
        (np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(mm) for n, mm in zip(shape, GRID_MM, strict=True)
    ]
    mm = np.stack(np.meshgrid(*axes, indexing="ij")) + rng.uniform(0, 4) * smooth_noise(3, shape, rng)
    turned = np.tensordot((scale @ rotation @ shear).astype(np.float32), mm, 1)
    shift_mm = rng.uniform(-15, 15, 3)
    return (center + shift_mm).astype(np.float32)[:, None, None, None] + turned


def smooth_noise(fields: int, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Random fields of standard deviation about 1 that change over some 32 mm, (fields, *shape) at `GRID_MM`."""
    sizes = [int(n * mm / 32) + 2 for n, mm in zip(shape, GRID_MM, strict=True)]
    coarse = torch.from_numpy(rng.standard_normal((1, fields, *sizes), np.float32))
    noise: Array = functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)[0].numpy()
    return noise


def swi_contrast(rng: np.random.Generator) -> tuple[Array, Array]:
    """Mean and standard deviation of every FreeSurfer number, as SWI may show it; white matter is 1."""
    mean = rng.uniform(0.1, 1.3, NUMBERS).astype(np.float32)  # skull, scalp, and what is not named below
    for group, low, high in (
        (WHITE, 0.97, 1.03), (CORTEX, 0.95, 1.2), (DEEP_GRAY, 0.6, 1.05), (VESSELS, 0.2, 0.9), (FLUID, 0.6, 1.4),
    ):  # fmt: skip
        # One draw for the group and a little for each of its members.
        mean[list(group)] = rng.uniform(low, high) * rng.uniform(0.95, 1.05, len(group))
    deviation = rng.uniform(0.02, 0.08, NUMBERS).astype(np.float32)
    return _paired(mean), _paired(deviation)


def any_contrast(rng: np.random.Generator) -> tuple[Array, Array]:
    """Mean and standard deviation of every FreeSurfer number without any prior (SynthSeg)."""
    mean, deviation = rng.uniform(0.05, 1, NUMBERS), rng.uniform(0.01, 0.12, NUMBERS)
    return _paired(mean.astype(np.float32)), _paired(deviation.astype(np.float32))


def _paired(table: Array) -> Array:
    """Give the right side the left side's value, and air none."""
    table[list(LEFT_TO_RIGHT.values())] = table[list(LEFT_TO_RIGHT.keys())]
    table[0] *= 0.05  # air, and bone, which is as dark
    return table


def _skull_stripped(
    numbers: npt.NDArray[np.uint16], label: npt.NDArray[np.uint8], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Mask the brain as one skull stripping or another leaves it: with all its fluid, or tissue and a rim."""
    if rng.random() < 0.5:
        return (numbers > 0) & (numbers < FIRST_OUTSIDE)
    return ndimage.binary_fill_holes(ndimage.binary_dilation(label > 0, iterations=int(rng.integers(1, 4))))


def _veins_in_fluid(fluid: npt.NDArray[np.bool_], rng: np.random.Generator) -> Array:
    """Signal that is left where veins cross the fluid: up to one dark spot per 0.4 ml, about a voxel wide."""
    places = np.argwhere(fluid)
    spots = np.zeros(fluid.shape, np.float32)
    chosen = places[rng.integers(0, max(len(places), 1), int(rng.uniform(0, 1 / 200) * len(places)))]
    spots[tuple(chosen.T)] = rng.uniform(0.3, 1.0, len(chosen))
    sigma = rng.uniform((0.4, 0.4, 0.3), (1.0, 1.0, 1.0))
    spots = ndimage.gaussian_filter(spots, sigma) * np.prod(sigma * np.sqrt(2 * np.pi))
    return 1 - np.clip(spots, 0, 1)


def degrade(image: Array, rng: np.random.Generator) -> Array:
    """Dark spots and veins, coil shading, thick slices and noise."""
    scale = max(float(np.percentile(image, 99)), 1e-6)
    spots = np.zeros(image.shape, np.float32)
    sigma = rng.uniform(0.4, 3.0, 3)
    places = rng.integers(0, image.shape, (int(rng.integers(1, 40)), 3))
    spots[tuple(places.T)] = rng.uniform(0.2, 1.0, len(places))
    spots = ndimage.gaussian_filter(spots, sigma) * np.prod(sigma * np.sqrt(2 * np.pi))
    image = image * (1 - np.clip(spots, 0, 1))
    image = image * np.exp(rng.uniform(0, 0.35) * smooth_noise(1, image.shape, rng)[0])
    slice_axis = 2 if rng.random() < 0.8 else int(rng.integers(3))
    thickness_mm = rng.uniform(1, 5)
    image = ndimage.gaussian_filter1d(image, thickness_mm / GRID_MM[slice_axis] / 2.355, axis=slice_axis)
    noise = rng.uniform(0, 0.06) * scale * rng.standard_normal(image.shape, np.float32)
    return np.abs(image + noise).astype(np.float32)  # magnitudes are never negative
