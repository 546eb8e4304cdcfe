"""The detector's grid and boxes: where its cells lie and what its numbers mean, in millimeters.

Coordinates here are millimeters from the center of input voxel 0 along R, A and S; the caller knows where that
voxel lies in the patient. The anchors (cubes of 2.5, 5 and 10 mm) are ours: the paper does not publish its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ANCHORS_MM: tuple[float, ...] = (2.5, 5.0, 10.0)
SPACING_MM: tuple[float, float, float] = (0.5, 0.5, 1.0)  # of the input voxels along R, A, S
STRIDE: tuple[int, int, int] = (4, 4, 2)  # input voxels per output cell: 2 mm along every axis
MULTIPLE: tuple[int, int, int] = (32, 32, 16)  # input sizes must be multiples of these

FloatArray = npt.NDArray[np.float64]


def cell_centers_mm(shape: tuple[int, int, int]) -> FloatArray:
    """Centers of the output cells, mm from the center of input voxel 0; (r, a, s) -> (r, a, s, 3).

    >>> cell_centers_mm((2, 1, 1))[1, 0, 0].tolist()  # voxel 4 c + 1.5 along R and A, 2 c + 0.5 along S
    [2.75, 0.75, 0.5]
    """
    return np.stack(np.meshgrid(*axes_mm(shape, STRIDE), indexing="ij"), axis=-1)


def axes_mm(shape: tuple[int, int, int], stride: tuple[int, int, int]) -> list[FloatArray]:
    """Centers of blocks of `stride` input voxels along R, A and S, mm from the center of input voxel 0."""
    return [
        (np.arange(blocks, dtype=np.float64) * voxels + (voxels - 1) / 2) * spacing
        for blocks, voxels, spacing in zip(shape, stride, SPACING_MM, strict=True)
    ]


def best_anchor(diameter_mm: float) -> int:
    """Index of the anchor whose size is closest to a diameter, as a ratio."""
    return int(np.argmin(np.abs(np.log(diameter_mm / np.asarray(ANCHORS_MM)))))


def encode(center_mm: npt.ArrayLike, diameter_mm: float, cell_mm: npt.ArrayLike, anchor: int) -> FloatArray:
    """Give what the network should answer for a lesion, in cells at `cell_mm` (..., 3); inverse of `decode`.

    Returns
    -------
    ndarray, shape (..., 4)
        Offset (dR, dA, dS) from the cell's center in anchor diameters, and log(diameter / anchor).
    """
    size_mm = ANCHORS_MM[anchor]
    offset = (np.asarray(center_mm, float) - np.asarray(cell_mm, float)) / size_mm
    scale = np.full((*offset.shape[:-1], 1), np.log(diameter_mm / size_mm))
    return np.concatenate((offset, scale), axis=-1)


def decode(logits: Tensor, boxes: Tensor, floor: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Boxes of one image whose probability is at least `floor`; not yet freed of duplicates.

    Parameters
    ----------
    logits : Tensor, shape (3, r, a, s) or (1, 3, r, a, s)
    boxes : Tensor, shape (3, 4, r, a, s) or (1, 3, 4, r, a, s)
        The detector's answer; any device and floating type.
    floor : float
        Lowest probability to keep, 0-1.

    Returns
    -------
    probability : ndarray, shape (N,)
    center_mm : ndarray, shape (N, 3)
        From the center of input voxel 0 along R, A, S.
    diameter_mm : ndarray, shape (N,)
    """
    logits = logits.detach().squeeze(0) if logits.dim() == 5 else logits.detach()
    boxes = boxes.detach().squeeze(0) if boxes.dim() == 6 else boxes.detach()
    probability = torch.sigmoid(logits.float())
    anchor, r, a, s = torch.nonzero(probability >= floor, as_tuple=True)
    kept = boxes[anchor, :, r, a, s].double().cpu().numpy()
    size_mm = np.asarray(ANCHORS_MM)[anchor.cpu().numpy()]
    cell = torch.stack((r, a, s), dim=-1).cpu().numpy()
    cell_mm = (cell * STRIDE + (np.asarray(STRIDE) - 1) / 2) * SPACING_MM
    return (
        probability[anchor, r, a, s].double().cpu().numpy(),
        cell_mm + kept[:, :3] * size_mm[:, None],
        # A lesion is at most a few anchors off; the clip keeps an untrained network's answer finite.
        size_mm * np.exp(np.clip(kept[:, 3], -2.0, 2.0)),
    )
