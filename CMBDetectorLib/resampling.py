"""Other grids for a scan: parts of it, and finer or coarser ones with the same axes.

Every grid keeps the scan's own axes, permuted and flipped to the order R, A, S and never rotated. Two such grids differ
per axis by a scale and a shift only, so resampling is one small matrix per axis.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from CMBDetectorLib.volume import Volume, closest_axes

Array = npt.NDArray[np.float32]
Maps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def as_stored(array: npt.NDArray, scan: Volume) -> Volume:
    """Array in R, A, S order put back into the order in which a scan is stored: undoes `Volume.in_ras_order`."""
    axes = closest_axes(scan.ijk_to_ras[:3, :3] / scan.spacing_mm)
    flipped = tuple(axis for axis in range(3) if scan.ijk_to_ras[axis, axes[axis]] < 0)
    return scan.with_array(np.ascontiguousarray(np.transpose(np.flip(array, flipped), np.argsort(axes))))


def crop(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """Part of a volume inside a box of its R, A, S ordered axes."""
    ordered = volume.in_ras_order()
    matrix = ordered.ijk_to_ras.copy()
    matrix[:3, 3] = ordered.ras_of([s.start or 0 for s in box])
    return Volume(ordered.array[box], matrix, volume.source)


def grid(
    volume: Volume, spacing_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    """Shape and ijk_to_ras of a grid with the volume's axes and first voxel, another spacing, and the same extent."""
    scale = np.asarray(spacing_mm) / volume.spacing_mm
    shape = np.ceil((np.array(volume.array.shape) - 1) / scale - 1e-6).astype(int) + 1
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, :3] *= scale
    return (int(shape[0]), int(shape[1]), int(shape[2])), matrix


def on_grid(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    """Volume resampled to another spacing along its own axes (`grid`)."""
    shape, matrix = grid(volume, spacing_mm)
    array = apply(maps(volume.ijk_to_ras, volume.array.shape, matrix, shape), volume.array)
    return Volume(array, matrix, volume.source)


def maps(
    source: npt.NDArray[np.float64],
    source_shape: tuple[int, ...],
    target: npt.NDArray[np.float64],
    target_shape: tuple[int, ...],
) -> Maps:
    """Three matrices (target length, source length) that resample between grids with parallel axes.

    Linear interpolation; where the target is coarser the triangle widens to the target's spacing, so nothing
    aliases. Beyond the source's edge its last value goes on.
    """
    between = np.linalg.inv(source) @ target
    return tuple(  # type: ignore[return-value]
        _axis_map(between[axis, 3] + between[axis, axis] * np.arange(target_shape[axis]), source_shape[axis])
        for axis in range(3)
    )


def _axis_map(positions: npt.NDArray[np.float64], length: int) -> torch.Tensor:
    """Weights (positions, length) of linear interpolation at fractional positions of one axis."""
    width = max(1.0, abs(positions[1] - positions[0])) if len(positions) > 1 else 1.0
    distance = np.abs(np.clip(positions, 0, length - 1)[:, None] - np.arange(length))
    weights = np.maximum(0, 1 - distance / width)
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def apply(axis_maps: Maps, array: npt.NDArray | torch.Tensor) -> Array:
    """Resample an array with `maps`; leading axes (channels) stay. Matrix products use every allowed core."""
    tensor = torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32))
    for axis in sorted(range(3), key=lambda a: axis_maps[a].shape[0] / axis_maps[a].shape[1]):  # coarsen first
        weights = axis_maps[axis]
        if weights.shape[0] == weights.shape[1] and weights.diagonal().min() == 1:
            continue
        if axis == 0:
            flat = tensor.flatten(-2)
            tensor = torch.matmul(weights, flat).unflatten(-1, tensor.shape[-2:])
        elif axis == 1:
            tensor = torch.matmul(tensor.mT, weights.T).mT  # one large product, also where the last axis is short
        else:
            tensor = torch.matmul(tensor, weights.T)
    return tensor.numpy()
