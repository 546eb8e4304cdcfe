"""The detector's input at several scales, and what a network answers to them brought back to one grid.

At the scale 0.8 a lesion of 5 mm looks like one of 4 mm. Which scales, and why, docs/method.md says; ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from CMBDetectorLib.resampling import apply, maps

SCALES = (1.0, 0.8, 0.65)


def scaled(array: Tensor, scale: float) -> Tensor:
    """Network input (3, R, A, S) shrunk to a scale of at most 1: SWI, phase and spacing interpolated within the brain.

    Phase goes through the unit circle: halfway between +3 and -3 rad lies pi, not 0.
    """
    if scale == 1:
        return array
    inside = (array[0] != 0).float()
    angle = array[1] * torch.pi
    parts = torch.stack([inside, array[0], angle.sin(), angle.cos() * inside, *array[2:]])
    # By the scale itself, as in `_to_full_size`, not by the ratio of lengths, which are whole numbers.
    share, swi, sine, cosine, *others = functional.interpolate(parts[None], scale_factor=scale, mode="trilinear")[0]
    phase = torch.atan2(sine, cosine) / torch.pi
    means = [swi / share.clamp(min=1e-3), phase, *(other / share.clamp(min=1e-3) for other in others)]
    return torch.stack(means) * (share > 0.5)


def at_full_size(log_odds: Tensor, scale: float, shape: tuple[int, ...]) -> Tensor:
    """Log odds (r, a, s) of a scan at a scale, interpolated at the cells, so many, of the scan as it is."""
    if scale == 1:
        return log_odds
    return torch.from_numpy(apply(maps(_to_full_size(scale), log_odds.shape, np.eye(4), shape), log_odds))


def _to_full_size(scale: float) -> npt.NDArray[np.float64]:
    """Index of a voxel or cell at a scale to that of the full size, both grids beginning at the same corner."""
    matrix = np.diag([1 / scale, 1 / scale, 1 / scale, 1])
    matrix[:3, 3] = (1 / scale - 1) / 2
    return matrix
