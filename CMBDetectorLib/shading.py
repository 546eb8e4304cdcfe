"""Coil shading: measured over the brain, and taken out where it is stronger than what the networks were trained on."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from CMBDetectorLib.resampling import apply, as_stored, maps, on_grid
from CMBDetectorLib.volume import Volume

FIT_SPACING_MM = (4.0, 4.0, 4.0)  # shading is smooth
LEAST_VOXELS = 500  # of brain, 32 ml: from fewer nothing is told
STRONG = 1.8  # times as bright here as there in the brain; of the scans that were trained on none has more than 1.65
SPREAD = 0.05  # of tissue's own brightness; voxels far off it, such as veins and fluid, weigh little


def without_shading(swi: Volume, brain: Volume) -> Volume:
    """SWI divided by its shading, or as it is where that is weak.

    The shading is the exponential of a quadratic in R, A and S, fitted to the logarithm of brightness.

    Parameters
    ----------
    swi : Volume
        Susceptibility-weighted image, any positive scale.
    brain : Volume
        bool: brain tissue, or the brain; on any grid whose axes are parallel to those of `swi`.

    Returns
    -------
    Volume
        On the grid of `swi`. Beyond the brain the shading goes on no further than it goes in it.
    """
    ordered, inside = swi.in_ras_order(), brain.in_ras_order()
    coarse = on_grid(ordered, FIT_SPACING_MM)
    to_coarse = maps(inside.ijk_to_ras, inside.array.shape, coarse.ijk_to_ras, coarse.array.shape)
    fitted = (apply(to_coarse, inside.array) > 0.5) & (coarse.array > 0)
    if fitted.sum() < LEAST_VOXELS:
        return swi
    shading = log_shading(coarse.array, fitted)
    if np.ptp(np.percentile(shading[fitted], [2, 98])) < np.log(STRONG):
        return swi
    to_scan = maps(coarse.ijk_to_ras, shading.shape, ordered.ijk_to_ras, ordered.array.shape)
    return swi.with_array(as_stored(ordered.array / np.exp(apply(to_scan, shading)), swi).array)


def log_shading(array: npt.NDArray, fitted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Logarithm of the shading of an array, 0 in the middle of the voxels it is fitted to, and held beyond their range.

    >>> r = np.linspace(-1, 1, 12)[:, None, None] + np.zeros((12, 12, 12))
    >>> found = log_shading(np.exp(0.7 * r), np.ones(r.shape, bool))
    >>> bool(np.allclose(found, 0.7 * r, atol=1e-3))
    True
    """
    first, last = np.array([[edge.min(), edge.max()] for edge in np.nonzero(fitted)]).T
    axes = [
        np.clip(2 * (np.arange(n) - a) / max(b - a, 1) - 1, -1, 1)
        for n, a, b in zip(array.shape, first, last, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    terms = [np.ones(array.shape)]
    for degree in (1, 2):
        terms += [places[..., list(term)].prod(axis=-1) for term in combinations_with_replacement(range(3), degree)]
    basis = np.stack(terms, axis=-1)
    seen, values = basis[fitted], np.log(array[fitted].astype(float))
    start = np.linalg.lstsq(seen, values, rcond=None)[0]
    fit = least_squares(lambda b: seen @ b - values, start, lambda b: seen, loss="cauchy", f_scale=SPREAD)
    in_range = seen @ fit.x
    whole = np.clip(basis @ fit.x, in_range.min(), in_range.max()) - np.median(in_range)
    return whole.astype(np.float32)
