"""The detector's input at several scales, and what a network answers to them brought back to one grid.

At the scale 0.8 a lesion of 5 mm looks like one of 4 mm. Which scales, and why, docs/method.md says; ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from CMBDetectorLib.resampling import apply, maps

SCALES = (1.0, 0.8, 0.65)


def scaled(array: Tensor, scale: float) -> Tensor:
    """Network input (3, R, A, S) shrunk to a scale of at most 1: SWI, phase and spacing averaged within the brain.

    Phase goes through the unit circle: halfway between +3 and -3 rad lies pi, not 0.
    """
    if scale == 1:
        return array
    inside = (array[0] != 0).float()
    angle = array[1] * torch.pi
    parts = torch.stack([inside, array[0], angle.sin(), angle.cos() * inside, *array[2:]])
    # By the scale itself, not by the ratio of lengths, which are whole numbers: `_voxels` says where voxels come from.
    share, swi, sine, cosine, *others = functional.interpolate(parts[None], scale_factor=scale, mode="trilinear")[0]
    phase = torch.atan2(sine, cosine) / torch.pi
    means = [swi / share.clamp(min=1e-3), phase, *(other / share.clamp(min=1e-3) for other in others)]
    return torch.stack(means) * (share > 0.5)


def at_full_size(answer: Tensor, scale: float, cells: Sequence[int]) -> Tensor:
    """Bring the answer to a scan at a scale to the cells of the scan as it is.

    Parameters
    ----------
    answer : Tensor, shape (N, C, r, a, s)
        Of every cell log odds and, where C is 5, a box: offset along R, A, S in anchor diameters, log(diameter /
        anchor), as `networks.anchors.decode` reads them.
    scale : float
    cells : sequence of int
        How many cells the answer to the scan as it is has along R, A and S.

    Returns
    -------
    Tensor, shape (N, C, *cells)
        Log odds between cells are interpolated; boxes are those of the full size.
    """
    if scale == 1:
        return answer
    shape = tuple(answer.shape[-3:])
    full = torch.from_numpy(apply(maps(_voxels(scale), shape, np.eye(4), tuple(cells)), answer))
    full[:, 1:4] /= scale  # interpolating from cell to cell leaves offsets to the cell that is asked about
    full[:, 4:] -= math.log(scale)
    return full


def _voxels(scale: float) -> npt.NDArray[np.float64]:
    """Index of a voxel (or cell) at a scale to that of the full size, both grids beginning at the same corner."""
    matrix = np.diag([1 / scale, 1 / scale, 1 / scale, 1])
    matrix[:3, 3] = (1 / scale - 1) / 2
    return matrix
