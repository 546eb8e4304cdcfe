"""The segmenter: a 3D U-Net that reads SWI and absolute coordinates and names MARS regions.

Published (Kim et al., arXiv 2306.13020): a 3D U-Net that reads the image and three tensors with the absolute
x, y, z coordinates and tells lobar, deep and infratentorial. Ours: the whole head at once; 13 MARS sub-regions; a
logit for the side; channel counts; and the grid: a U-Net at 2 mm knows where it is in the head, one level on top, at
1 mm in plane, draws the edges (at 2 mm alone a perfect answer has a Dice of 0.95).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from CMBDetectorLib.networks.blocks import ConvBlock, Down, Up
from CMBDetectorLib.regions import SUB_REGIONS

CLASSES = len(SUB_REGIONS) + 1  # 0 is "none"
MULTIPLE = (16, 16, 8)  # input sizes must be multiples of these
HALF = (2, 2, 1)  # from 1 mm in plane to 2 mm; slices are 2 mm apart at both levels


class Segmenter(nn.Module):
    """SWI and coordinates at 1 x 1 x 2 mm in, one logit per region and one for the left side out.

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
        self.at_1_mm = ConvBlock(self.channels, 8)
        self.up = nn.ConvTranspose3d(16, 16, HALF, HALF)
        self.d1 = ConvBlock(16 + 8, 16)
        self.answer = nn.Conv3d(16, CLASSES + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Name the region of every voxel.

        Parameters
        ----------
        x : Tensor, shape (B, 4, R, A, S)
            SWI and coordinates (`CMBDetectorLib.preprocessing.segmenter_input`); sizes are multiples of
            (16, 16, 8).

        Returns
        -------
        Tensor, shape (B, 15, R, A, S)
            Logits of 14 classes (0 none, 1-13 MARS; softmax) and of "left side" (sigmoid).
        """
        x = x[:, : self.channels]
        rows = (x[:, :, ::2] + x[:, :, 1::2]) / 2  # avg_pool3d knows no bfloat16 on a CPU
        e2 = self.at_2_mm((rows[:, :, :, ::2] + rows[:, :, :, 1::2]) / 2)
        e4 = self.at_4_mm(e2)
        e8 = self.at_8_mm(e4)
        d2 = self.d2(self.d4(self.d8(self.at_16_mm(e8), e8), e4), e2)
        return self.answer(self.d1(torch.cat((self.up(d2), self.at_1_mm(x)), dim=1)))
