"""Where the detector sees microbleeds: two looks at the brain, at once or tile by tile; one detection per lesion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from CMBDetectorLib.errors import DeviceMemoryError, is_want_of_device_memory
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.anchors import MULTIPLE, SPACING_MM, STRIDE, decode
from CMBDetectorLib.preprocessing import NetworkInput

Progress = Callable[[str, float, str], None]
Span = tuple[int, int]  # from, to (exclusive)
Boxes = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]

# In blocks of `MULTIPLE` voxels, 16 mm each: a tile shares one block with each neighbor.
HALO_BLOCKS = 1
# What a tile may read, tried in turn until it fits into memory. Almost every brain is one tile: the halo of two would
# cost a sixth of the time. The least is a cube of 80 mm.
TILE_BLOCKS = (1500, 400, 125)
MOST = 300  # candidates of a scan: nobody reads more, and a network may answer weakly in thousands of places
MOST_BOXES = 5000  # that are looked at: a network that was hardly trained answers weakly in 100,000 places
# The second look at a scan is smoothed by 0.5 mm (standard deviation) along R, A and S.
SMOOTHING: tuple[tuple[float, ...], ...] = ((1, 4, 6, 4, 1), (1, 4, 6, 4, 1), (1, 6, 1))
NEAREST_MM = 1.75  # two lesions whose centers lie closer than this cannot be told apart on a 2 mm grid


@dataclass(frozen=True)
class Detection:
    """One box of the detector.

    Attributes
    ----------
    center_ras_mm : tuple of float
        Center in patient coordinates (RAS), mm.
    diameter_mm : float
        Edge of the box, mm.
    probability : float
        Objectness, 0-1.
    """

    center_ras_mm: tuple[float, float, float]
    diameter_mm: float
    probability: float


@dataclass(frozen=True)
class Tile:
    """A part of the network input: the voxels that are read, and those inside whose answers are kept."""

    read: tuple[Span, Span, Span]
    kept: tuple[Span, Span, Span]


def detect(
    model: Model,
    network_input: NetworkInput,
    floor: float,
    progress: Progress,
    announce: Callable[[str], None] = lambda notice: None,
) -> list[Detection]:
    """Search a scan as it is and smoothed, in smaller parts where the device has too little memory.

    The network answers twice, and the mean of its log odds and boxes counts: noise and texture that make one answer
    too high or too low differ in the other (docs/method.md). Ours.

    Parameters
    ----------
    model : Model
        The detector.
    network_input : NetworkInput
        From `preprocessing.detector_input`: 0 outside the brain.
    floor : float
        Lowest probability to keep, 0-1.
    progress : callable
        Called as ``progress("detect", fraction, message)`` before every look at a tile; may raise `errors.Cancelled`.
    announce : callable
        Is told in a sentence when the parts had to be smaller than usual.

    Returns
    -------
    list of Detection
        By falling probability, one per lesion, the strongest 300 (`keep_strongest`).

    Raises
    ------
    DeviceMemoryError
        Not even the smallest parts fit.
    """
    array = torch.from_numpy(np.ascontiguousarray(network_input.array, dtype=np.float32))
    progress("detect", 0.0, "Smoothing the scan")
    both = looks(array)
    for largest in TILE_BLOCKS:
        try:
            boxes = _boxes(model, both, largest, floor, progress)
            break
        except RuntimeError as problem:
            if not is_want_of_device_memory(problem):
                raise
            progress("detect", 0.0, "Too little memory; searching in smaller parts")
    else:
        raise DeviceMemoryError("The memory of the GPU does not suffice. Choose the device 'cpu'.")
    if largest != TILE_BLOCKS[0]:
        announce("The memory of the GPU was scarce, so the brain was searched in smaller parts.")
    progress("detect", 1.0, "Searched the whole brain")
    if boxes is None:
        return []
    probability, center_mm, diameter_mm = boxes
    kept = keep_strongest(probability, center_mm, diameter_mm)
    matrix = network_input.ijk_to_ras
    center_ras_mm = (center_mm[kept] / SPACING_MM) @ matrix[:3, :3].T + matrix[:3, 3]
    return [
        Detection((float(r), float(a), float(s)), float(d), float(p))
        for (r, a, s), d, p in zip(center_ras_mm, diameter_mm[kept], probability[kept], strict=True)
    ]


def keep_strongest(
    probability: npt.NDArray[np.float64], center_mm: npt.NDArray[np.float64], diameter_mm: npt.NDArray[np.float64]
) -> npt.NDArray[np.intp]:
    """Non-maximum suppression by distance: indices of the boxes to keep, strongest first, at most `MOST`.

    A box goes when the ball in it touches the ball in a stronger one, or when their centers lie within 1.75 mm. The rim
    of a lesion is neither taught nor punished in training, so weak boxes beside a strong one mean the same lesion.
    Overlap (IoU), the usual measure, would keep them.
    """
    order = np.argsort(-probability, kind="stable")[:MOST_BOXES]
    kept: list[np.intp] = []
    while len(order) and len(kept) < MOST:
        strongest, order = order[0], order[1:]
        kept.append(strongest)
        distance_mm = np.linalg.norm(center_mm[order] - center_mm[strongest], axis=1)
        reach_mm = (diameter_mm[order] + diameter_mm[strongest]) / 2
        order = order[distance_mm > np.maximum(NEAREST_MM, reach_mm)]
    return np.array(kept, dtype=np.intp)


def tiles(shape: tuple[int, ...], largest: int = TILE_BLOCKS[0]) -> Iterator[Tile]:
    """Cut an input of (R, A, S) voxels into as few tiles of about equal size as may read `largest` blocks each.

    The kept parts cover everything once. Every tile starts at a multiple of `MULTIPLE`, so that the network's pooling
    falls on the same voxels in every tile; the last ones may reach beyond the input.
    """
    blocks = [-(-length // multiple) for length, multiple in zip(shape, MULTIPLE, strict=True)]
    counts = [1, 1, 1]
    while True:
        axes = [list(_spans(*axis)) for axis in zip(blocks, counts, MULTIPLE, strict=True)]
        longest = [
            max(stop - start for (start, stop), _ in spans) // m for spans, m in zip(axes, MULTIPLE, strict=True)
        ]
        if math.prod(longest) <= largest or counts == blocks:
            break
        axis = max((axis for axis in range(3) if counts[axis] < blocks[axis]), key=lambda axis: longest[axis])
        counts[axis] += 1
    for r, a, s in product(*axes):
        yield Tile((r[0], a[0], s[0]), (r[1], a[1], s[1]))


def _spans(blocks: int, count: int, multiple: int) -> Iterator[tuple[Span, Span]]:
    """(read, kept) voxels of at most `count` tiles along one axis."""
    size = -(-blocks // count)
    for start in range(0, blocks, size):
        stop = min(start + size, blocks)
        read = max(start - HALO_BLOCKS, 0) * multiple, min(stop + HALO_BLOCKS, blocks) * multiple
        yield read, (start * multiple, stop * multiple)


def _part(array: torch.Tensor, spans: tuple[Span, Span, Span]) -> torch.Tensor:
    return array[(slice(None), *(slice(*span) for span in spans))]


def looks(array: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Network input (3, R, A, S) as it is and smoothed: what `detect` shows to the network, one after the other."""
    return array, smoothed(array)


def smoothed(array: torch.Tensor) -> torch.Tensor:
    """Network input (3, R, A, S) whose SWI and phase are averaged with their neighbors in the brain (`SMOOTHING`).

    Phase is averaged as a number: where it wraps, it comes out between. The figures in docs/models.md are of that.
    """
    inside = array[0] != 0
    parts = torch.stack([array[0], array[1], inside.float()])
    for axis, weights in enumerate(SMOOTHING, start=1):
        total = parts * (max(weights) / sum(weights))
        for step in range(1, len(weights) // 2 + 1):
            share = weights[len(weights) // 2 + step] / sum(weights)
            length = parts.shape[axis] - step
            for here, there in ((0, step), (step, 0)):
                total.narrow(axis, here, length).add_(parts.narrow(axis, there, length), alpha=share)
        parts = total
    parts[:2].div_(parts[2].clamp(min=1e-3)).mul_(inside)
    return torch.cat([parts[:2], array[2:]])


def _boxes(model: Model, shown: Sequence[torch.Tensor], largest: int, floor: float, progress: Progress) -> Boxes | None:
    """Boxes of all tiles, duplicates included; None where no tile has any brain."""
    todo = [tile for tile in tiles(shown[0].shape[1:], largest) if _part(shown[0][:1], tile.kept).any()]
    found = []
    for done, tile in enumerate(todo):
        answers = []
        for n, look in enumerate(shown):
            progress("detect", (done + n / len(shown)) / len(todo), f"Searching part {done + 1} of {len(todo)}")
            answers.append(answer(model, look, tile))
        found.append(_decoded(answers, tile, floor))
    if not found:
        return None
    probability, center_mm, diameter_mm = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return probability, center_mm, diameter_mm


def answer(model: Model, array: torch.Tensor, tile: Tile) -> Any:
    """Give what the network answers to the voxels that a tile reads, zeros beyond the input (C, R, A, S)."""
    x = torch.zeros((1, len(array), *(stop - start for start, stop in tile.read)))
    part = _part(array, tile.read)
    x[0, :, : part.shape[1], : part.shape[2], : part.shape[3]] = part
    with torch.inference_mode():
        return model.module(x.to(model.device, model.dtype, memory_format=torch.channels_last_3d))


def _decoded(answers: Sequence[tuple[torch.Tensor, torch.Tensor]], tile: Tile, floor: float) -> Boxes:
    """Probability (N,), center (N, 3) in mm from the center of voxel 0, and diameter (N,) of the boxes in one tile."""
    logits, boxes = (torch.stack(each).float().mean(dim=0) for each in zip(*answers, strict=True))
    first = [kept[0] - read[0] for kept, read in zip(tile.kept, tile.read, strict=True)]
    last = [kept[1] - read[0] for kept, read in zip(tile.kept, tile.read, strict=True)]
    r, a, s = (slice(start // step, stop // step) for start, stop, step in zip(first, last, STRIDE, strict=True))
    probability, center_mm, diameter_mm = decode(logits[0, ..., r, a, s], boxes[0, ..., r, a, s], floor)
    corner_mm = np.array([span[0] for span in tile.kept]) * SPACING_MM
    return probability, center_mm + corner_mm, diameter_mm
