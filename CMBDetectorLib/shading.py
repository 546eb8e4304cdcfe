"""Coil shading: measured over the brain, and taken out where it is stronger than what the networks were trained on."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.stats import median_abs_deviation

from CMBDetectorLib.resampling import apply, as_stored, maps, on_grid
from CMBDetectorLib.volume import Volume

FIT_SPACING_MM = (4.0, 4.0, 4.0)  # shading is smooth
LEAST_VOXELS = 500  # of brain, 32 ml: from fewer nothing is told
NO_SIGNAL = 0.1  # of the median brightness; less is air or bone that a mask reached over
SPREAD = 0.05  # of tissue's own brightness; voxels far off it, such as veins and fluid, weigh little
STRONG = 2.0  # times as bright here as there, 2nd to 98th percentile of the fit; simulated coils hardly reach it
EXPLAINED = 0.7  # shading leaves the brain at most this much of its spread; a large hemorrhage is no shading


def without_shading(swi: Volume, brain: Volume) -> Volume:
    """SWI divided by its shading, or the very same volume where that is weak or cannot be told.

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
        On the grid of `swi`. Beyond the brain the shading is never stronger than in it.
    """
    ordered, inside = swi.in_ras_order(), brain.in_ras_order()
    coarse = on_grid(ordered, FIT_SPACING_MM)
    to_coarse = maps(inside.ijk_to_ras, inside.array.shape, coarse.ijk_to_ras, coarse.array.shape)
    fitted = apply(to_coarse, inside.array) > 0.5
    if fitted.any():
        fitted &= coarse.array > NO_SIGNAL * max(float(np.median(coarse.array[fitted])), 0.0)
    if fitted.sum() < LEAST_VOXELS:
        return swi
    shading = log_shading(coarse.array, fitted)
    seen, fit = np.log(coarse.array[fitted]), shading[fitted]
    is_strong = np.ptp(np.percentile(fit, [2, 98])) >= np.log(STRONG)
    if not is_strong or median_abs_deviation(seen - fit) > EXPLAINED * median_abs_deviation(seen):
        return swi
    to_scan = maps(coarse.ijk_to_ras, shading.shape, ordered.ijk_to_ras, ordered.array.shape)
    factor = apply(to_scan, -shading)
    return swi.with_array(as_stored(np.multiply(ordered.array, np.exp(factor, out=factor), out=factor), swi).array)


def log_shading(array: npt.NDArray, fitted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Logarithm of the shading of an array: its median is 0 over the voxels that it is fitted to.

    >>> r = np.linspace(-1, 1, 12)[:, None, None] + np.zeros((12, 12, 12))
    >>> found = log_shading(np.exp(0.7 * r), np.ones(r.shape, bool))
    >>> bool(np.allclose(found, 0.7 * r, atol=1e-3))
    True
    """
    first, last = np.array([[edge.min(), edge.max()] for edge in np.nonzero(fitted)]).T
    axes = [2 * (np.arange(n) - a) / max(b - a, 1) - 1 for n, a, b in zip(array.shape, first, last, strict=True)]
    places = np.meshgrid(*axes, indexing="ij")
    terms = [np.ones(array.shape), *places]
    terms += [places[a] * places[b] for a, b in combinations_with_replacement(range(3), 2)]
    basis = np.stack(terms, axis=-1)
    seen, values = basis[fitted], np.log(array[fitted].astype(float))
    start = np.linalg.lstsq(seen, values, rcond=None)[0]
    fit = least_squares(lambda b: seen @ b - values, start, lambda b: seen, loss="cauchy", f_scale=SPREAD)
    in_range = seen @ fit.x
    whole = np.clip(basis @ fit.x, in_range.min(), in_range.max()) - np.median(in_range)
    return whole.astype(np.float32)
