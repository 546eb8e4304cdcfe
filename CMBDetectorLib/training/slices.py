"""The slices of a scan in a training crop, and the crop as thicker ones would show it: few scans, many thicknesses.

A crop is blurred along S by its slices (a box of their thickness d, variance d^2 / 12) and by the interpolation between
them (a triangle, d^2 / 6), together d^2 / 4. Ours.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from CMBDetectorLib.networks.anchors import SPACING_MM

Array = npt.NDArray[np.float32]
Lengths = npt.NDArray[np.float64]

VOXEL_MM = SPACING_MM[2]


def shared_mm(distance_mm: Lengths, first_mm: float, second_mm: float) -> Lengths:
    """Length that two intervals of some lengths share whose centers lie some distance apart."""
    shared: Lengths = np.clip((first_mm + second_mm) / 2 - np.abs(distance_mm), 0, min(first_mm, second_mm))
    return shared


def interpolation(distance_mm: Lengths, slice_mm: float) -> Lengths:
    """Weights of slices (first axis) in places (second axis) so far from their centers; a place's sum is 1."""
    weights = np.maximum(0, 1 - np.abs(distance_mm) / slice_mm)
    normalized: Lengths = weights / weights.sum(axis=0)
    return normalized


def least_thicker_mm(slice_mm: float) -> float:
    """Thickness from which on slices can be imitated whose own scan has slices of `slice_mm`.

    Interpolated anew they are blurred by that, D^2 / 6 beside the scan's own d^2 / 4: for D^2 / 4 in all, D must leave
    room for one voxel to average over.
    """
    return math.sqrt(3 * slice_mm**2 + 2 * VOXEL_MM**2)


def with_thicker_slices(image: Array, own_mm: float, slice_mm: float, first_slice_mm: float) -> Array:
    """Average a crop so that it is as blurred along S as a scan with thicker slices, and steps from slice to slice.

    What thick slices do to the signal within them, dephasing, is left out, and noise becomes less.

    Parameters
    ----------
    image : ndarray, shape (2, R, A, S)
        SWI and phase as the detector reads them, 0 outside the brain, which stays 0 and enters no mean.
    own_mm : float
        Thickness of the scan's own slices.
    slice_mm : float
        Thickness to be shown, at least `least_thicker_mm`.
    first_slice_mm : float
        Where one of the new slices has its center, along S from the center of voxel 0.

    Returns
    -------
    ndarray, shape (2, R, A, S)
    """
    swi, phase = image
    voxels_mm = VOXEL_MM * np.arange(image.shape[3])
    first = math.floor((voxels_mm[0] - first_slice_mm) / slice_mm)
    last = math.ceil((voxels_mm[-1] - first_slice_mm) / slice_mm)
    distance_mm = first_slice_mm + slice_mm * np.arange(first, last + 1)[:, None] - voxels_mm
    window_mm = math.sqrt(max(slice_mm**2 - 3 * own_mm**2 - VOXEL_MM**2, VOXEL_MM**2))
    averaged = shared_mm(distance_mm, window_mm, VOXEL_MM).T.astype(np.float32)
    back = interpolation(distance_mm, slice_mm).astype(np.float32)
    brain = (swi != 0).astype(np.float32)
    share = brain @ averaged
    seen = (share > 0).astype(np.float32)  # slices that hold no brain here are not interpolated with
    total = np.maximum(seen @ back, 1e-6)
    # The phase through the unit circle: halfway between +pi and -pi lies pi, not 0.
    parts = (swi, np.cos(np.pi * phase), np.sin(np.pi * phase))
    means = ((brain * part) @ averaged / np.maximum(share, 1e-6) for part in parts)
    thick_swi, cosine, sine = (mean @ back / total for mean in means)
    return np.stack([thick_swi, np.arctan2(sine, cosine) / np.pi]).astype(np.float32) * brain
