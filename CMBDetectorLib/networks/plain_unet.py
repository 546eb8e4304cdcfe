"""The reference that the detector is measured against: a plain 3D U-Net that marks the voxels of microbleeds.

Ours, for the ablation alone; it is never shipped. It has the detector's encoder and channels, but its decoder goes on
to the 1 mm features, and in place of feature fusion and proposals it has one logit per voxel.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from CMBDetectorLib.networks.backbone import FEATURES, PRIOR, Backbone
from CMBDetectorLib.networks.blocks import Up

STRIDE: tuple[int, int, int] = (2, 2, 1)  # input voxels per voxel of the mask: 1 mm along every axis


class PlainUNet(Backbone):
    """SWI, phase and spacing in 0.5 x 0.5 x 1 mm voxels in, a mask of microbleeds at 1 mm out."""

    def __init__(self) -> None:
        super().__init__()
        self.d4 = Up(FEATURES, 24, 24)
        self.answer = nn.Conv3d(24, 1, 1)
        nn.init.normal_(self.answer.weight, std=0.01)
        assert self.answer.bias is not None
        nn.init.constant_(self.answer.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, x: Tensor) -> Tensor:
        """Logit "microbleed" of every 1 mm voxel: (B, 3, R, A, S) -> (B, R/2, A/2, S); sizes as of the detector."""
        e1, _, _, d3 = self.levels(x)
        return self.answer(self.d4(d3, e1)).squeeze(1)
