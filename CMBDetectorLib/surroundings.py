"""Whether what surrounds a place looks like fluid: veins cross the sulci, and the segmenter draws over the narrow ones.

Raters ask for brain tissue around at least half of a microbleed (MARS). Where a scan shows fluid plainly brighter or
darker than tissue, its own brightness answers that, within half a millimeter. Ours; the paper has no such step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.localize import Segmentation
from CMBDetectorLib.preprocessing import COARSE_SPACING_MM, local_mean
from CMBDetectorLib.resampling import on_grid
from CMBDetectorLib.volume import Volume

IN_FLUID = "in fluid"
# The surroundings are a shell: what lies within may be the candidate, its blooming and the step of its edge.
FIRST_DIAMETERS, FIRST_MM = 0.6, 1.5  # from its center; whichever is more
THICKNESS_MM = 1.0
LEAST_CONTRAST = 0.08  # of fluid with tissue, of which tissue; fluid is not told by less
LEAST_VOXELS = 60  # at 2 mm, of fluid: 0.5 ml
PURE = 0.95  # share of a voxel at 2 mm
LIKENESS = 0.6, 2.0  # of fluid: 0 as tissue, 1 as fluid, 2 as far from fluid as tissue is
MOST_FLUID = 0.5
MOST_TISSUE = 0.9  # of the surroundings, by the segmenter: deep in tissue what looks like fluid is iron, edema, noise


@dataclass(frozen=True, eq=False)
class Brightness:
    """How bright tissue and fluid are in a scan.

    Attributes
    ----------
    tissue : Volume
        Mean of the tissue around, at 2 mm.
    fluid : float
        As a share of that.
    """

    tissue: Volume
    fluid: float


def brightness(swi: Volume, segmentation: Segmentation) -> Brightness | None:
    """Measure how bright tissue and fluid are; None where too little fluid is seen or it looks like tissue."""
    tissue, brain = (
        on_grid(mask.with_array(np.asarray(mask.array > 0, np.float32)), COARSE_SPACING_MM)
        for mask in (segmentation.regions, segmentation.brain)
    )
    seen = on_grid(swi, COARSE_SPACING_MM)
    usual = local_mean(seen.array, tissue.array > PURE, COARSE_SPACING_MM)
    fluid = (brain.array > PURE) & (tissue.array < 1 - PURE)
    if fluid.sum() < LEAST_VOXELS:
        return None
    ratio = float(np.median(seen.array[fluid] / usual[fluid]))
    return Brightness(seen.with_array(usual), ratio) if abs(ratio - 1) >= LEAST_CONTRAST else None


def in_fluid(
    center_ras_mm: npt.ArrayLike, diameter_mm: float, swi: Volume, segmentation: Segmentation, known: Brightness
) -> bool:
    """Whether more than half of a candidate's surroundings are as bright as fluid.

    Parameters
    ----------
    center_ras_mm : array_like, shape (3,)
        RAS, mm.
    diameter_mm : float
        Apparent diameter.
    swi : Volume
        As searched.
    segmentation : Segmentation
        On its grid.
    known : Brightness
        Of the scan.
    """
    first_mm = max(FIRST_MM, FIRST_DIAMETERS * diameter_mm)
    center = swi.ijk_of(center_ras_mm)
    reach = (first_mm + THICKNESS_MM) / swi.spacing_mm
    low = np.maximum(np.ceil(center - reach), 0).astype(int)
    high = np.minimum(np.floor(center + reach) + 1, swi.array.shape).astype(int)
    if (high <= low).any():
        return False
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    offsets = [(np.arange(a, b) - c) * mm for a, b, c, mm in zip(low, high, center, swi.spacing_mm, strict=True)]
    r, a, s = np.meshgrid(*offsets, indexing="ij")
    distance_mm = np.sqrt(r**2 + a**2 + s**2)
    shell = (distance_mm > first_mm) & (distance_mm < first_mm + THICKNESS_MM)
    if not shell.any() or (segmentation.regions.array[box][shell] > 0).mean() > MOST_TISSUE:
        return False
    nearest = np.rint(known.tissue.ijk_of(center_ras_mm)).astype(int).clip(0, np.array(known.tissue.array.shape) - 1)
    share = swi.array[box][shell] / known.tissue.array[tuple(nearest)]
    likeness = (share - 1) / (known.fluid - 1)
    return bool(((likeness > LIKENESS[0]) & (likeness < LIKENESS[1])).mean() > MOST_FLUID)
