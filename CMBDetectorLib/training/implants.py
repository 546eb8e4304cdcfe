"""Microbleeds and calcifications put into training crops on the fly, so that no two steps show the same lesions.

The physics is that of `CMBDetectorLib.simulation`: the complex factor of a compact source, averaged over the voxel that
was acquired, multiplies the magnitude and adds to the phase. Ours; the paper has real lesions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional

from CMBDetectorLib.networks.anchors import SPACING_MM
from CMBDetectorLib.simulation.acquisition import homodyne, phase_mask
from CMBDetectorLib.simulation.case import LARGEST_MM, VISIBLE_CONTRAST, VISIBLE_MM, appearance
from CMBDetectorLib.simulation.sources import Source, irregular, microbleed
from CMBDetectorLib.training.targets import Lesions

Array = npt.NDArray[np.float32]

FINE_MM = np.array([0.5, 0.5, 0.5])  # half of the crop's voxel through the slice
UPRIGHT = (0.0, 0.0, 1.0)  # of B0; slices are oblique by a few degrees at most
APART_MM = 6.0  # centers, from each other and from lesions that are there
FILTER_MM = (2.0, 7.0)  # resolution of the vendor's low-pass, which nobody tells
BRIGHTEST = 2.0  # the vendor's mask is not known: lifting it must not make a vein shine


@dataclass(frozen=True)
class Scan:
    """What the physics needs to know of the scan behind a crop: phase per ppm, and the acquired voxel, mm."""

    rad_per_ppm: float
    pixel_mm: float
    slice_mm: float


def implant(
    image: Array, tissue: npt.NDArray[np.bool_], lesions: Lesions, scan: Scan, count: int, rng: np.random.Generator,
    *, calcified: bool = False,
) -> tuple[Array, Lesions]:  # fmt: skip
    """Put random sources into a crop.

    Parameters
    ----------
    image : ndarray, shape (2, R, A, S)
        SWI and phase as the detector reads them (`CMBDetectorLib.preprocessing.detector_input`).
    tissue : ndarray of bool, shape (R, A, S)
        Brain tissue; sources have their centers there.
    lesions : Lesions
        Those in and near the crop.
    count : int
        How many sources; fewer where there is no room.
    calcified : bool
        Put calcifications in, which are no lesions.

    Returns
    -------
    image : ndarray
    lesions : Lesions
        With the new microbleeds; those too faint to see do not count.
    """
    places = np.argwhere(tissue)
    centers, diameters, counts = list(lesions.center_mm), list(lesions.diameter_mm), list(lesions.counts)
    for _ in range(count if len(places) else 0):
        center = (places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 3)) * SPACING_MM
        if any(np.linalg.norm(center - other) < APART_MM for other in centers):
            continue
        source = calcification(center, rng) if calcified else microbleed(center, 0, rng)
        found = factor_on_crop(source, image.shape[1:], scan)
        if found is None:
            continue
        box, factor = found
        image = _changed(image, box, factor, float(rng.uniform(*FILTER_MM)))
        if calcified:
            continue
        first_mm = np.array([part.start for part in box]) * SPACING_MM
        seen = appearance(factor, source, first_mm, np.array(SPACING_MM))
        centers.append(source.center_mm)
        diameters.append(seen.diameter_mm)
        counts.append(seen.contrast >= VISIBLE_CONTRAST and VISIBLE_MM <= seen.diameter_mm <= LARGEST_MM)
    return image, Lesions(np.reshape(centers, (-1, 3)), np.array(diameters, float), np.array(counts, bool))


def calcification(center_mm: npt.NDArray[np.float64], rng: np.random.Generator) -> Source:
    """One calcification of random size and susceptibility at a place."""
    chi, inside = -float(rng.uniform(0.7, 3.0)), float(rng.uniform(0.1, 0.6))
    return irregular("calcification", center_mm, float(rng.uniform(0.8, 4.0)), chi, inside, rng, 0)


def factor_on_crop(
    source: Source, shape: tuple[int, ...], scan: Scan
) -> tuple[tuple[slice, slice, slice], torch.Tensor] | None:
    """Complex factor of a source on the voxels of a crop, and the box that it covers; None off the crop.

    Every voxel holds the mean over the acquired voxel around it.
    """
    r, a, s = shape
    origin = np.array([0.0, 0.0, -0.5 * FINE_MM[2]])
    found = source.factor(origin, FINE_MM, (r, a, 2 * s), scan.rad_per_ppm, UPRIGHT)
    if found is None:
        return None
    (rows, columns, depth), fine = found
    before, after = depth.start % 2, -depth.stop % 2  # filled up to whole voxels with 1, where the source does nothing
    fine = functional.pad(fine, (before, after), value=1)
    factor = fine.unflatten(2, (-1, 2)).mean(dim=3)
    parts = torch.stack([factor.real, factor.imag])
    window = [max(1, round(mm / step)) for mm, step in zip((scan.pixel_mm,) * 2, SPACING_MM, strict=False)]
    window.append(max(1, round(scan.slice_mm / SPACING_MM[2])))
    # Padded by the edge, which is 1; an even window is half a voxel off, less than the lesion's own irregularity.
    padding = [n for size in reversed(window) for n in ((size - 1) // 2, size // 2)]
    parts = functional.avg_pool3d(functional.pad(parts[None], padding, mode="replicate"), window, stride=1)[0]
    return (rows, columns, slice(depth.start // 2, (depth.stop + 1) // 2)), torch.complex(parts[0], parts[1])


def _changed(image: Array, box: tuple[slice, slice, slice], factor: torch.Tensor, filter_mm: float) -> Array:
    """Crop after a factor: signal lost and masked, phase added and wrapped; outside the brain stays 0."""
    part = (slice(None), *box)
    swi, phase = torch.from_numpy(np.ascontiguousarray(image[part]))
    brain = swi != 0
    before_rad = phase * torch.pi
    shift_rad = homodyne(factor, filter_mm, SPACING_MM[:2])
    after_rad = torch.remainder(before_rad + shift_rad + torch.pi, 2 * torch.pi) - torch.pi
    mask = (phase_mask(after_rad) / phase_mask(before_rad).clamp(min=1e-3)) ** 4
    swi = (swi + 1) * factor.abs() * mask.clamp(max=BRIGHTEST) - 1
    changed = image.copy()
    changed[part] = (torch.stack([swi, after_rad / torch.pi]).clamp(-1, 1) * brain).numpy()
    return changed
