"""MARS regions of a whole scan, by the segmenter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from CMBDetectorLib.edges import draw_edges
from CMBDetectorLib.islands import without_islands, without_specks
from CMBDetectorLib.localize import Segmentation
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.segmenter import CLASSES, MULTIPLE
from CMBDetectorLib.preprocessing import NetworkInput, brain_mask, segmenter_input
from CMBDetectorLib.regions import SUB_REGIONS, Region
from CMBDetectorLib.resampling import Maps, apply, as_stored, maps
from CMBDetectorLib.shading import without_shading
from CMBDetectorLib.volume import Volume

Progress = Callable[[str, float, str], None]

# What the network is unsure of it draws as tissue, and as deep: on the validation cases lobar volumes came out 12 % too
# large, deep ones 11 %. Weighed like this they are off by 5 and 1 % in the mean, which costs 0.003 and 0.007 of Dice.
NONE_WEIGHT, DEEP_WEIGHT = 2.0, 0.7
LEAST_SHARE = 1 / CLASSES  # of the most probable class
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
    box, ijk_to_ras = _around_tissue(probability[0], seen.ijk_to_ras, swi.in_ras_order().spacing_mm)
    probability = weighed(draw_edges(probability[:, box[0], box[1], box[2]], seen.array[0][box]))
    progress("localize", 0.6, "Drawing the regions")
    regions = _on_scan(without_islands(probability, voxel_ml=0.002), ijk_to_ras, swi, progress)
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


def _around_tissue(
    none: npt.NDArray[np.float32], ijk_to_ras: npt.NDArray[np.float64], scan_mm: npt.NDArray[np.float64]
) -> tuple[tuple[slice, slice, slice], npt.NDArray[np.float64]]:
    """Box of all that the scan's voxels (R, A, S, mm) read around places that may be tissue, and its ijk_to_ras.

    `none` is the share of no tissue.
    """
    possible = none < 1 - LEAST_SHARE
    margin = np.ceil(np.maximum(scan_mm / np.linalg.norm(ijk_to_ras[:3, :3], axis=0), 1) - 1e-6).astype(int)
    spans = [np.flatnonzero(np.any(possible, axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(spans[0]):
        return (slice(None), slice(None), slice(None)), ijk_to_ras
    r, a, s = (slice(max(int(e[0]) - m, 0), int(e[-1]) + 1 + m) for e, m in zip(spans, margin, strict=True))
    moved = ijk_to_ras.copy()
    moved[:3, 3] += moved[:3, :3] @ [r.start, a.start, s.start]
    return (r, a, s), moved


def weighed(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Class probabilities (14, R, A, S) with more of "none" and less of deep regions; their sum stays 1."""
    weights = np.ones((CLASSES, 1, 1, 1), np.float32)
    weights[0] = NONE_WEIGHT
    weights[[sub.label for sub in SUB_REGIONS if sub.region is Region.DEEP]] = DEEP_WEIGHT
    shares: npt.NDArray[np.float32] = weights * probability
    shares /= shares.sum(axis=0)
    return shares


def _on_scan(
    probability: npt.NDArray[np.float32], ijk_to_ras: npt.NDArray[np.float64], swi: Volume, progress: Progress
) -> Volume:
    """Label map on the scan's grid: probabilities interpolated first, so that edges are smooth, decided after."""
    ordered = swi.in_ras_order()
    labels = np.zeros(ordered.array.shape, np.uint8)
    to_scan = maps(ijk_to_ras, probability.shape[1:], ordered.ijk_to_ras, labels.shape)
    corners = [np.array([-1, -1, -1]), np.array(probability.shape[1:])]
    ends = np.stack([(np.linalg.inv(ordered.ijk_to_ras) @ ijk_to_ras @ [*c, 1])[:3] for c in corners])
    low = np.clip(np.ceil(ends[0]), 0, labels.shape).astype(int)
    high = np.clip(np.floor(ends[1]) + 1, 0, labels.shape).astype(int)
    within = (to_scan[0][low[0] : high[0]], to_scan[1][low[1] : high[1]], to_scan[2])
    most_probable = _MostProbable(probability, within)
    for k in range(low[2], high[2], SLICES_AT_ONCE):
        stop = min(k + SLICES_AT_ONCE, high[2])
        progress("localize", 0.6 + 0.4 * (k - low[2]) / (high[2] - low[2]), "Drawing the regions")
        labels[low[0] : high[0], low[1] : high[1], k:stop] = most_probable.in_slices(slice(k, stop))
    drawn = tuple(slice(max(a - 1, 0), b + 1) for a, b in zip(low, high, strict=True))
    labels[drawn] = without_specks(labels[drawn], float(np.prod(ordered.spacing_mm)) / 1000)
    return as_stored(labels, swi)


class _MostProbable:
    """Most probable class in every voxel of a scan, some slices at a time.

    A class is interpolated only in the box around shares that may win (`LEAST_SHARE`).

    Parameters
    ----------
    probability : ndarray, shape (14, R, A, S)
        On the network's grid.
    to_scan : Maps
        From there to the scan, or to a part of its rows and columns.
    """

    def __init__(self, probability: npt.NDArray[np.float32], to_scan: Maps) -> None:
        self.probability, self.to_scan = probability, to_scan
        possible = probability > LEAST_SHARE
        self.rows, self.columns = np.any(possible, axis=2), np.any(possible, axis=1)  # (14, R, S) and (14, A, S)
        self.read = [_read(weights.numpy()) for weights in to_scan]

    def in_slices(self, of_scan: slice) -> npt.NDArray[np.uint8]:
        """Labels (R, A, S) of some slices of the scan."""
        lowest, highest_slice = (ends[of_scan] for ends in self.read[2])
        slices = slice(int(lowest.min()), int(highest_slice.max()) + 1)
        shape = len(self.to_scan[0]), len(self.to_scan[1]), len(lowest)
        labels, highest = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
        for label, share in enumerate(self.probability[..., slices]):
            drawn_to, read = [], []
            for possible, (first, last) in zip((self.rows, self.columns), self.read[:2], strict=True):
                places = np.flatnonzero(possible[label, :, slices].any(axis=1))
                if not len(places):
                    break
                start, stop = np.searchsorted(last, places[0]), np.searchsorted(first, places[-1], side="right")
                if start >= stop:
                    break
                drawn_to.append(slice(int(start), int(stop)))
                read.append(slice(int(first[start]), int(last[stop - 1]) + 1))
            else:
                cut = (self.to_scan[0][drawn_to[0], read[0]], self.to_scan[1][drawn_to[1], read[1]],
                       self.to_scan[2][of_scan, slices])  # fmt: skip
                drawn, before = apply(cut, share[read[0], read[1]]), highest[drawn_to[0], drawn_to[1]]
                labels[drawn_to[0], drawn_to[1]][drawn > before] = label
                np.maximum(before, drawn, out=before)
        return labels


def _read(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """First and last place of the network's grid that each of the scan's reads, along one axis; both rise."""
    used = weights > 0
    return used.argmax(axis=1), used.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
