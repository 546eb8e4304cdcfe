"""Where in the brain a place lies: in which MARS region, on which side, how far from the next; no network needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.candidate import Location
from CMBDetectorLib.regions import SUB_REGIONS, Region, Side
from CMBDetectorLib.volume import Volume

NEIGHBORHOOD_MM = 3.0  # smallest radius that votes
BOUNDARY_MM = 15.0  # how far another region is looked for
LEAST_TISSUE = 0.15  # share of the neighborhood; far below the rater's "at least half", for the segmentation's errors
MIDLINE_LABELS = (1, 2, 7)  # brainstem, cerebellum (vermis), corpus callosum cross the midline
MIDLINE_MM = 2.0
OUTSIDE = "outside brain tissue"

_REGIONS = list(Region)
_GROUP = np.array([-1] + [_REGIONS.index(sub.region) for sub in SUB_REGIONS])  # group number of each label


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The brain's regions.

    Attributes
    ----------
    regions : Volume
        uint8 MARS labels (0-13) on the grid of the SWI.
    brain : Volume
        bool, same grid: what is searched (`preprocessing.brain_mask`).
    left : Volume
        Probability of the patient's left side, at 1 x 1 x 2 mm.
    """

    regions: Volume
    brain: Volume
    left: Volume


def locate(center_ras_mm: npt.ArrayLike, diameter_mm: float, segmentation: Segmentation) -> tuple[Location | None, str]:
    """Anatomical place of a candidate, by vote of its neighborhood rather than of one voxel.

    Parameters
    ----------
    center_ras_mm : array_like, shape (3,)
        RAS, mm.
    diameter_mm : float
        Apparent diameter; the neighborhood is a ball of 0.75 diameters, at least 3 mm, in radius.
    segmentation : Segmentation

    Returns
    -------
    Location or None
        None when no region is near.
    str
        Why anatomy excludes it, or an empty string. Lenient: raters ask for half brain tissue around a microbleed
        (MARS), but segmentations are worst at the surface, and deleting true lesions there costs more than it saves.
    """
    radius_mm = max(NEIGHBORHOOD_MM, 0.75 * diameter_mm)
    labels, distance_mm = _ball(center_ras_mm, max(BOUNDARY_MM, radius_mm), segmentation.regions)
    near = distance_mm <= radius_mm
    tissue = labels > 0
    touching = tissue & near
    exclusion = OUTSIDE if touching.sum() < LEAST_TISSUE * near.sum() else ""
    if not touching.any():
        return None, OUTSIDE

    closeness = np.exp(-0.5 * (2 * distance_mm / radius_mm) ** 2)
    votes = np.bincount(labels[touching], weights=closeness[touching], minlength=len(_GROUP))
    groups = np.bincount(_GROUP[1:], weights=votes[1:], minlength=len(_REGIONS))
    group = int(groups.argmax())
    sub_region = int(np.where(group == _GROUP, votes, 0).argmax())
    others = np.where(tissue & (_GROUP[labels] != group), distance_mm, np.inf)
    nearest = int(others.argmin())
    is_near = bool(np.isfinite(others[nearest]))
    side, side_probability = _side(center_ras_mm, sub_region, segmentation.left)
    return (
        Location(
            sub_region=sub_region,
            side=side,
            probability=float(groups[group] / groups.sum()),
            boundary_mm=float(others[nearest]) if is_near else math.nan,
            next_region=_REGIONS[_GROUP[labels[nearest]]] if is_near else None,
            sub_region_probability=float(votes[sub_region] / votes.sum()),
            side_probability=side_probability,
        ),
        exclusion,
    )


def _side(center_ras_mm: npt.ArrayLike, sub_region: int, left: Volume) -> tuple[Side, float]:
    """Left or right, and how probable; midline (NaN) where an unpaired structure lies within 2 mm of the middle."""
    probability, distance_mm = _ball(center_ras_mm, NEIGHBORHOOD_MM, left, beyond=0.5)
    close = probability[distance_mm <= MIDLINE_MM]
    if sub_region in MIDLINE_LABELS and (close > 0.5).any() and (close < 0.5).any():
        return Side.MIDLINE, math.nan
    share = float(np.average(probability, weights=np.exp(-0.5 * (2 * distance_mm / NEIGHBORHOOD_MM) ** 2)))
    return (Side.LEFT, share) if share >= 0.5 else (Side.RIGHT, 1 - share)


def _ball(
    center_ras_mm: npt.ArrayLike, radius_mm: float, volume: Volume, beyond: float = 0
) -> tuple[npt.NDArray, npt.NDArray]:
    """Nearest voxel values on a 1 mm lattice in a ball, `beyond` off the image, and their distance from its center, mm.

    The lattice lies along the axes of the volume, so that a scan gives the same answer however it is turned.
    """
    offsets, distance_mm = _lattice(radius_mm)
    ijk = np.rint(volume.ijk_of(center_ras_mm) + offsets / volume.spacing_mm).astype(int)
    valid = ((ijk >= 0) & (ijk < volume.array.shape)).all(axis=1)
    values = np.full(len(ijk), beyond, volume.array.dtype)
    values[valid] = volume.array[tuple(ijk[valid].T)]
    return values, distance_mm


@lru_cache(maxsize=8)
def _lattice(radius_mm: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points 1 mm apart in a ball (N, 3) and their distance from its center (N,), mm."""
    axis = np.arange(-np.floor(radius_mm), np.floor(radius_mm) + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distance_mm = np.linalg.norm(offsets, axis=1)
    return offsets[distance_mm <= radius_mm], distance_mm[distance_mm <= radius_mm]
