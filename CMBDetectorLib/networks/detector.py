"""The detector: a 3D U-Net that stops at 2 mm, feature fusion (FFM), and a region proposal head (RPN).

Published (Kim et al., arXiv 2306.13020): a single-stage model of 3D U-Net backbone and RPN whose decoder does not
go back to full size; the FFM sums three decoder levels, each through a 1x1x1 convolution, a transposed convolution
and batch normalization; the baseline reads the third level only. Ours: channel counts, depth, the 2 mm output
grid (stem and pooling act in millimeters, not voxels), residual units at 1 and 2 mm, the spacing of slices as a third
channel, anchors, and the 3x3x3 block at the head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from CMBDetectorLib.networks.anchors import ANCHORS_MM
from CMBDetectorLib.networks.backbone import FEATURES, PRIOR, Backbone
from CMBDetectorLib.networks.blocks import ConvBlock


class Fusion(nn.Module):
    """Feature Fusion Module (Kim et al. 2023): three decoder levels brought to the 2 mm grid and summed.

    Ours: the finest level is on that grid already and keeps its size.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.from_8_mm = self._level(channels[0], scale=4)
        self.from_4_mm = self._level(channels[1], scale=2)
        self.from_2_mm = self._level(channels[2], scale=1)

    @staticmethod
    def _level(channels: int, scale: int) -> nn.Sequential:
        upsampling = [nn.ConvTranspose3d(FEATURES, FEATURES, scale, scale, bias=False)] if scale > 1 else []
        return nn.Sequential(nn.Conv3d(channels, FEATURES, 1), *upsampling, nn.BatchNorm3d(FEATURES))

    def forward(self, d1: Tensor, d2: Tensor, d3: Tensor) -> Tensor:
        return self.from_8_mm(d1) + self.from_4_mm(d2) + self.from_2_mm(d3)


class Detector(Backbone):
    """SWI, phase and spacing in 0.5 x 0.5 x 1 mm voxels in, boxes on a 2 mm grid out.

    Parameters
    ----------
    ffm : bool
        Sum three decoder levels (True) or read the third alone, as the paper's baseline does.
    """

    def __init__(self, ffm: bool = True) -> None:
        super().__init__()
        self.fusion = Fusion((64, 64, FEATURES)) if ffm else None
        self.proposal = ConvBlock(FEATURES, FEATURES)
        self.answer = nn.Conv3d(FEATURES, len(ANCHORS_MM) * 5, 1)
        nn.init.normal_(self.answer.weight, std=0.01)
        bias = torch.zeros(len(ANCHORS_MM), 5)
        bias[:, 0] = math.log(PRIOR / (1 - PRIOR))
        self.answer.bias = nn.Parameter(bias.flatten())

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute what `head` and the prototypes read: (B, 3, R, A, S) -> (B, 48, R/4, A/4, S/2)."""
        _, d1, d2, d3 = self.levels(x)
        final = d3 if self.fusion is None else self.fusion(d1, d2, d3)
        return self.proposal(final)

    def head(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Objectness logits (B, 3, r, a, s) and boxes (B, 3, 4, r, a, s) from the final feature map."""
        answer = self.answer(features).unflatten(1, (3, 5))
        return answer[:, :, 0], answer[:, :, 1:]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Search an image.

        Parameters
        ----------
        x : Tensor, shape (B, 3, R, A, S)
            Channels SWI, phase and spacing (`CMBDetectorLib.preprocessing.detector_input`); sizes are multiples of
            (32, 32, 16).

        Returns
        -------
        logits : Tensor, shape (B, 3, R/4, A/4, S/2)
            Objectness of each cell for anchors of 2.5, 5 and 10 mm, before the sigmoid.
        boxes : Tensor, shape (B, 3, 4, R/4, A/4, S/2)
            Offset along R, A, S in anchor diameters, and log(diameter / anchor) (`anchors.decode`).
        """
        return self.head(self.forward_features(x))
