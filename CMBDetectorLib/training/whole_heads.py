"""Whole heads at 2 mm for the parcellation: simulated scans and label maps, deformed anew at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from CMBDetectorLib.preprocessing import COARSE_SPACING_MM, SEGMENTER_SPACING_MM, in_pairs, segmenter_channels
from CMBDetectorLib.training.config import SegmenterTraining
from CMBDetectorLib.training.heads import (
    UNKNOWN_SIDE,
    Head,
    Sample,
    random_coordinates,
    random_sample,
    smooth_noise,
)

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


def whole_head_batch(
    rendered: Sequence[RenderedScan], heads: Sequence[Head], config: SegmenterTraining, step: int
) -> dict[str, Tensor]:
    """Make the batch of one step: whole heads, with fewer slices in half of the cases.

    Returns
    -------
    dict of Tensor
        ``image`` (B, 4, R, A, S), ``label`` and ``left`` (B, R, A, S) uint8, at 2 mm; zeros where an image ends.
    """
    rng = np.random.default_rng((config.seed, step))
    size = np.array(config.patch) // (2, 2, 1)
    share = 1.0 if not heads else config.rendered if rendered else 0.0
    batch = []
    for _ in range(config.batch):
        lacking = size[2] // 10 * int(rng.choice([0, 1, 2, 3], p=[0.5, 0.2, 0.15, 0.15]))
        shape = [int(n) for n in np.maximum(size - (0, 0, lacking) - rng.integers(0, np.maximum(size // 8, 1)), 8)]
        if rng.random() < share:
            sample = deformed(rendered[int(rng.integers(len(rendered)))], shape, rng)
        else:
            sample = random_sample(heads[int(rng.integers(len(heads)))], shape, rng, COARSE_SPACING_MM)
        # As from a scan of 1 x 1 x 2 mm, of which the network sees the mean of two by two voxels at this level.
        fine = segmenter_channels(sample.image.repeat(2, axis=0).repeat(2, axis=1))
        padding = [(0, n - m) for n, m in zip(size, shape, strict=True)]
        image = np.pad(np.stack([in_pairs(channel) for channel in fine]), [(0, 0), *padding])
        batch.append((image, np.pad(sample.label, padding), np.pad(sample.left, padding)))
    images, labels, lefts = (torch.from_numpy(np.stack(parts)) for parts in zip(*batch, strict=True))
    return {"image": images, "label": labels, "left": lefts}


def deformed(scan: RenderedScan, shape: Sequence[int], rng: np.random.Generator) -> Sample:
    """Make another head of a simulated scan, at 2 mm: deformed, mirrored in half of the cases, in varied contrast.

    The simulator has deformed the head already; this is for the many steps in which a network sees it again.
    """
    first_mm = scan.channels[1:, 0, 0, 0].astype(float) * 100  # the first voxel's, from the head's middle
    where_mm = random_coordinates(-first_mm, shape, rng.random() < 0.5, rng, COARSE_SPACING_MM)
    steps_mm = np.reshape(SEGMENTER_SPACING_MM, (3, 1, 1, 1)).astype(np.float32)
    label = ndimage.map_coordinates(scan.label, where_mm / steps_mm, order=0)
    seen = in_pairs(scan.channels[0].astype(np.float32))
    middle_mm = np.reshape([0.5, 0.5, 0], (3, 1, 1, 1)).astype(np.float32)  # of the first pair
    bright = ndimage.map_coordinates(seen, (where_mm - middle_mm) / 2, order=1, cval=float(seen.min()))
    bright = (np.maximum(bright + MEAN, 0) / MEAN) ** rng.uniform(0.6, 1.6)
    bright *= np.exp(rng.uniform(0, 0.3) * smooth_noise(1, bright.shape, rng, COARSE_SPACING_MM)[0])
    if rng.random() < 0.3:
        bright = ndimage.gaussian_filter(bright, rng.uniform(0.2, 0.7, 3))
    bright = bright + rng.uniform(0, 0.05) * rng.standard_normal(bright.shape, np.float32)
    return Sample(bright.astype(np.float32), label, np.full(label.shape, UNKNOWN_SIDE, np.uint8))
