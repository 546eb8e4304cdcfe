"""How well a scan shows where tissue ends: how far fluid differs from the tissue beside it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.stats import median_abs_deviation

from CMBDetectorLib.preprocessing import COARSE_SPACING_MM, closed, local_mean, on_grid
from CMBDetectorLib.regions import SUB_REGIONS, Region
from CMBDetectorLib.volume import Volume

LOBAR = [sub.label for sub in SUB_REGIONS if sub.region is Region.LOBAR]
GAP_MM = 10.0  # fluid lies between tissue that is closer than this
NEAR_MM = 6.0  # tissue beside fluid lies this close to it
PURE = 0.9  # share of a voxel of 2 mm


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
