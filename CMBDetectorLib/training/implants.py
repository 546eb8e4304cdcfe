"""Lesions, calcifications and vessels put into training crops on the fly, so that no two steps show the same.

A complex factor, averaged over the voxel that was acquired, multiplies the magnitude and adds to the phase: that of a
source of `CMBDetectorLib.simulation`, or a painted one (`painted`). Ours; the paper has real lesions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from CMBDetectorLib.networks.anchors import SPACING_MM
from CMBDetectorLib.simulation.acquisition import homodyne, mask_change
from CMBDetectorLib.simulation.case import LARGEST_MM, VISIBLE_CONTRAST, VISIBLE_MM, appearance
from CMBDetectorLib.simulation.sources import Box, Source, irregular, microbleed, ragged
from CMBDetectorLib.training.painted import Spot, Vessel, calcified_spot, spot, vessel
from CMBDetectorLib.training.slices import interpolation, shared_mm
from CMBDetectorLib.training.targets import Lesions

Array = npt.NDArray[np.float32]
Form = Source | Spot | Vessel  # balls, roughly, and the factor of what they hold

FINE_MM = np.array([0.5, 0.5, 0.5])  # the crop's voxel in plane, half of it through the slice
APART_MM = 6.0  # centers, from those of lesions and mimics that are there
CLEAR_MM = 1.0  # surfaces, likewise
RAGGED_MM, MOST_PPM_MM3 = 8.0, 200.0  # widest ragged source; its chi times the cube of its diameter
DIFFUSE_MM = 10.0  # widest diffuse source, edge included
DARK, DARK_MM = -0.3, 1.5  # where the SWI within so many mm is darker, a vessel or air hides what is put in
FILTER_MM = (2.0, 4.0)  # resolution of the low-pass: the vendor's, which nobody tells, and ours after it


@dataclass(frozen=True)
class Scan:
    """What the physics needs to know of the scan behind a crop.

    Attributes
    ----------
    rad_per_ppm : float
        Phase at the echo per ppm of field shift.
    acquired_mm, slice_mm : float
        Voxel that was acquired, in plane and through the slice.
    mask_power : int
        How often the phase mask multiplied the magnitude.
    b0_direction : tuple of float
        B0 along R, A, S of the crop.
    """

    rad_per_ppm: float
    acquired_mm: float
    slice_mm: float
    mask_power: int = 4
    b0_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of things to put in.

    Attributes
    ----------
    make : callable
        One of random properties at a place, mm.
    is_lesion : bool
    is_compact : bool
        Nothing else is put close to it; vessels may cross.
    is_processed : bool
        The vendor's phase mask and filter act on it; what is painted is as it looks.
    """

    make: Callable[[npt.NDArray[np.float64], np.random.Generator], Form]
    is_lesion: bool = False
    is_compact: bool = True
    is_processed: bool = False


def calcification(center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    """One calcification of random size and susceptibility at a place."""
    chi, inside = -float(rng.uniform(0.7, 3.0)), float(rng.uniform(0.1, 0.6))
    return irregular("calcification", center_mm, float(rng.uniform(0.8, 4.0)), chi, inside, rng, 0)


def ragged_microbleed(center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    """One ragged microbleed of random size and susceptibility at a place."""
    return _ragged("microbleed", 1, center_mm, rng)


def ragged_calcification(center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    """One ragged calcification at a place: a ragged microbleed in all but the sign of its susceptibility."""
    return _ragged("calcification", -1, center_mm, rng)


def _ragged(kind: str, sign: int, center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    diameter_mm = float(np.exp(rng.uniform(np.log(1.5), np.log(RAGGED_MM))))
    # The field reaches as far as the cube root of chi says: the large ones are weaker, or they would look wider than a
    # microbleed may.
    strongest_ppm = min(2.0, MOST_PPM_MM3 / diameter_mm**3)
    chi_ppm = float(np.exp(rng.uniform(np.log(0.12), np.log(strongest_ppm))))
    return ragged(kind, center_mm, diameter_mm, sign * chi_ppm, float(rng.uniform(0.05, 0.7)), rng, 0)


def diffuse_microbleed(center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    """One microbleed that fades out, wide and weak: mostly gray where others are black."""
    return _diffuse("microbleed", center_mm, float(np.exp(rng.uniform(np.log(0.04), np.log(0.5)))), rng)


def diffuse_calcification(center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    """One calcification that fades out, strong enough for the phase to tell it."""
    return _diffuse("calcification", center_mm, -float(np.exp(rng.uniform(np.log(0.3), np.log(0.6)))), rng)


def _diffuse(kind: str, center_mm: npt.NDArray[np.float64], chi_ppm: float, rng: np.random.Generator) -> Source:
    make = ragged if rng.random() < 0.5 else irregular
    diameter_mm = float(np.exp(rng.uniform(np.log(2.5), np.log(DIFFUSE_MM))))
    source = make(kind, center_mm, diameter_mm, chi_ppm, float(rng.uniform(0.3, 1.0)), rng, 0)
    return replace(source, softness=float(rng.uniform(0.1, 1.0)))


MICROBLEED = Kind(make=lambda center_mm, rng: microbleed(center_mm, 0, rng), is_lesion=True, is_processed=True)
CALCIFICATION = Kind(make=calcification, is_processed=True)
RAGGED_MICROBLEED = Kind(make=ragged_microbleed, is_lesion=True, is_processed=True)
RAGGED_CALCIFICATION = Kind(make=ragged_calcification, is_processed=True)
DIFFUSE_MICROBLEED = Kind(make=diffuse_microbleed, is_lesion=True, is_processed=True)
DIFFUSE_CALCIFICATION = Kind(make=diffuse_calcification, is_processed=True)
SPOT, CALCIFIED_SPOT = Kind(make=spot, is_lesion=True), Kind(make=calcified_spot)
VESSEL = Kind(make=vessel, is_compact=False)


def implant(
    image: Array, tissue: npt.NDArray[np.bool_], lesions: Lesions, mimics_mm: npt.NDArray[np.float64], scan: Scan,
    count: int, rng: np.random.Generator, *, kind: Kind = MICROBLEED, first_slice_mm: float = 0.0,
) -> tuple[Array, Lesions]:  # fmt: skip
    """Put random sources into a crop.

    Parameters
    ----------
    image : ndarray, shape (2, R, A, S)
        SWI and phase as the detector reads them (`CMBDetectorLib.preprocessing.detector_input`).
    tissue : ndarray of bool, shape (R, A, S)
        Brain tissue; sources have their centers there, where the image is not blank.
    lesions : Lesions
        Those in and near the crop.
    mimics_mm : ndarray, shape (M, 3)
        Mimics, mm from the center of voxel 0; sources keep away from them.
    count : int
        How many sources; fewer where there is no room.
    kind : Kind
        What they are.
    first_slice_mm : float
        Where one of the scan's slices has its center, along S from the center of voxel 0.

    Returns
    -------
    image : ndarray
    lesions : Lesions
        With the new microbleeds; those too faint to see do not count.
    """
    places = np.argwhere(tissue & (image[0] != 0))
    taken = [*zip(lesions.center_mm, lesions.diameter_mm / 2, strict=True), *((place, 0.0) for place in mimics_mm)]
    centers, diameters, counts = list(lesions.center_mm), list(lesions.diameter_mm), list(lesions.counts)
    for _ in range(count if len(places) else 0):
        center = (places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 3)) * SPACING_MM
        form = kind.make(center, rng)
        if _is_near(form, taken) or _is_dark(image[0], center):
            continue
        found = factor_on_crop(form, image.shape[1:], scan, first_slice_mm)
        if found is None:
            continue
        box, factor, on_slices = found
        filter_mm = float(rng.uniform(*FILTER_MM)) if kind.is_processed else None
        mask_power = scan.mask_power if kind.is_processed else 0
        image = _changed(image, box, factor, mask_power, filter_mm)
        seen = appearance(on_slices, np.array([*SPACING_MM[:2], scan.slice_mm]), mask_power)
        middle = np.average(form.balls_mm, axis=0, weights=form.radii_mm**3)
        if kind.is_compact:
            taken.append((middle, seen.diameter_mm / 2))
        if kind.is_lesion:
            centers.append(middle)
            diameters.append(seen.diameter_mm)
            counts.append(seen.contrast >= VISIBLE_CONTRAST and VISIBLE_MM <= seen.diameter_mm <= LARGEST_MM)
    return image, Lesions(np.reshape(centers, (-1, 3)), np.array(diameters, float), np.array(counts, bool))


def _is_near(form: Form, taken: list[tuple[npt.NDArray[np.float64], float]]) -> bool:
    """Whether a form would touch, or lie close to, one of the balls (center, radius) that are there."""
    for center_mm, radius_mm in taken:
        distance_mm = np.linalg.norm(form.balls_mm - center_mm, axis=1)
        if distance_mm.min() < APART_MM or (distance_mm - form.radii_mm).min() < radius_mm + CLEAR_MM:
            return True
    return False


def _is_dark(swi: Array, center_mm: npt.NDArray[np.float64]) -> bool:
    """Whether the middle of the signal around a place is that of a vessel or of air."""
    low = np.maximum(np.floor((center_mm - DARK_MM) / SPACING_MM).astype(int), 0)
    high = np.ceil((center_mm + DARK_MM) / SPACING_MM).astype(int) + 1
    return bool(np.median(swi[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]) < DARK)


def factor_on_crop(
    source: Form, shape: tuple[int, ...], scan: Scan, first_slice_mm: float = 0.0
) -> tuple[Box, torch.Tensor, torch.Tensor] | None:
    """Effect of a source on the voxels of a crop, by way of the scan's slices as a rendered lesion has gone.

    In plane, ringing and interpolation are left out; the phase mask comes after the interpolation, not before.

    Parameters
    ----------
    first_slice_mm : float
        Where one of the scan's slices has its center, along S from the center of the crop's voxel 0.

    Returns
    -------
    (box, factor, on_slices) or None
        Box of the crop, the complex factor on its voxels, and that on the slices around it (R, A, slices) at 0.5 mm in
        plane, from which the truth of a rendered lesion is measured too; None off the crop.
    """
    r, a, s = shape
    # Fine voxels outside the crop, so that a source at its face is averaged and measured whole.
    aside = math.ceil((LARGEST_MM + scan.acquired_mm) / 2 / FINE_MM[0])
    beyond = 2 * math.ceil(1.5 * scan.slice_mm)
    origin = -FINE_MM * [aside, aside, beyond + 0.5]
    fine_shape = (r + 2 * aside, a + 2 * aside, 2 * s + 2 * beyond)
    found = source.factor(origin, FINE_MM, fine_shape, scan.rad_per_ppm, scan.b0_direction)
    if found is None:
        return None
    (rows, columns, depth), fine = found
    fine_mm = origin[2] + FINE_MM[2] * np.arange(depth.start, depth.stop)
    first = math.floor((fine_mm[0] - first_slice_mm) / scan.slice_mm)
    slices_mm = first_slice_mm + scan.slice_mm * np.arange(first, first + len(fine_mm) * FINE_MM[2] / scan.slice_mm + 2)
    share = shared_mm(slices_mm[:, None] - fine_mm, scan.slice_mm, FINE_MM[2]) / scan.slice_mm
    change = (fine - 1) @ torch.from_numpy(share.T).to(fine)
    start, stop = max(math.ceil(slices_mm[0]), 0), min(math.floor(slices_mm[-1]) + 1, s)
    inside = [slice(max(edge.start - aside, 0), min(edge.stop - aside, n)) for edge, n in ((rows, r), (columns, a))]
    if stop <= start or any(part.stop <= part.start for part in inside):
        return None
    kept = [slice(part.start + aside - edge.start, part.stop + aside - edge.start)
            for part, edge in zip(inside, (rows, columns), strict=True)]  # fmt: skip
    acquired = 1 + _acquired(change, scan.acquired_mm)[kept[0], kept[1]]
    weights = torch.from_numpy(interpolation(slices_mm[:, None] - np.arange(start, stop), scan.slice_mm)).to(fine)
    # The preprocessing interpolates the SWI, and the phase through the unit circle.
    amplitude = (acquired.abs().to(fine) @ weights).real
    angle = ((acquired / acquired.abs().clamp(min=1e-6)) @ weights).angle()
    return (inside[0], inside[1], slice(start, stop)), torch.polar(amplitude, angle), 1 + change


def _acquired(change: torch.Tensor, acquired_mm: float) -> torch.Tensor:
    """Mean in plane over the voxel that was acquired, around each of 0.5 mm; beyond the box nothing changes."""
    width_mm = max(acquired_mm, FINE_MM[0])
    reach = math.ceil((width_mm / FINE_MM[0] - 1) / 2)
    weights = shared_mm(np.arange(-reach, reach + 1) * FINE_MM[0], width_mm, FINE_MM[0]) / width_mm
    kernel = torch.from_numpy(weights).to(change.real)
    parts = torch.stack([change.real, change.imag])[:, None]
    parts = functional.conv3d(parts, kernel.view(1, 1, -1, 1, 1), padding=(reach, 0, 0))
    parts = functional.conv3d(parts, kernel.view(1, 1, 1, -1, 1), padding=(0, reach, 0))[:, 0]
    return torch.complex(parts[0], parts[1])


def _changed(image: Array, box: Box, factor: torch.Tensor, mask_power: int, filter_mm: float | None) -> Array:
    """Crop after a factor: signal lost and masked, phase filtered, added and wrapped; outside the brain stays 0."""
    part = (slice(None), *box)
    swi, phase = torch.from_numpy(np.ascontiguousarray(image[part]))
    before_rad = phase * torch.pi
    shift_rad = factor.angle() if filter_mm is None else homodyne(factor, filter_mm, SPACING_MM[:2])
    after_rad = torch.remainder(before_rad + shift_rad + torch.pi, 2 * torch.pi) - torch.pi
    new_swi = (swi + 1) * factor.abs() * mask_change(before_rad, after_rad, mask_power) - 1
    changed = image.copy()
    changed[part] = (torch.stack([new_swi, after_rad / torch.pi]).clamp(-1, 1) * (swi != 0)).numpy()
    return changed
