"""The segmenter: a 3D U-Net that reads SWI and absolute coordinates and names MARS regions at 2 mm.

Published (Kim et al., arXiv 2306.13020): a 3D U-Net that reads the image and three tensors with the absolute
x, y, z coordinates and tells lobar, deep and infratentorial. Ours: the whole head at once at 2 mm, 13 MARS
sub-regions, a logit for the side, channel counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from CMBDetectorLib.networks.blocks import ConvBlock, Down, Up
from CMBDetectorLib.regions import SUB_REGIONS

CLASSES = len(SUB_REGIONS) + 1  # 0 is "none"
MULTIPLE = 16  # input sizes must be multiples of this


class Segmenter(nn.Module):
    """SWI and coordinates at 2 mm in, one logit per region and one for the left side out.

    Parameters
    ----------
    coordinates : bool
        Read the coordinate channels; False leaves the image alone (an ablation: the input stays the same).
    """

    def __init__(self, coordinates: bool = True) -> None:
        super().__init__()
        self.channels = 4 if coordinates else 1
        self.at_2_mm = nn.Sequential(ConvBlock(self.channels, 16), ConvBlock(16, 16))
        self.at_4_mm = Down(16, 32)
        self.at_8_mm = Down(32, 64)
        self.at_16_mm = Down(64, 96)
        self.d8 = Up(96, 64, 64)
        self.d4 = Up(64, 32, 32)
        self.d2 = Up(32, 16, 16)
        self.answer = nn.Conv3d(16, CLASSES + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Name the region of every voxel.

        Parameters
        ----------
        x : Tensor, shape (B, 4, R, A, S)
            SWI and coordinates (`CMBDetectorLib.preprocessing.segmenter_input`); sizes are multiples of 16.

        Returns
        -------
        Tensor, shape (B, 15, R, A, S)
            Logits of 14 classes (0 none, 1-13 MARS; softmax) and of "left side" (sigmoid).
        """
        e2 = self.at_2_mm(x[:, : self.channels])
        e4 = self.at_4_mm(e2)
        e8 = self.at_8_mm(e4)
        return self.answer(self.d2(self.d4(self.d8(self.at_16_mm(e8), e8), e4), e2))


def labels_and_left(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Region label (B, R, A, S; 0-13) and probability of the left side (B, R, A, S) from the network's answer."""
    return logits[:, :CLASSES].argmax(dim=1), torch.sigmoid(logits[:, CLASSES].float())
