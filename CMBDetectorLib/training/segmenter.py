"""Training of the segmenter on simulated scans and on domain-randomized heads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from CMBDetectorLib.errors import InputError
from CMBDetectorLib.networks.segmenter import CLASSES, Segmenter
from CMBDetectorLib.preprocessing import segmenter_channels, segmenter_input
from CMBDetectorLib.training.config import Progress, SegmenterTraining
from CMBDetectorLib.training.data import case_name, heads_of_cases, in_cache, nearest_voxels, prepared_cases
from CMBDetectorLib.training.heads import UNKNOWN_SIDE, Array, Head, load_heads, random_sample, smooth_noise
from CMBDetectorLib.training.loop import fit
from CMBDetectorLib.training.losses import region_loss, side_loss
from CMBDetectorLib.training.split import heads_of
from CMBDetectorLib.volume import read_volume

MEAN = 3.0  # of a head's brightness, in its standard deviations, about: where air is in a z-score


@dataclass(frozen=True, eq=False)
class RenderedScan:
    """A simulated scan as the segmenter reads it, mapped from the cache.

    Attributes
    ----------
    channels : ndarray
        (4, R, A, S) float16 (`CMBDetectorLib.preprocessing.segmenter_channels`).
    label : ndarray
        (R, A, S) uint8, MARS.
    """

    channels: npt.NDArray[np.float16]
    label: npt.NDArray[np.uint8]


class SegmenterObjective(nn.Module):
    """The segmenter, answering a batch with its weighted losses."""

    def __init__(self, config: SegmenterTraining) -> None:
        super().__init__()
        self.network = Segmenter(config.coordinates)
        self.config = config

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Regions by cross-entropy and soft Dice, the side by binary cross-entropy in tissue whose side is known."""
        logits = self.network(batch["image"].contiguous(memory_format=torch.channels_last_3d)).float()
        label, left = batch["label"].long(), batch["left"]
        tissue = label * (left != UNKNOWN_SIDE)
        return {
            "region": region_loss(logits[:, :CLASSES], label, self.config.dice_weight),
            "side": self.config.side_weight * side_loss(logits[:, CLASSES], left == 1, tissue),
        }


def train_segmenter(config: SegmenterTraining, progress: Progress) -> Path:
    """Train, or go on training, and return the checkpoint (`export.export_model` makes a model of it).

    `InputError` where nothing teaches the side: only the images made of heads do, and a network to start from knows it.
    """
    if config.initial is None and (config.heads is None or config.rendered == 1):
        raise InputError(
            "The segmenter would not learn left and right: only images of 'heads' show them. Give 'heads' and a "
            "'rendered' below 1, or a network that knows them as 'initial'."
        )
    heads = []
    if config.heads is not None and config.rendered < 1:
        heads = load_heads(config.heads, config.split, config.atrophies)
    rendered = load_rendered(config, progress) if config.rendered > 0 or not heads else []
    cases = heads_of_cases(config) if rendered else {}
    seen = {*cases.values(), *(heads_of(config.split) if heads else ())}
    torch.manual_seed(config.seed)
    objective = SegmenterObjective(config)
    make_batch = partial(segmenter_batch, rendered, heads, config)
    return fit(objective, make_batch, config, progress, cases=[case_name(case) for case in cases], heads=sorted(seen))


def load_rendered(config: SegmenterTraining, progress: Progress) -> list[RenderedScan]:
    """Open simulated scans with their regions, from the cache or made now. Their side is not recorded."""
    return [
        RenderedScan(
            *(np.load(in_cache(config.cache, folder, end), mmap_mode="r") for end in ("_segmenter.npy", "_mars.npy"))
        )
        for folder in prepared_cases(config, "_mars.npy", _into_cache, progress)
    ]


def _into_cache(cache: Path, folder: Path) -> None:
    """Write what the segmenter reads of a case, and last its regions."""
    channels, label = segmenter_scan(folder)
    np.save(in_cache(cache, folder, "_segmenter.npy"), channels.astype(np.float16))
    part = in_cache(cache, folder, "_mars.part.npy")
    np.save(part, label)
    os.replace(part, in_cache(cache, folder, "_mars.npy"))


def segmenter_scan(folder: Path) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Give a simulated case as the segmenter reads it, and its regions on the same grid by the nearest voxel."""
    seen = segmenter_input(read_volume(folder / "swi.nii.gz"))
    mars = read_volume(folder / "mars.nii.gz").in_ras_order()
    return seen.array, mars.array[nearest_voxels(seen, mars)].astype(np.uint8)


def segmenter_batch(
    rendered: Sequence[RenderedScan], heads: Sequence[Head], config: SegmenterTraining, step: int
) -> dict[str, Tensor]:
    """Make the batch of one step: random windows of simulated scans and of domain-randomized heads.

    Where an image ends, the window goes on with zeros, as `CMBDetectorLib.segment.segment` does.

    Returns
    -------
    dict of Tensor
        ``image`` (B, 4, R, A, S), ``label`` and ``left`` (B, R, A, S) uint8.
    """
    rng = np.random.default_rng((config.seed, step))
    share = 1.0 if not heads else config.rendered if rendered else 0.0
    batch = []
    for _ in range(config.batch):
        if rng.random() < share:
            scan = rendered[int(rng.integers(len(rendered)))]
            part = _window(scan.label.shape, config.window, rng)
            image, label = vary_window(scan.channels[(slice(None), *part)].astype(np.float32), scan.label[part], rng)
            left = np.full_like(label, UNKNOWN_SIDE)
        else:
            # The field of view lacks up to 94 mm of slices.
            slices = config.patch[2] - 16 * int(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2]))
            shape = np.array((*config.patch[:2], max(slices, 16))) - rng.integers(0, (32, 32, 16))
            head = heads[int(rng.integers(len(heads)))]
            sample = random_sample(head, [int(n) for n in shape], rng, config.veined)
            part = _window(sample.label.shape, config.window, rng)
            image = segmenter_channels(sample.image)[(slice(None), *part)]
            label, left = sample.label[part], sample.left[part]
        padding = [(0, size - n) for size, n in zip(config.window, label.shape, strict=True)]
        batch.append((np.pad(image, [(0, 0), *padding]), np.pad(label, padding), np.pad(left, padding)))
    images, labels, lefts = (torch.from_numpy(np.stack(parts)) for parts in zip(*batch, strict=True))
    return {"image": images, "label": labels, "left": lefts}


def vary_window(
    channels: Array, label: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Random contrast, shading, blur and noise of a part of a scan, mirrored in half of the cases.

    The simulator has deformed the head already.
    """
    bright = np.maximum(channels[0] + MEAN, 0) / MEAN
    bright = bright ** rng.uniform(0.7, 1.4) * rng.uniform(0.9, 1.1)
    bright *= np.exp(rng.uniform(0, 0.25) * smooth_noise(1, label.shape, rng)[0])
    if rng.random() < 0.3:
        bright = ndimage.gaussian_filter(bright, rng.uniform(0.2, 0.8, 3))
    swi = MEAN * (bright - 1) + rng.uniform(0, 0.2) * rng.standard_normal(label.shape, np.float32)
    places = channels[1:] + rng.uniform(-0.05, 0.05, (3, 1, 1, 1)).astype(np.float32)  # 5 mm: where the middle is
    varied = np.concatenate((np.clip(swi, -3, 3)[None], places)).astype(np.float32)
    if rng.random() < 0.5:
        varied, label = np.flip(varied, 1).copy(), np.flip(label, 0).copy()
        varied[1] *= -1
    return varied, label


def _window(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
    """Random part of an image; one that is smaller than the window along an axis is taken whole there."""
    starts = [int(rng.integers(max(0, n - w) + 1)) for n, w in zip(shape, size, strict=True)]
    return tuple(slice(start, start + w) for start, w in zip(starts, size, strict=True))
