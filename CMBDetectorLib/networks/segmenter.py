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
WIDTH = 16  # channels at 1 and 2 mm
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
        self.at_2_mm = nn.Sequential(ConvBlock(self.channels, WIDTH), ConvBlock(WIDTH, WIDTH))
        self.at_4_mm = Down(WIDTH, 32)
        self.at_8_mm = Down(32, 64)
        self.at_16_mm = Down(64, 96)
        self.d8 = Up(96, 64, 64)
        self.d4 = Up(64, 32, 32)
        self.d2 = Up(32, WIDTH, WIDTH)
        self.at_1_mm = nn.Sequential(ConvBlock(self.channels, WIDTH), ConvBlock(WIDTH, WIDTH))
        self.up = nn.ConvTranspose3d(WIDTH, WIDTH, HALF, HALF)
        self.d1 = nn.Sequential(ConvBlock(2 * WIDTH, WIDTH), ConvBlock(WIDTH, WIDTH))
        self.answer = nn.Conv3d(WIDTH, CLASSES + 1, 1)

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
        return self.edges(self.context(x), x)

    def context(self, x: Tensor) -> Tensor:
        """What the U-Net at 2 mm sees: (B, 4, R, A, S) -> (B, 16, R/2, A/2, S)."""
        x = x[:, : self.channels]
        rows = (x[:, :, ::2] + x[:, :, 1::2]) / 2  # avg_pool3d knows no bfloat16 on a CPU
        e2 = self.at_2_mm((rows[:, :, :, ::2] + rows[:, :, :, 1::2]) / 2)
        e4 = self.at_4_mm(e2)
        e8 = self.at_8_mm(e4)
        return self.d2(self.d4(self.d8(self.at_16_mm(e8), e8), e4), e2)

    def edges(self, context: Tensor, x: Tensor) -> Tensor:
        """Logits at 1 mm in plane from the `context` of the same place, which may be a part of it, and the image."""
        return self.answer(self.d1(torch.cat((self.up(context), self.at_1_mm(x[:, : self.channels])), dim=1)))


def labels_and_left(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Region label (B, R, A, S; 0-13) and probability of the left side (B, R, A, S) from the network's answer."""
    return logits[:, :CLASSES].argmax(dim=1), torch.sigmoid(logits[:, CLASSES].float())
