"""Training of the segmenter on simulated scans and on domain-randomized heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from CMBDetectorLib.networks.segmenter import CLASSES, MULTIPLE, Segmenter
from CMBDetectorLib.preprocessing import SEGMENTER_SPACING_MM, on_grid, segmenter_channels
from CMBDetectorLib.training.config import Progress, SegmenterTraining
from CMBDetectorLib.training.data import case_folders, is_fresh
from CMBDetectorLib.training.heads import UNKNOWN_SIDE, Head, Sample, load_heads, random_rendered, random_sample
from CMBDetectorLib.training.loop import fit
from CMBDetectorLib.training.losses import region_loss, side_loss
from CMBDetectorLib.volume import read_volume


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
            "region": region_loss(logits[:, :CLASSES], label),
            "side": self.config.side_weight * side_loss(logits[:, CLASSES], left == 1, tissue),
        }


def train_segmenter(config: SegmenterTraining, progress: Progress) -> Path:
    """Train, or go on training, and return the checkpoint (`export.export_model` makes a model of it)."""
    heads = load_heads(config.heads, config.split) if config.heads is not None else []
    rendered = load_rendered(config, progress) if config.rendered > 0 or not heads else []
    torch.manual_seed(config.seed)
    objective = SegmenterObjective(config)
    return fit(
        objective, lambda step: segmenter_batch(rendered, heads, config, step), config, progress, cases=len(rendered)
    )


def load_rendered(config: SegmenterTraining, progress: Progress) -> list[Sample]:
    """Open simulated scans at 2 mm with their regions, from the cache or made now. Their side is not recorded."""
    folders = case_folders(config)
    samples = []
    for n, folder in enumerate(folders):
        progress("prepare", n / len(folders), folder.name)
        file = config.cache / f"{folder.name}_2mm.npz"
        if not is_fresh(file, folder):
            image, label = scan_at_2_mm(folder)
            config.cache.mkdir(parents=True, exist_ok=True)
            np.savez(file, image=image.astype(np.float16), label=label)
        with np.load(file) as saved:
            image, label = saved["image"].astype(np.float32), saved["label"]
        samples.append(Sample(image, label, np.full_like(label, UNKNOWN_SIDE)))
    return samples


def scan_at_2_mm(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Resample the SWI of a simulated case to the segmenter's grid, brightest near 1, and its regions likewise."""
    coarse = on_grid(read_volume(folder / "swi.nii.gz").in_ras_order(), SEGMENTER_SPACING_MM)
    mars = read_volume(folder / "mars.nii.gz").in_ras_order()
    steps = coarse.spacing_mm / mars.spacing_mm
    nearest = [
        np.minimum(np.round(np.arange(n) * step).astype(int), last - 1)
        for n, step, last in zip(coarse.array.shape, steps, mars.array.shape, strict=True)
    ]
    label = mars.array[np.ix_(*nearest)].astype(np.uint8)
    return coarse.array / max(float(np.percentile(coarse.array, 99)), 1e-6), label


def segmenter_batch(
    rendered: Sequence[Sample], heads: Sequence[Head], config: SegmenterTraining, step: int
) -> dict[str, Tensor]:
    """Make the batch of one step.

    The field of view lacks up to 64 mm of slices; every image is smaller than the patch and filled up with zeros
    at its end, as `CMBDetectorLib.segment.segment` does.

    Returns
    -------
    dict of Tensor
        ``image`` (B, 4, R, A, S), ``label`` and ``left`` (B, R, A, S) uint8.
    """
    rng = np.random.default_rng((config.seed, step))
    slices = max(2 * MULTIPLE, config.patch[2] - MULTIPLE * int(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2])))
    patch = np.array((*config.patch[:2], slices))
    share = 1.0 if not heads else config.rendered if rendered else 0.0
    batch = []
    for _ in range(config.batch):
        fill = rng.integers(0, MULTIPLE, 3)
        shape = [int(n) for n in patch - fill]
        if rng.random() < share:
            sample = random_rendered(rendered[int(rng.integers(len(rendered)))], shape, rng)
        else:
            sample = random_sample(heads[int(rng.integers(len(heads)))], shape, rng)
        padding = [(0, int(n)) for n in fill]
        image = np.pad(segmenter_channels(sample.image), [(0, 0), *padding])
        part = _window(image.shape[1:], config.window, rng)
        label, left = (np.pad(each, padding)[part] for each in (sample.label, sample.left))
        batch.append((image[(slice(None), *part)], label, left))
    images, labels, lefts = (torch.from_numpy(np.stack(parts)) for parts in zip(*batch, strict=True))
    return {"image": images, "label": labels, "left": lefts}


def _window(shape: Sequence[int], size: Sequence[int], rng: np.random.Generator) -> tuple[slice, ...]:
    """Random part of an image; one that is smaller than the window along an axis is taken whole there."""
    starts = [int(rng.integers(max(0, n - w) + 1)) for n, w in zip(shape, size, strict=True)]
    return tuple(slice(start, start + w) for start, w in zip(starts, size, strict=True))
