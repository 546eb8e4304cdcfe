"""Where tissue ends, by brightness: fluid is told from tissue in scans that show it brighter or darker.

The segmenter knows about where sulci and ventricles lie, and draws them softly. In most scans fluid is plainly brighter
or darker than tissue, by how much differs from scan to scan; then the scan itself tells where the edge is (Bayes' rule
with the segmenter's probability as the prior and the scan's own brightness of tissue and fluid). The less they differ,
the less is changed. The log odds are smoothed a little in the end, so that the noise of single voxels leaves no specks.
Ours; the paper has no such step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import expit
from scipy.stats import median_abs_deviation

from CMBDetectorLib.preprocessing import COARSE_SPACING_MM, closed, depth_mm

Array = npt.NDArray[np.float32]

GAP_MM = 16.0  # what lies between tissue closer than this is fluid, as in ventricles and fissures
DEEP_MM = 6.0  # this far inside there are ventricles and wide fissures, and neither skull nor its veins
FLUID = 0.2  # probability of tissue below which a deep place is fluid for sure
SURE = 0.9  # probability of tissue from which on a place is tissue for sure
LEAST_VOXELS = 300  # of sure fluid, and of sure tissue
SHADING_MM = 10.0  # over which tissue's own brightness is averaged
MIXED = 0.15  # of the difference of fluid and tissue: how far voxels that hold both spread
FAR = 3.0  # standard deviations below tissue from which on a voxel is a vein or a hemorrhage
OUTLIERS = 0.05  # share of voxels that are neither, such as veins and microbleeds; bounds what brightness can say
# Basal ganglia, thalamus: iron may make them as dark as fluid, so darkness says nothing there. So it may the nuclei of
# brainstem and cerebellum, whose labels are wider: to leave these out cost more than it saved.
IRON = 3, 4
SMOOTHED_MM = 0.6  # standard deviation: noise of single voxels makes no specks and no jagged outlines


def draw_edges(probability: Array, bright: Array) -> Array:
    """Class probabilities after the scan's brightness has been heard.

    Parameters
    ----------
    probability : ndarray, shape (14, R, A, S)
        Of "none" and the 13 MARS regions, at 1 x 1 x 2 mm.
    bright : ndarray, shape (R, A, S)
        SWI on the same grid, on any linear scale.

    Returns
    -------
    ndarray
        Like `probability`; the regions of a voxel share its tissue as before. `probability` itself where the network is
        sure of too little fluid, as in narrow ventricles, or of too little tissue.
    """
    tissue = 1 - probability[0]
    near = tissue > 0.5
    boxes = ndimage.find_objects(near.astype(np.uint8))
    if not boxes:
        return probability
    inner = closed(near[boxes[0]][::2, ::2], GAP_MM)
    inside, deep = (_at_1_mm(mask, near[boxes[0]].shape) for mask in (inner, depth_mm(inner) > DEEP_MM))
    part = tissue[boxes[0]].clip(1e-3, 1 - 1e-3)
    fluid = ndimage.binary_opening((part < FLUID) & deep)
    prior = np.log(part / (1 - part))
    over = bright[boxes[0]].astype(np.float32)
    sure = inside & (part > SURE)
    if min(sure.sum(), fluid.sum()) < LEAST_VOXELS:
        return probability
    # What is far darker than tissue, such as a large hemorrhage, must not make the tissue around it look bright.
    middle, deviation = _center(over[sure])
    weight = np.where(inside & (part > 0.5) & (over > middle - FAR * deviation), part, np.float32(0))
    over -= middle
    over -= _smooth(weight * over) / np.maximum(_smooth(weight), 1e-3)
    middle, deviation = _center(over[sure])
    contrast = float(np.median(over[fluid])) - middle
    spread = float(np.hypot(deviation, MIXED * contrast))
    over -= middle
    # Brighter than bright fluid is fluid; far darker than dark fluid may be a vein or a microbleed, and says nothing.
    seen = np.minimum(over, contrast) if contrast > 0 else over
    likelier = np.log(_likelihood(seen, spread)) - np.log(_likelihood(seen - contrast, spread))
    if contrast < 0:
        iron = probability[(IRON, *boxes[0])].sum(axis=0) > part / 2
        likelier[iron & (likelier < 0)] = 0
    odds = prior + np.where(inside, likelier, np.float32(0))
    drawn = expit(ndimage.gaussian_filter(odds, [SMOOTHED_MM / mm for mm in (1, 1, 2)]))
    changed = probability.copy()
    changed[(slice(1, None), *boxes[0])] *= drawn / np.maximum(tissue[boxes[0]], 1e-6)
    changed[(0, *boxes[0])] = 1 - changed[(slice(1, None), *boxes[0])].sum(axis=0)
    return changed


def _center(values: Array) -> tuple[float, float]:
    """Median, and standard deviation by the median absolute deviation."""
    return float(np.median(values)), max(float(median_abs_deviation(values, scale="normal")), 1e-6)


def _smooth(array: Array) -> Array:
    """Average over `SHADING_MM`, at 2 mm: it changes slowly."""
    sigma = [SHADING_MM / mm for mm in COARSE_SPACING_MM]
    return _at_1_mm(ndimage.gaussian_filter(array[::2, ::2], sigma, truncate=2), array.shape)


def _at_1_mm(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Array at 2 mm on the grid at 1 mm in plane that it was taken from."""
    return array.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]


def _likelihood(distance: Array, spread: float) -> Array:
    """Of a brightness some distance from a class's own: normal, with a floor for what is neither tissue nor fluid."""
    normal: Array = (1 - OUTLIERS) * np.exp(-0.5 * (distance / spread) ** 2) + OUTLIERS / 5
    return normal
