"""MARS regions of a whole scan, by the segmenter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from CMBDetectorLib.edges import draw_edges
from CMBDetectorLib.localize import Segmentation
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.segmenter import CLASSES, MULTIPLE
from CMBDetectorLib.preprocessing import NetworkInput, brain_mask, largest_component, segmenter_input
from CMBDetectorLib.resampling import Maps, apply, as_stored, maps
from CMBDetectorLib.shading import without_shading
from CMBDetectorLib.volume import Volume

Progress = Callable[[str, float, str], None]

ISLAND_ML = 0.3  # smaller detached pieces of a region are mistakes of the network
SLICES_AT_ONCE = 4  # 14 probabilities for every voxel of a scan do not fit into memory, of a few slices into the cache


def segment(model: Model, swi: Volume, progress: Progress) -> Segmentation:
    """Name the region of every voxel of a scan; of a strongly shaded one once more, without its shading.

    Parameters
    ----------
    model : Model
        The segmenter.
    swi : Volume
        Susceptibility-weighted image, any positive scale.
    progress : callable
        Called as ``progress("localize", fraction, message)``; may raise `errors.Cancelled`.
    """
    progress("localize", 0.0, "Finding the brain's regions")
    seen, probability, left = _answer(model, swi)
    even = without_shading(swi, Volume(probability[0] < 0.5, seen.ijk_to_ras))
    if even is not swi:  # the detector's input is evened by itself, over the brain as drawn in the end
        progress("localize", 0.3, "Finding the brain's regions without the scan's shading")
        seen, probability, left = _answer(model, even)
    progress("localize", 0.5, "Drawing the regions")
    probability = draw_edges(probability, seen.array[0])
    progress("localize", 0.6, "Drawing the regions")
    regions = _on_scan(without_islands(probability, voxel_ml=0.002), seen.ijk_to_ras, swi, progress)
    return Segmentation(regions, brain_mask(regions, even), Volume(left, seen.ijk_to_ras, swi.source))


def _answer(model: Model, swi: Volume) -> tuple[NetworkInput, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What the segmenter sees of a scan, the probabilities of its classes (14, R, A, S), and that of the left side."""
    seen = segmenter_input(swi)
    shape = seen.array.shape[1:]
    padding = [(0, 0), *((0, -n % multiple) for n, multiple in zip(shape, MULTIPLE, strict=True))]
    x = torch.from_numpy(np.pad(seen.array, padding))[None]
    with torch.inference_mode():
        logits = model.module(x.to(model.device, model.dtype, memory_format=torch.channels_last_3d))
        logits = logits[0, :, : shape[0], : shape[1], : shape[2]].float().cpu()
        return seen, torch.softmax(logits[:CLASSES], dim=0).numpy(), torch.sigmoid(logits[CLASSES]).numpy()


def without_islands(probability: npt.NDArray[np.float32], voxel_ml: float) -> npt.NDArray[np.float32]:
    """Class probabilities (14, R, A, S) after which no region has small detached pieces, nor the brain small holes.

    The brain is its largest connected piece. A small piece of a region, or a hole, goes to whichever class is next most
    probable in each of its voxels: a large microbleed is black, but no reason to call its place outside the brain.
    """
    probability = probability.copy()
    labels = torch.from_numpy(probability).max(dim=0).indices.numpy()
    tissue = labels > 0
    detached = tissue & ~largest_component(tissue)
    probability[1:, detached] = 0
    probability[0, detached] = 1
    labels[detached] = 0
    emptied = np.zeros(labels.shape, bool)
    for label, box in enumerate(ndimage.find_objects(labels + 1)):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == label)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        sizes[0] = 0
        small = (sizes * voxel_ml < ISLAND_ML) & (sizes < sizes.max())
        small[0] = False
        probability[(label, *box)][small[pieces]] = 0
        emptied[box] |= small[pieces]
    probability[:, emptied] /= np.maximum(probability[:, emptied].sum(axis=0), np.finfo(np.float32).tiny)
    return probability


def _on_scan(
    probability: npt.NDArray[np.float32], ijk_to_ras: npt.NDArray[np.float64], swi: Volume, progress: Progress
) -> Volume:
    """Label map on the scan's grid: probabilities interpolated first, so that edges are smooth, decided after."""
    ordered = swi.in_ras_order()
    labels = np.zeros(ordered.array.shape, np.uint8)
    box = ndimage.find_objects((probability[0] < 1).astype(np.uint8))
    if box and box[0] is not None:
        inner = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box[0])
        probability = probability[(slice(None), *inner)]
        source = ijk_to_ras.copy()
        source[:3, 3] += source[:3, :3] @ [s.start for s in inner]
        to_scan = maps(source, probability.shape[1:], ordered.ijk_to_ras, labels.shape)
        corners = [np.array([-1, -1, -1]), np.array(probability.shape[1:])]
        ends = np.stack([(np.linalg.inv(ordered.ijk_to_ras) @ source @ [*c, 1])[:3] for c in corners])
        low = np.clip(np.ceil(ends[0]), 0, labels.shape).astype(int)
        high = np.clip(np.floor(ends[1]) + 1, 0, labels.shape).astype(int)
        for k in range(low[2], high[2], SLICES_AT_ONCE):
            stop = min(k + SLICES_AT_ONCE, high[2])
            progress("localize", 0.6 + 0.4 * (k - low[2]) / (high[2] - low[2]), "Drawing the regions")
            part = (to_scan[0][low[0] : high[0]], to_scan[1][low[1] : high[1]], to_scan[2][k:stop])
            labels[low[0] : high[0], low[1] : high[1], k:stop] = _most_probable(probability, part)
    return as_stored(labels, swi)


def _most_probable(probability: npt.NDArray[np.float32], part: Maps) -> npt.NDArray[np.uint8]:
    """Most probable class in every voxel of a part of the scan.

    It has a share of one in 14 at least, so a class is interpolated only in the box around such shares.
    """
    highest = torch.zeros([len(weights) for weights in part])
    labels = torch.zeros(highest.shape, dtype=torch.uint8)
    slices = _span((part[2] > 0).any(dim=0))  # of the network that the scan's lie between
    for label, share in enumerate(torch.from_numpy(probability[..., slices])):
        possible = share > 1 / len(probability)
        if not possible.any():
            continue
        inside = [_span(possible.any(dim=2).any(dim=1)), _span(possible.any(dim=2).any(dim=0))]
        drawn_to = [_span((weights[:, box] > 0).any(dim=1)) for weights, box in zip(part[:2], inside, strict=True)]
        read = [_span((weights[box] > 0).any(dim=0)) for weights, box in zip(part[:2], drawn_to, strict=True)]
        cut = (part[0][drawn_to[0], read[0]], part[1][drawn_to[1], read[1]], part[2][:, slices])
        drawn = torch.from_numpy(apply(cut, share[read[0], read[1]]))
        before = highest[drawn_to[0], drawn_to[1]]
        labels[drawn_to[0], drawn_to[1]][drawn > before] = label
        torch.maximum(before, drawn, out=before)
    return labels.numpy()


def _span(flags: torch.Tensor) -> slice:
    """From the first to the last that is true; nothing when none is."""
    places = torch.nonzero(flags).flatten().tolist()
    return slice(places[0], places[-1] + 1) if places else slice(0, 0)
