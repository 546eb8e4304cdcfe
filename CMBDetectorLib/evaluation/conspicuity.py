"""How far a true lesion stands out from what lies around it in a scan: whether it can be seen at all.

The simulator measures each lesion by itself; among veins, in a sulcus or beside bone it may not be told from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import median_abs_deviation

from CMBDetectorLib.preprocessing import brain_share
from CMBDetectorLib.volume import Volume

MIDDLE = 0.5  # of the lesion's radius, that its darkness is told by
RIM_MM = 0.5  # between the lesion and its surroundings: blurred by both
AROUND_MM = 3.0  # beyond the rim
LEAST_VOXELS = 20  # of surroundings, to tell how much they vary


def conspicuities(swi: Volume, true: Volume, lesions: list[dict[str, Any]]) -> tuple[float, ...]:
    """Conspicuity of the lesions of a truth, in its order.

    Parameters
    ----------
    swi : Volume
    true : Volume
        True MARS labels on its grid.
    lesions : list of dict
        With ``center_ras_mm`` and ``diameter_mm``.
    """
    scan, labels = swi.in_ras_order(), true.in_ras_order()
    inside = brain_share(labels.with_array(labels.array > 0)) > 0.5
    return tuple(conspicuity(scan, inside, lesion["center_ras_mm"], lesion["diameter_mm"]) for lesion in lesions)


def conspicuity(scan: Volume, inside: npt.NDArray[np.bool_], center_ras_mm: npt.ArrayLike, diameter_mm: float) -> float:
    """Darkness of a lesion's middle below its surroundings, in their own (robust) standard deviations.

    The surroundings are the tissue, veins and fluid from 0.5 to 3.5 mm off the lesion. NaN where the scan and the brain
    hold fewer than `LEAST_VOXELS` voxels of them, or none of the lesion.

    Parameters
    ----------
    scan : Volume
        In R, A, S order.
    inside : ndarray
        Brain with its fluid, on the grid of `scan`.
    center_ras_mm : array_like, shape (3,)
    diameter_mm : float
        Apparent diameter.
    """
    spacing, radius = scan.spacing_mm, diameter_mm / 2
    center = scan.ijk_of(np.asarray(center_ras_mm, float))
    reach = (radius + RIM_MM + AROUND_MM) / spacing
    low = np.maximum(np.floor(center - reach).astype(int), 0)
    high = np.minimum(np.ceil(center + reach).astype(int) + 1, scan.array.shape)
    if (high <= low).any():
        return float("nan")
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = [(np.arange(a, b) - c) * step for a, b, c, step in zip(low, high, center, spacing, strict=True)]
    r, a, s = np.meshgrid(*axes, indexing="ij")
    distance = np.sqrt(r**2 + a**2 + s**2)
    values = scan.array[box].astype(float)
    around = values[(distance > radius + RIM_MM) & (distance <= radius + RIM_MM + AROUND_MM) & inside[box]]
    if around.size < LEAST_VOXELS or distance.min() > max(radius, float(spacing.max())):
        return float("nan")
    middle = values[distance <= max(MIDDLE * radius, float(distance.min()))].mean()
    deviation = max(float(median_abs_deviation(around, scale="normal")), 1e-6 * abs(float(np.median(around))), 1e-12)
    return float(np.median(around) - middle) / deviation
