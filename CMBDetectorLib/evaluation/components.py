"""From the plain U-Net's mask to detections: connected components, with what a component's score is left open."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from CMBDetectorLib.detect import MOST, Detection, answer, looks, tiles
from CMBDetectorLib.models import Model
from CMBDetectorLib.networks.plain_unet import STRIDE
from CMBDetectorLib.preprocessing import NetworkInput

LEVELS = (0.02, 0.1, 0.3, 0.5)  # probabilities from which voxels are joined to components
SCORES = ("mean", "largest")  # probability of a component's voxels
TOUCHING = np.ones((3, 3, 3))  # corners touch, too


def find_components(model: Model, network_input: NetworkInput) -> dict[str, list[Detection]]:
    """Detections for every level and score, such as ``mean above 0.3``; which one is used, validation decides."""
    probability = mask_probability(model, network_input)
    matrix = network_input.ijk_to_ras @ np.diag([*STRIDE, 1.0])
    matrix[:3, 3] += network_input.ijk_to_ras[:3, :3] @ ((np.array(STRIDE) - 1) / 2)
    return {
        f"{score} above {level:g}": components(probability, matrix, level, score)
        for level in LEVELS
        for score in SCORES
    }


def components(
    probability: npt.NDArray[np.floating], ijk_to_ras: npt.NDArray[np.float64], level: float, score: str
) -> list[Detection]:
    """Connected components of the voxels from a level on, by falling score, the strongest 300.

    The center is that of gravity by probability, the diameter that of a ball of the same volume.
    """
    labels, count = ndimage.label(probability >= level, TOUCHING)
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    scores = (ndimage.mean if score == "mean" else ndimage.maximum)(probability, labels, numbers)
    centers = np.array(ndimage.center_of_mass(probability, labels, numbers))
    voxel_mm3 = abs(float(np.linalg.det(ijk_to_ras[:3, :3])))
    diameters = (6 / np.pi * voxel_mm3 * np.bincount(labels.ravel())[1:]) ** (1 / 3)
    centers_ras = centers @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    return [
        Detection((float(r), float(a), float(s)), float(diameters[n]), float(scores[n]))
        for n in np.argsort(-np.asarray(scores), kind="stable")[:MOST]
        for r, a, s in [centers_ras[n]]
    ]


def mask_probability(model: Model, network_input: NetworkInput) -> npt.NDArray[np.float32]:
    """Probability of every 1 mm voxel, by the mean log odds of both looks as in `detect.detect`; 0 elsewhere."""
    shape = network_input.array.shape[1:]
    found = np.zeros([-(-n // step) for n, step in zip(shape, STRIDE, strict=True)], np.float32)
    shown = looks(torch.from_numpy(np.asarray(network_input.array, np.float32)))
    for tile in tiles(shape):
        kept_r, kept_a, kept_s = (slice(*span) for span in tile.kept)
        if not network_input.array[0, kept_r, kept_a, kept_s].any():
            continue
        logits = torch.stack([answer(model, look, tile)[0].float() for look in shown])
        probability = torch.sigmoid(logits.mean(dim=0)).cpu().numpy()
        spans = list(zip(tile.kept, tile.read, STRIDE, strict=True))
        into = found[tuple(slice(kept[0] // step, kept[1] // step) for kept, _, step in spans)]
        inner = probability[tuple(slice((kept[0] - read[0]) // step, None) for kept, read, step in spans)]
        into[:] = inner[tuple(slice(n) for n in into.shape)]
    return found
