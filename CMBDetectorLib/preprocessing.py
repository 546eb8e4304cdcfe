"""From a scan to the arrays that the networks read; training, evaluation and inference all come through here.

Every grid has the scan's own axes in the order R, A, S, so one scan gives the same arrays however it was stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu

from CMBDetectorLib.resampling import apply, as_stored, crop, grid, maps, on_grid
from CMBDetectorLib.shading import without_shading
from CMBDetectorLib.volume import Volume

SEGMENTER_SPACING_MM = (1.0, 1.0, 2.0)
COARSE_SPACING_MM = (2.0, 2.0, 2.0)  # for what needs no fine edge
DETECTOR_SPACING_MM = (0.5, 0.5, 1.0)
TRAINED_SPACING_MM = 1.2, 4.2  # least and largest voxel size along S that the detector was trained on
BLACK = 0.35  # of the brightness of tissue: less is bone, air, vessel or lesion
# Between tissue closer than this the brain goes on: wide enough for a large black lesion beside a ventricle or fissure,
# which the segmenter takes for a part of it.
GAP_MM = 12.0
MARGIN_MM = 8.0  # around the box of brain or head: room for a lesion's dipole field at the surface
# Least brightness of a head, as shares of Otsu's threshold: coil shading makes its middle darker than its rim, air is
# darker still. Strong shading hides a side from the first, with which the segmenter was trained, not from the second.
HEAD, HEAD_AND_SHADE = 0.5, 0.1
GLARE = 2.0  # of the brightness of a head above air: what is brighter, such as fat near a coil, counts as no brighter
FLATTENING_SIGMA_MM = 12.0  # wider than the largest lesion (10 mm), narrower than a coil's shading

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """What a network reads, and where it lies.

    Attributes
    ----------
    array : ndarray
        (C, R, A, S) float32.
    ijk_to_ras : ndarray
        (4, 4) float64: voxel index along R, A, S to patient coordinates (RAS, mm).
    """

    array: Array
    ijk_to_ras: npt.NDArray[np.float64]


def segmenter_input(swi: Volume) -> NetworkInput:
    """SWI and coordinates at 1 x 1 x 2 mm, (4, R, A, S): all slices, little air beside the head."""
    seen = on_grid(swi.in_ras_order(), SEGMENTER_SPACING_MM)
    array_2mm = _in_pairs(seen.array)
    shaded_head = head_foreground(array_2mm, HEAD_AND_SHADE)
    channels = _channels(seen.array, array_2mm, shaded_head)
    # All slices stay: shading can make the lowest ones as dark as air.
    r, a = (_with_air(np.flatnonzero(shaded_head.any(axis=others))) for others in ((1, 2), (0, 2)))
    matrix = seen.ijk_to_ras.copy()
    matrix[:3, 3] = seen.ras_of((r.start, a.start, 0))
    return NetworkInput(np.ascontiguousarray(channels[:, r, a]), matrix)


def _with_air(pairs: npt.NDArray[np.int64]) -> slice:
    """From the pairs of voxels (2 mm) along one axis that hold head to those that the segmenter sees (1 mm)."""
    margin = round(MARGIN_MM / 2)
    return slice(2 * max(int(pairs[0]) - margin, 0), 2 * (int(pairs[-1]) + 1 + margin))


def segmenter_channels(array: Array) -> Array:
    """Four channels of the segmenter from an SWI array in R, A, S order at 1 x 1 x 2 mm.

    Returns
    -------
    ndarray
        (4, R, A, S) float32: SWI as z-score over the head, glare cut off, clipped to [-3, 3], and the R, A, S
        coordinates relative to the head's centroid, in units of 100 mm.
    """
    array_2mm = _in_pairs(array)
    return _channels(array, array_2mm, head_foreground(array_2mm, HEAD_AND_SHADE))


def _channels(array: Array, array_2mm: Array, shaded_head: npt.NDArray[np.bool_]) -> Array:
    """Channels of an array whose mean of two by two voxels, and in it the head with its shade, are known."""
    air = float(np.percentile(array_2mm, 1))
    above_air = array_2mm[shaded_head] - air
    tissue = float(np.median(above_air[above_air >= np.median(above_air) / 2]))  # bone left out
    most = air + GLARE * max(tissue, 0.0)
    array, array_2mm = np.minimum(array, most), np.minimum(array_2mm, most)
    head = head_foreground(array_2mm, HEAD)
    values = array_2mm[head]
    channels = np.empty((4, *array.shape), np.float32)
    channels[0] = np.clip((array - values.mean()) / max(float(values.std()), 1e-6), -3, 3)
    first_mm = np.array([0.5, 0.5, 0.0])  # center of the first pair from that of the first voxel
    for axis, (indices, step_mm) in enumerate(zip(np.nonzero(head), SEGMENTER_SPACING_MM, strict=True)):
        centroid_mm = first_mm[axis] + 2.0 * indices.mean()
        distance = (np.arange(array.shape[axis]) * step_mm - centroid_mm) / 100
        channels[1 + axis] = distance.reshape([-1 if other == axis else 1 for other in range(3)])
    return channels


def _in_pairs(array: Array) -> Array:
    """Array at 1 x 1 x 2 mm at 2 mm."""
    r, a, s = array.shape
    pairs = np.pad(array, ((0, r % 2), (0, a % 2), (0, 0)), mode="edge").reshape(-(-r // 2), 2, -(-a // 2), 2, s)
    mean: Array = pairs.mean(axis=(1, 3))
    return mean


def head_foreground(array_2mm: Array, least: float) -> npt.NDArray[np.bool_]:
    """Head (or what skull stripping left of it) in an array at 2 mm, holes filled; never empty.

    `least` is the brightness above that of air that counts as head, as a share of Otsu's threshold.
    """
    smooth = ndimage.gaussian_filter(np.minimum(array_2mm, np.percentile(array_2mm, 99)), 2.0)
    air = float(smooth.min())
    bright = smooth > air + least * (threshold_otsu(smooth) - air) if np.ptp(smooth) else np.ones(smooth.shape, bool)
    return ndimage.binary_fill_holes(largest_component(bright))


def largest_component(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Largest connected part of a mask."""
    labels, count = ndimage.label(mask)
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax() if count else mask


def brain_mask(mars: Volume, swi: Volume) -> Volume:
    """Find the brain to be searched: all labeled tissue, its sulci and ventricles, 2 mm around it, and no bone.

    What skull stripping cut off is not searched either.

    Parameters
    ----------
    mars : Volume
        MARS label map, 0 outside brain tissue.
    swi : Volume
        On the same grid. Where labels reach into black bone or air, the mask does not.

    Returns
    -------
    Volume
        bool, on the grid of `mars`. Gaps up to `GAP_MM` are closed. Works at 2 mm: the mask needs no finer edge.
    """
    ordered = mars.in_ras_order()
    coarse = on_grid(ordered.with_array((ordered.array > 0).astype(np.float32)), COARSE_SPACING_MM)
    tissue = coarse.array > 0.5
    if not tissue.any():
        return mars.with_array(np.zeros(mars.array.shape, bool))
    box = brain_box(coarse.with_array(tissue))
    searched = np.zeros_like(tissue)
    searched[box] = ndimage.binary_dilation(closed(tissue[box], GAP_MM))
    seen = swi.in_ras_order()
    bone = _bone(on_grid(seen, COARSE_SPACING_MM).array, tissue, searched)
    to_scan = maps(coarse.ijk_to_ras, searched.shape, ordered.ijk_to_ras, ordered.array.shape)
    fine = apply(to_scan, searched & ~bone) > 0.5
    return as_stored(fine & ~_cut_off(seen.array, fine), mars)


def closed(tissue_2mm: npt.NDArray[np.bool_], gap_mm: float) -> npt.NDArray[np.bool_]:
    """Tissue at 2 mm with its gaps up to `gap_mm` and its holes; Euclidean, so round corners stay round."""
    reach = gap_mm / 2 / COARSE_SPACING_MM[0]
    margin = int(np.ceil(2 * reach))
    near = _within(np.pad(tissue_2mm, margin), reach)
    filled = ndimage.binary_fill_holes(~_within(~near, reach))
    whole: npt.NDArray[np.bool_] = filled[margin:-margin, margin:-margin, margin:-margin]
    return whole


def _within(mask: npt.NDArray[np.bool_], reach: float) -> npt.NDArray[np.bool_]:
    """Voxels at most `reach` voxels from a mask. SimpleITK's distances take half the time of scipy's."""
    if mask.all() or not mask.any():  # without a border there are no distances
        return mask
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    squared = sitk.SignedMaurerDistanceMap(image, squaredDistance=True, useImageSpacing=False)
    near: npt.NDArray[np.bool_] = sitk.GetArrayViewFromImage(squared) <= reach**2
    return near


def brain_share(tissue: Volume, margin_mm: float = 0.0) -> Array:
    """Share of brain in every voxel of a map of its tissue: gaps up to `GAP_MM` closed, widened by a margin."""
    coarse = on_grid(tissue.with_array(tissue.array.astype(np.float32)), COARSE_SPACING_MM)
    brain = closed(coarse.array > 0.5, GAP_MM)
    if margin_mm:
        brain = _within(brain, margin_mm / COARSE_SPACING_MM[0])
    return apply(maps(coarse.ijk_to_ras, brain.shape, tissue.ijk_to_ras, tissue.array.shape), brain)


def depth_mm(inside_2mm: npt.NDArray[np.bool_]) -> Array:
    """How deep every voxel at 2 mm lies in a mask, mm; beyond the image there is none of it."""
    depth: Array = ndimage.distance_transform_edt(np.pad(inside_2mm, 1))[1:-1, 1:-1, 1:-1].astype(np.float32)
    return depth * np.float32(COARSE_SPACING_MM[0])


def _bone(swi_2mm: Array, tissue: npt.NDArray[np.bool_], searched: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Black bone and air around the brain: black, at least 6 mm thick, and reaching outside.

    A microbleed is smaller, and one within the brain does not reach outside.
    """
    black = swi_2mm < BLACK * float(np.median(swi_2mm[tissue]))
    thick = ndimage.binary_opening(black, np.ones((3, 3, 3)))
    parts, _ = ndimage.label(thick)
    outside = np.unique(parts[~searched])
    return np.isin(parts, outside[outside > 0])


def _cut_off(swi: Array, searched: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """What skull stripping cut off: no signal at all, and reaching out of what is searched.

    Pockets of it at the brain's surface would look like lesions, labeled or not: the segmenter fills them. A black
    lesion within does not reach outside; one at the surface that holds exactly 0 would, and is given up. What lies
    farther outside than one voxel is not marked.
    """
    cut_off = np.zeros(searched.shape, bool)
    boxes = ndimage.find_objects(searched.astype(np.uint8))
    if not boxes or boxes[0] is None:
        return cut_off
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in boxes[0])  # what reaches out of it is seen here
    parts, count = ndimage.label(_without_signal(swi[box]))
    outside = np.zeros(count + 1, bool)
    outside[parts[~searched[box]]] = True
    outside[0] = False
    cut_off[box] = outside[parts]
    return cut_off


def _without_signal(swi: npt.NDArray) -> npt.NDArray[np.bool_]:
    """Voxels that hold nothing: exactly 0, or less where interpolation went below or padding is negative."""
    return swi <= 0


def detector_input(swi: Volume, phase: Volume | None, brain: Volume) -> NetworkInput:
    """SWI, phase and spacing on the detector's grid, cropped to the brain, (3, R, A, S).

    Parameters
    ----------
    swi : Volume
        Susceptibility-weighted image, any positive scale.
    phase : Volume or None
        High-pass filtered phase on the grid of `swi`, rad, paramagnetic positive (`phase.prepare`).
    brain : Volume
        bool mask on the grid of `swi` (`brain_mask`).

    Returns
    -------
    NetworkInput
        Channel 0: SWI, without strong shading, over its local brain mean, minus 1. Channel 1: phase / pi, zeros without
        phase. Channel 2: `spacing_channel`. All are clipped to [-1, 1] and 0 outside the brain. 0.5 x 0.5 x 1.0 mm.
    """
    box = brain_box(brain.in_ras_order())
    brain, swi = crop(brain, box), crop(swi, box)
    swi = without_shading(swi, brain)
    inside = brain.array.astype(np.float32)
    shape, ijk_to_ras = grid(swi, DETECTOR_SPACING_MM)
    to_detector = maps(swi.ijk_to_ras, swi.array.shape, ijk_to_ras, shape)
    mask = torch.from_numpy(apply(to_detector, inside)) > 0.5

    coarse = [on_grid(v, COARSE_SPACING_MM) for v in (swi, swi.with_array(inside))]
    mean = local_mean(coarse[0].array, coarse[1].array, COARSE_SPACING_MM)
    to_fine = maps(coarse[0].ijk_to_ras, mean.shape, ijk_to_ras, shape)
    channels = torch.zeros((3, *shape))
    # What is outside the brain and without any signal has been cut off and does not darken its neighbors.
    signal = brain.array | ~_without_signal(swi.array)
    channels[0] = torch.from_numpy(apply(to_detector, np.where(signal, swi.array, 0)))
    channels[0] /= torch.from_numpy(apply(to_detector, signal.astype(np.float32))).clamp(min=0.1)
    channels[0] /= torch.from_numpy(apply(to_fine, mean))
    channels[0] -= 1
    if phase is not None:
        angle = torch.from_numpy(np.ascontiguousarray(crop(phase, box).array, dtype=np.float32))
        # Through the unit circle: halfway between +3 and -3 rad lies pi, not 0.
        sine, cosine = apply(to_detector, angle.sin()), apply(to_detector, angle.cos())
        channels[1] = torch.atan2(torch.from_numpy(sine), torch.from_numpy(cosine)) / torch.pi
    channels[2] = spacing_channel(float(swi.spacing_mm[2]))
    return NetworkInput((channels.clamp_(-1, 1) * mask).numpy(), ijk_to_ras)


def spacing_channel(spacing_s_mm: float) -> float:
    """What the detector reads of the scan's voxel size along S: 0 for 2 mm, 0.5 for 4 mm; ours.

    In thick slices a lesion is as long through the slices as a vein that runs across thin ones. Beyond what it was
    trained on, the detector is told the nearest that it knows. Slices that a scanner has interpolated pass for thin.
    """
    return float(np.log2(np.clip(spacing_s_mm, *TRAINED_SPACING_MM) / 2) / 2)


def local_mean(array: Array, weight: npt.NDArray, spacing_mm: tuple[float, float, float]) -> Array:
    """Weighted mean around every voxel (normalized convolution with a Gaussian of `FLATTENING_SIGMA_MM`); positive."""
    weight = weight.astype(np.float32)
    sigma = [FLATTENING_SIGMA_MM / s for s in spacing_mm]
    total = ndimage.gaussian_filter(array * weight, sigma, truncate=3)
    share = ndimage.gaussian_filter(weight, sigma, truncate=3)
    mean = np.where(share > 1e-3, total / np.maximum(share, 1e-3), 0)
    return np.maximum(mean, max(1e-3 * float(mean.max()), 1e-30)).astype(np.float32)


def brain_box(brain: Volume) -> tuple[slice, slice, slice]:
    """Bounding box of the brain with its margin; the whole scan when the mask is empty."""
    boxes = ndimage.find_objects(brain.array.astype(np.uint8))
    if not boxes or boxes[0] is None:
        return slice(None), slice(None), slice(None)
    margins = np.ceil(MARGIN_MM / brain.spacing_mm - 1e-3).astype(int)  # 8 mm are 4 voxels of 1.9999999 mm, too
    bounds = [slice(max(s.start - m, 0), s.stop + m) for s, m in zip(boxes[0], margins, strict=True)]
    return bounds[0], bounds[1], bounds[2]
