"""Where tissue ends, by brightness: fluid is told from tissue in scans that show it brighter.

The segmenter knows about where sulci and ventricles lie, and draws them softly. In many scans fluid is plainly brighter
than tissue, by how much differs from scan to scan; then the scan itself tells where the edge is (Bayes' rule with the
segmenter's probability as the prior and the scan's own brightness of tissue and fluid). Where fluid is as bright as
tissue, or darker as veins are, nothing is changed. Ours; the paper has no such step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from CMBDetectorLib.preprocessing import SEGMENTER_SPACING_MM

Array = npt.NDArray[np.float32]

GAP_MM = 16.0  # what lies between tissue closer than this is fluid, as in ventricles and fissures
DEEP_MM = 6.0  # this far inside there are ventricles and wide fissures, and neither skull nor its veins
FLUID = 0.2  # probability of tissue below which a deep place is fluid for sure
LEAST_VOXELS = 300  # of sure fluid
LEAST_CONTRAST = 1.0  # in standard deviations of tissue: fluid less bright than this above it is left alone
SHADING_MM = 10.0  # over which tissue's own brightness is averaged
MIXED = 0.15  # of the difference of fluid and tissue: how far voxels that hold both spread
OUTLIERS = 0.02  # share of voxels that are neither, such as veins and microbleeds; they keep their probability
ROUNDS = 2  # the brightness of tissue is measured anew once its edge is known better
NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


def draw_edges(probability: Array, bright: Array) -> Array:
    """Class probabilities after the scan's brightness has been heard.

    Parameters
    ----------
    probability : ndarray, shape (14, R, A, S)
        Of "none" and the 13 MARS regions, at `SEGMENTER_SPACING_MM`.
    bright : ndarray, shape (R, A, S)
        SWI on the same grid, on any linear scale.

    Returns
    -------
    ndarray
        Like `probability`; the regions of a voxel share its tissue as before.
    """
    tissue = 1 - probability[0]
    near = tissue > 0.5
    boxes = ndimage.find_objects(near.astype(np.uint8))
    if not boxes:
        return probability
    inside, depth_mm = _closed(near[boxes[0]])
    part = tissue[boxes[0]].clip(1e-3, 1 - 1e-3)
    fluid = ndimage.binary_opening((part < FLUID) & (depth_mm > DEEP_MM))
    if fluid.sum() < LEAST_VOXELS:
        return probability
    prior = np.log(part / (1 - part))
    shade = [SHADING_MM / mm for mm in SEGMENTER_SPACING_MM]
    for _ in range(ROUNDS):
        weight = np.where(inside & (part > 0.5), part, 0)
        usual = ndimage.gaussian_filter(weight, shade, truncate=2)
        usual = ndimage.gaussian_filter(weight * bright[boxes[0]], shade, truncate=2) / np.maximum(usual, 1e-3)
        over = bright[boxes[0]] - usual
        sure = over[inside & (part > 0.9)]
        middle = np.median(sure)
        deviation = max(NORMAL * float(np.median(np.abs(sure - middle))), 1e-6)
        contrast = float(np.median(over[fluid]) - middle)
        if contrast < LEAST_CONTRAST * deviation:
            return probability
        spread = np.hypot(deviation, MIXED * contrast)
        over = np.minimum(over - middle, contrast)  # brighter than fluid is fluid
        likely = (_likelihood(over - at, spread) for at in (0.0, contrast))
        part = 1 / (1 + np.exp(-prior - np.where(inside, np.subtract(*(np.log(each) for each in likely)), 0)))
    changed = probability.copy()
    share = part / np.maximum(tissue[boxes[0]], 1e-6)
    changed[(slice(1, None), *boxes[0])] *= share
    changed[(0, *boxes[0])] = 1 - changed[(slice(1, None), *boxes[0])].sum(axis=0)
    return changed


def _likelihood(distance: Array, spread: float) -> Array:
    """Of a brightness some distance from a class's own: normal, with a floor for what is neither tissue nor fluid."""
    normal: Array = (1 - OUTLIERS) * np.exp(-0.5 * (distance / spread) ** 2) + OUTLIERS / 5
    return normal


def _closed(tissue: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], Array]:
    """Tissue with its gaps closed, and how deep in it each voxel lies, mm."""
    voxels = [int(np.ceil(GAP_MM / mm)) for mm in SEGMENTER_SPACING_MM]
    padded = np.pad(tissue, [(n, n) for n in voxels])
    inner = tuple(slice(n, -n) for n in voxels)
    grown = ndimage.distance_transform_edt(~padded, sampling=SEGMENTER_SPACING_MM) <= GAP_MM / 2
    depth = ndimage.distance_transform_edt(ndimage.binary_fill_holes(grown), sampling=SEGMENTER_SPACING_MM)
    depth_mm = (depth - GAP_MM / 2)[inner].astype(np.float32)
    return depth_mm > 0, depth_mm
