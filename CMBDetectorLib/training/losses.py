"""Losses of both networks. L_cls + L_reg + L_con is published (Kim et al. 2023); their exact forms are ours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from CMBDetectorLib.networks.prototypes import CMB, MIMIC
from CMBDetectorLib.networks.segmenter import CLASSES
from CMBDetectorLib.training.targets import IGNORED, NEGATIVE, POSITIVE


def objectness_loss(logits: Tensor, label: Tensor, weight: Tensor, hardest: int) -> Tensor:
    """L_cls: binary cross-entropy of the lesions, each counted once, and of each crop's hardest negatives.

    Online hard example mining as in Liao et al. 2019, with the sum over all negatives, divided by the number of all
    cells, added so that easy cells stay low between their turns.

    Parameters
    ----------
    logits : Tensor, shape (B, 3, r, a, s); of the plain U-Net (B, R, A, S)
    label : Tensor of the same shape
        `NEGATIVE`, `POSITIVE` or `IGNORED` (`CMBDetectorLib.training.targets.assign`).
    weight : Tensor of the same shape
        Of the positive cells (likewise); without it a lesion of 10 mm would count seven times as much as one of 2 mm.
    hardest : int
        Negatives per crop.
    """
    share = weight[label == POSITIVE]
    positive = functional.softplus(-logits[label == POSITIVE]) * share
    negative = functional.softplus(logits) * (label == NEGATIVE)
    worst = negative.flatten(1).topk(hardest, dim=1).values
    return positive.sum() / share.sum().clamp(min=1) + worst.mean() + negative.mean()


def box_loss(boxes: Tensor, target: Tensor, label: Tensor) -> Tensor:
    """L_reg: smooth L1 of offsets and log size over positive cells; zero without any.

    Parameters
    ----------
    boxes, target : Tensor, shape (B, 3, 4, r, a, s)
    label : Tensor, shape (B, 3, r, a, s)
    """
    batch, anchor, r, a, s = torch.nonzero(label == POSITIVE, as_tuple=True)
    error = functional.smooth_l1_loss(
        boxes[batch, anchor, :, r, a, s], target[batch, anchor, :, r, a, s], beta=0.1, reduction="sum"
    )
    return error / max(len(batch), 1)


def hard_samples(features: Tensor, logits: Tensor, label: Tensor, with_lesions: Tensor) -> tuple[Tensor, Tensor]:
    """Feature vectors for the prototypes (HSPL, Kim et al. 2023).

    Positive cells speak for microbleeds; in a crop without lesions the cell of the highest probability is the hard
    sample and speaks for mimics.

    Parameters
    ----------
    features : Tensor, shape (B, F, r, a, s)
    logits, label : Tensor, shape (B, 3, r, a, s)
    with_lesions : Tensor, shape (B,), bool

    Returns
    -------
    vectors : Tensor, shape (N, F)
    kind : Tensor, shape (N,), int64
    """
    vectors = features.movedim(1, -1)
    bleeds = vectors[(label == POSITIVE).any(dim=1)]
    candidates = logits.detach().masked_fill(label != NEGATIVE, -torch.inf).amax(dim=1).flatten(1)
    free = torch.nonzero(~with_lesions).flatten()
    mimics = vectors.flatten(1, 3)[free, candidates[free].argmax(dim=1)]
    kind = torch.full((len(bleeds) + len(mimics),), MIMIC, device=features.device)
    kind[: len(bleeds)] = CMB
    return torch.cat((bleeds, mimics)), kind


def mask_loss(logits: Tensor, mask: Tensor, hardest: int) -> Tensor:
    """Cross-entropy plus soft Dice of the plain U-Net, over the whole batch: half of the crops have no lesion.

    Cross-entropy as `objectness_loss`, but every voxel of a lesion counts alike. With a mean over all voxels, nearly
    none of which lie in a lesion, the network hardly learned (docs/method.md).

    Parameters
    ----------
    logits, mask : Tensor, shape (B, R, A, S)
        The mask holds `NEGATIVE`, `POSITIVE` or `IGNORED` (`CMBDetectorLib.training.targets.balls`).
    hardest : int
        Negative voxels per crop that count by themselves.
    """
    entropy = objectness_loss(logits, mask, torch.ones_like(logits), hardest)
    counted = mask != IGNORED
    logits, truth = logits[counted], (mask[counted] == POSITIVE).to(logits.dtype)
    share = torch.sigmoid(logits)
    dice = (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)
    return entropy + 1 - dice


def region_loss(logits: Tensor, label: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus soft Dice over the classes that occur.

    Parameters
    ----------
    logits : Tensor, shape (B, 14, R, A, S)
    label : Tensor, shape (B, R, A, S), int64
    dice_weight : float
        Of soft Dice beside cross-entropy. Dice alone prefers too much tissue where the edge cannot be seen.
    """
    log_share = functional.log_softmax(logits, dim=1)
    entropy = functional.nll_loss(log_share, label)
    share = log_share.exp()
    truth = functional.one_hot(label, CLASSES).movedim(-1, 1).to(share.dtype)
    space = (0, 2, 3, 4)  # Dice over the whole batch: a class may be absent from one field of view
    overlap = (share * truth).sum(space)
    size = share.sum(space) + truth.sum(space)
    occurs = truth.sum(space) > 0
    return entropy + dice_weight * (1 - (2 * overlap / size.clamp(min=1.0))[occurs].mean())


def side_loss(logit: Tensor, left: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of the side over brain tissue.

    Parameters
    ----------
    logit, left : Tensor, shape (B, R, A, S)
        Logit of "left side" and the truth, 0 or 1.
    label : Tensor, shape (B, R, A, S)
        MARS label; 0 is not brain tissue.
    """
    brain = label > 0
    entropy = functional.binary_cross_entropy_with_logits(logit, left.to(logit.dtype), reduction="none")
    return (entropy * brain).sum() / brain.sum().clamp(min=1)
