"""Training of the detector; its switches are the paper's variants RPN, RPN+FFM and RPN+FFM+HSPL, and a plain U-Net."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from CMBDetectorLib.networks.adapters import adapt
from CMBDetectorLib.networks.backbone import FEATURES
from CMBDetectorLib.networks.detector import Detector
from CMBDetectorLib.networks.plain_unet import PlainUNet
from CMBDetectorLib.networks.prototypes import Prototypes
from CMBDetectorLib.training.config import DetectorTraining, Progress
from CMBDetectorLib.training.data import case_name, detector_batch, heads_of_cases, load_cases
from CMBDetectorLib.training.loop import fit
from CMBDetectorLib.training.losses import box_loss, hard_samples, mask_loss, objectness_loss

VOXELS_PER_CELL = 8  # the mask has 1 mm, the detector's cells 2 mm


class DetectorObjective(nn.Module):
    """The detector with what only training needs; answers a batch with its weighted losses.

    Attributes
    ----------
    network : Detector
    prototypes : Prototypes or None
        None without HSPL.
    """

    def __init__(self, config: DetectorTraining) -> None:
        super().__init__()
        self.network = Detector(config.ffm)
        if config.rank:
            adapt(self.network, config.rank, config.kept)
        self.prototypes = Prototypes(FEATURES) if config.hspl else None
        self.config = config

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """L_cls + L_reg + L_con (Kim et al. 2023), each weighted; `batch` comes from `data.detector_batch`."""
        features = self.network.forward_features(batch["image"].contiguous(memory_format=torch.channels_last_3d))
        logits, boxes = (answer.float() for answer in self.network.head(features))
        losses = {
            "objectness": objectness_loss(logits, batch["label"], batch["weight"], self.config.hardest),
            "box": self.config.box_weight * box_loss(boxes, batch["boxes"], batch["label"]),
        }
        if self.prototypes is not None:
            vectors, kind = hard_samples(features, logits, batch["label"], batch["with_lesions"])
            losses["prototype"] = self.config.prototype_weight * self.prototypes(vectors, kind)
        return losses


class MaskObjective(nn.Module):
    """The plain U-Net; answers the detector's batches with its own loss.

    Attributes
    ----------
    network : PlainUNet
    """

    def __init__(self, config: DetectorTraining) -> None:
        super().__init__()
        self.network = PlainUNet()
        self.hardest = VOXELS_PER_CELL * config.hardest

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropy plus Dice of the mask."""
        logits = self.network(batch["image"].contiguous(memory_format=torch.channels_last_3d))
        return {"mask": mask_loss(logits.float(), batch["mask"], self.hardest)}


def train_detector(config: DetectorTraining, progress: Progress) -> Path:
    """Train, or go on training, and return the checkpoint (`export.export_model` makes a model of it)."""
    cases = load_cases(config, progress)
    torch.manual_seed(config.seed)
    objective = MaskObjective(config) if config.head == "mask" else DetectorObjective(config)
    heads = heads_of_cases(config)
    names = [case_name(folder) for folder in heads]
    make_batch = partial(detector_batch, cases, config)
    return fit(objective, make_batch, config, progress, cases=names, heads=sorted(set(heads.values())))
