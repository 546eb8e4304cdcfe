"""How well a scan shows where tissue ends: how far fluid differs from tissue, and what brightness can tell at best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import median_abs_deviation

from CMBDetectorLib.preprocessing import COARSE_SPACING_MM, closed, depth_mm, local_mean
from CMBDetectorLib.regions import SUB_REGIONS, Region
from CMBDetectorLib.resampling import apply, crop, maps, on_grid
from CMBDetectorLib.volume import Volume

LOBAR = [sub.label for sub in SUB_REGIONS if sub.region is Region.LOBAR]
GAP_MM = 10.0  # fluid lies between tissue that is closer than this
NEAR_MM = 6.0  # tissue beside fluid lies this close to it
PURE = 0.9  # share of a voxel of 2 mm
OUTLINE_GAP_MM = 16.0  # sulci, fissures and ventricles narrower than this lie inside the brain's outline
DEPTHS_MM = (2.0, 4.0, 6.0, 10.0, 16.0, 24.0)  # below the outline, that an observer tells apart
AROUND_MM = 1.0  # of the surroundings whose brightness an observer sees beside a voxel's own
LEVELS = 24  # of brightness


def fluid_contrast(swi: Volume, true: Volume) -> float:
    """Median SWI of fluid less that of the lobes' tissue beside it, in standard deviations of that tissue.

    Measured at 2 mm, coil shading divided out; veins, iron and noise make up the deviation. Near 0 nobody can see where
    a sulcus begins. NaN where the scan shows too little of either.

    Parameters
    ----------
    swi : Volume
    true : Volume
        True MARS labels on its grid; fluid is what lies between tissue without a label.
    """
    labels, scan = true.in_ras_order(), swi.in_ras_order()
    tissue = on_grid(labels.with_array((labels.array > 0).astype(np.float32)), COARSE_SPACING_MM).array
    lobes = on_grid(labels.with_array(np.isin(labels.array, LOBAR).astype(np.float32)), COARSE_SPACING_MM).array
    seen = on_grid(scan, COARSE_SPACING_MM).array
    fluid = closed(tissue > 0.5, GAP_MM) & (tissue < 1 - PURE)
    beside = (lobes > PURE) & (ndimage.distance_transform_edt(~fluid) * COARSE_SPACING_MM[0] <= NEAR_MM)
    if min(fluid.sum(), beside.sum()) < 50:
        return float("nan")
    flat = seen / local_mean(seen, tissue, COARSE_SPACING_MM)
    deviation = max(float(median_abs_deviation(flat[beside], scale="normal")), 1e-6)
    return float(np.median(flat[fluid]) - np.median(flat[beside])) / deviation


def dice_by_brightness(swi: Volume, true: Volume) -> float:
    """Dice of tissue of an observer who goes by brightness, at best: he knows the brain's outline and the shading.

    An observer is told the true outline of the brain, sulci closed, and the true tissue's shading, and sees of every
    voxel its brightness, that of its surroundings, and its depth below the outline. Of all that look alike he calls all
    tissue or none, whichever is better by the truth of this very scan. What he gets wrong, only a sense for shapes
    could tell. NaN without tissue.

    Parameters
    ----------
    swi : Volume
    true : Volume
        True MARS labels on its grid.
    """
    labels, scan = true.in_ras_order(), swi.in_ras_order()
    boxes = ndimage.find_objects((labels.array > 0).astype(np.uint8))
    if not boxes:
        return float("nan")
    labels, scan = crop(labels, boxes[0]), crop(scan, boxes[0])
    tissue = labels.array > 0
    share, seen = (on_grid(v, COARSE_SPACING_MM) for v in (labels.with_array(tissue.astype(np.float32)), scan))
    outline = closed(share.array > 0.5, OUTLINE_GAP_MM)
    shading = local_mean(seen.array, share.array, COARSE_SPACING_MM)
    to_scan = maps(share.ijk_to_ras, outline.shape, scan.ijk_to_ras, scan.array.shape)
    inside = (apply(to_scan, outline.astype(np.float32)) > 0.5) | tissue
    flat = scan.array / apply(to_scan, shading)
    around = ndimage.gaussian_filter(flat, AROUND_MM / scan.spacing_mm)
    shape = (len(DEPTHS_MM) + 1, LEVELS, LEVELS)
    depth = np.searchsorted(DEPTHS_MM, apply(to_scan, depth_mm(outline))[inside])
    look = np.ravel_multi_index((depth, _level(flat[inside]), _level(around[inside])), shape)
    return _best_dice(look, tissue[inside])


def _level(brightness: npt.NDArray) -> npt.NDArray[np.intp]:
    """Which of `LEVELS` levels, of as many voxels each, a brightness has."""
    return np.searchsorted(np.quantile(brightness, np.linspace(0, 1, LEVELS + 1)[1:-1]), brightness)


def _best_dice(look: npt.NDArray[np.intp], tissue: npt.NDArray[np.bool_]) -> float:
    """Highest Dice of any choice of looks: those with the largest shares of tissue, up to some share."""
    voxels = np.bincount(look)
    right = np.bincount(look, weights=tissue)
    order = np.argsort(-right / np.maximum(voxels, 1))
    return float((2 * np.cumsum(right[order]) / (np.cumsum(voxels[order]) + right.sum())).max())
