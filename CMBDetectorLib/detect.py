"""Where the detector sees microbleeds: the brain at three scales, at once or in tiles; one detection per lesion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from CMBDetectorLib.errors import DeviceMemoryError, is_want_of_device_memory
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.anchors import MULTIPLE, SPACING_MM, STRIDE, decode
from CMBDetectorLib.preprocessing import NetworkInput
from CMBDetectorLib.scales import SCALES, at_full_size, scaled

Progress = Callable[[str, float, str], None]
Span = tuple[int, int]  # from, to (exclusive)

# In blocks of `MULTIPLE` voxels, 16 mm each: a tile shares one block with each neighbor.
HALO_BLOCKS = 1
# What a tile may read, tried in turn until it fits into memory. Almost every brain is one tile: the halo of two would
# cost a sixth of the time. The least is a cube of 80 mm.
TILE_BLOCKS = (1500, 400, 125)
MOST = 300  # candidates of a scan: nobody reads more, and a network may answer weakly in thousands of places
MOST_BOXES = 5000  # that are looked at: a network that was hardly trained answers weakly in 100,000 places
NOTHING = -30.0  # log odds where nobody asked the network, and of anchors that do not count
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
    """Search a scan as it is and shrunk, in smaller parts where the device has too little memory.

    The network answers at every scale of `scales.SCALES`, and the mean of its log odds counts, each time of the best
    anchor: a speck that looks like a small lesion is none when the scan is shrunk (docs/method.md). Boxes are those of
    the scan as it is. Ours.

    Parameters
    ----------
    model : Model
        The detector.
    network_input : NetworkInput
        From `preprocessing.detector_input`: 0 outside the brain.
    floor : float
        Lowest probability to keep, 0-1.
    progress : callable
        Called as ``progress("detect", fraction, message)`` before every tile at every scale, and at the end; may raise
        `errors.Cancelled`.
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
    if not array[0].any():
        progress("detect", 1.0, "There is no brain to search")
        return []
    for largest in TILE_BLOCKS:
        try:
            log_odds, answer = search(model, array, STRIDE, largest, progress)
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
    # A shrunk lesion may suit a smaller anchor, so the log odds are of no single one; the box is of the best here.
    best = answer[:, 0].argmax(dim=0, keepdim=True)
    logits = torch.full_like(answer[:, 0], NOTHING).scatter_(0, best, log_odds[None])
    probability, center_mm, diameter_mm = decode(logits, answer[:, 1:], floor)
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


def search(
    model: Model,
    array: Tensor,
    stride: tuple[int, int, int],
    largest: int = TILE_BLOCKS[0],
    progress: Progress = lambda stage, fraction, message: None,
) -> tuple[Tensor, Tensor]:
    """Ask a network about its input at every scale.

    Parameters
    ----------
    model : Model
        Detector, or plain U-Net.
    array : Tensor, shape (3, R, A, S)
        Not empty: some voxel is brain.
    stride : tuple of int
        Voxels per cell of the answer along R, A and S.
    largest : int
        Blocks that a tile may read.
    progress : callable
        As for `detect`.

    Returns
    -------
    log_odds : Tensor, shape (r, a, s)
        Mean over the scales of every cell's log odds, those of its best anchor. A scale counts that shows some brain.
    answer : Tensor, shape (N, C, r, a, s)
        To the scan as it is: of N anchors the log odds and, where C is 5, the box.

    Raises
    ------
    RuntimeError
        As torch says it; `errors.is_want_of_device_memory` tells whether smaller tiles would help.
    """
    answers: list[Tensor] = []
    log_odds = []
    work = [scale**3 for scale in SCALES]
    for n, scale in enumerate(SCALES):
        at_scale = f"Searching at scale {n + 1} of {len(SCALES)}"
        progress("detect", sum(work[:n]) / sum(work), at_scale)
        shown = scaled(array, scale)
        # A tile with brain in its halo alone is asked, too, as its neighbor's answers are interpolated with it.
        todo = [tile for tile in tiles(shown.shape[1:], largest) if _part(shown[:1], tile.read).any()]
        if not todo:  # a speck that no voxel of this scale shows
            continue
        found = []
        for done, tile in enumerate(todo):
            if done:
                part = f"{at_scale}, part {done + 1} of {len(todo)}"
                progress("detect", (sum(work[:n]) + work[n] * done / len(todo)) / sum(work), part)
            found.append((tile, _kept_answer(model, shown, tile, stride)))
        answers.append(_joined(found, shown.shape[1:], stride))
        log_odds.append(at_full_size(answers[-1][:, 0].amax(dim=0), scale, tuple(answers[0].shape[2:])))
    return torch.stack(log_odds).mean(dim=0), answers[0]


def _part(array: Tensor, spans: tuple[Span, ...]) -> Tensor:
    r, a, s = (slice(*span) for span in spans)
    return array[..., r, a, s]


def _kept_answer(model: Model, array: Tensor, tile: Tile, stride: tuple[int, int, int]) -> Tensor:
    """What the network answers to a tile, (N, C, cells), without the halo; beyond the input it reads zeros."""
    x = torch.zeros((1, len(array), *(stop - start for start, stop in tile.read)))
    part = _part(array, tile.read)
    x[0, :, : part.shape[1], : part.shape[2], : part.shape[3]] = part
    with torch.inference_mode():
        answer = model.module(x.to(model.device, model.dtype, memory_format=torch.channels_last_3d))
    if isinstance(answer, Tensor):  # a mask: log odds alone
        joined = answer[None]
    else:
        logits, boxes = answer
        joined = torch.cat((logits[0][:, None], boxes[0]), dim=1)
    kept = ((start - read[0], stop - read[0]) for (start, stop), read in zip(tile.kept, tile.read, strict=True))
    return _part(joined, _in_cells(kept, stride)).float().cpu()


def _joined(found: list[tuple[Tile, Tensor]], shape: tuple[int, ...], stride: tuple[int, int, int]) -> Tensor:
    """Answers to the tiles put together, for the cells of the input alone; `NOTHING` where no tile has any brain."""
    blocks = (-(-n // multiple) * multiple // step for n, multiple, step in zip(shape, MULTIPLE, stride, strict=True))
    whole = torch.zeros((*found[0][1].shape[:2], *blocks))
    whole[:, 0] = NOTHING
    for tile, answer in found:
        _part(whole, _in_cells(tile.kept, stride)).copy_(answer)
    return _part(whole, tuple((0, -(-n // step)) for n, step in zip(shape, stride, strict=True)))


def _in_cells(spans: Iterable[Span], stride: tuple[int, int, int]) -> tuple[Span, Span, Span]:
    r, a, s = ((start // step, stop // step) for (start, stop), step in zip(spans, stride, strict=True))
    return r, a, s
