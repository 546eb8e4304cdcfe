"""Whether a candidate lies in fluid: veins cross the sulci, and the segmenter draws over the narrow ones.

Raters ask for brain tissue around at least half of a microbleed (MARS). Where a scan shows fluid plainly brighter or
darker than tissue, its own brightness answers that. Ours; the paper has no such step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.evidence import neighborhood
from CMBDetectorLib.localize import Segmentation
from CMBDetectorLib.preprocessing import COARSE_SPACING_MM, brain_box, local_mean
from CMBDetectorLib.resampling import crop, on_grid
from CMBDetectorLib.volume import Volume

IN_FLUID = "in fluid"  # reason for an exclusion
LEAST_CONTRAST = 0.08  # by which fluid differs from tissue, as a share of tissue; by less it is not told
LEAST_FLUID = 60  # voxels at 2 mm: 0.5 ml
PURE = 0.95  # share of a voxel at 2 mm that is, or is not, tissue
# What is looked at is a shell: within lie the candidate, its blooming and its edge, which are as bright as anything.
FIRST_DIAMETERS, FIRST_MM = 0.6, 1.5  # from the center; whichever is more
THICKNESS_MM = 1.0
LEAST_VOXELS = 12  # of the shell; coarse scans show too little of it
MOST_TISSUE = 0.7  # of the shell, by the segmenter: in tissue what is as bright as fluid is iron, edema or cortex
LIKENESS = 0.6, 2.0  # of fluid: 0 as tissue, 1 as fluid, 2 as far from fluid as tissue is
BLACK = 0.2  # of tissue, and darker: blooming, which dark fluid must not be taken for
MOST_FLUID = 0.5  # of the shell


@dataclass(frozen=True, eq=False)
class Brightness:
    """How bright a scan shows tissue and fluid.

    Attributes
    ----------
    tissue : Volume
        Mean of the tissue around, at 2 mm: it follows the shading of the coil.
    fluid : float
        As a share of that.
    """

    tissue: Volume
    fluid: float


def measure_brightness(swi: Volume, segmentation: Segmentation) -> Brightness | None:
    """Measure how bright tissue and fluid are; None where too little fluid is seen or it looks like tissue.

    Parameters
    ----------
    swi : Volume
        Susceptibility-weighted image, any positive scale.
    segmentation : Segmentation
        On its grid.
    """
    box = brain_box(segmentation.brain.in_ras_order())
    seen, tissue, brain = (
        on_grid(crop(volume, box), COARSE_SPACING_MM)
        for volume in (swi, _as_shares(segmentation.regions), _as_shares(segmentation.brain))
    )
    usual = local_mean(seen.array, tissue.array > PURE, COARSE_SPACING_MM)
    fluid = (brain.array > PURE) & (tissue.array < 1 - PURE)
    if fluid.sum() < LEAST_FLUID:
        return None
    ratio = float(np.median(seen.array[fluid] / usual[fluid]))
    return Brightness(seen.with_array(usual), ratio) if abs(ratio - 1) >= LEAST_CONTRAST else None


def _as_shares(labels: Volume) -> Volume:
    return labels.with_array((labels.array > 0).astype(np.float32))


def lies_in_fluid(
    center_ras_mm: npt.ArrayLike, diameter_mm: float, swi: Volume, segmentation: Segmentation, brightness: Brightness
) -> bool:
    """Whether more than half of the shell around a candidate is as bright as fluid.

    Nothing does where more than `MOST_TISSUE` of it is tissue by the segmenter.

    Parameters
    ----------
    center_ras_mm : array_like, shape (3,)
        RAS, mm.
    diameter_mm : float
        Apparent diameter.
    swi : Volume
    segmentation : Segmentation
        On its grid.
    brightness : Brightness
        Of the scan.
    """
    first_mm = max(FIRST_MM, FIRST_DIAMETERS * diameter_mm)
    values, offset_mm = neighborhood(center_ras_mm, first_mm + THICKNESS_MM, swi)
    labels, _ = neighborhood(center_ras_mm, first_mm + THICKNESS_MM, segmentation.regions)
    distance_mm = np.linalg.norm(offset_mm, axis=-1)
    shell = (distance_mm > first_mm) & (distance_mm < first_mm + THICKNESS_MM)
    if shell.sum() < LEAST_VOXELS or (labels[shell] > 0).mean() > MOST_TISSUE:
        return False
    nearest = np.rint(brightness.tissue.ijk_of(center_ras_mm)).astype(int)
    usual = brightness.tissue.array[tuple(nearest.clip(0, np.array(brightness.tissue.array.shape) - 1))]
    share = values[shell] / usual
    likeness = (share - 1) / (brightness.fluid - 1)
    return bool(((likeness > LIKENESS[0]) & (likeness < LIKENESS[1]) & (share > BLACK)).mean() > MOST_FLUID)
