"""What the detector and the plain U-Net share: a 3D U-Net down to 16 mm and up again to 2 mm."""

from __future__ import annotations

from torch import Tensor, nn

from CMBDetectorLib.networks.blocks import ConvBlock, Down, Residual, Up

CHANNELS = 3  # SWI, phase, and the scan's spacing along S
FEATURES = 48  # channels of the finest decoder level
PRIOR = 0.01  # probability of a lesion everywhere before training: they are rare


class Backbone(nn.Module):
    """Encoder of 1, 2, 4, 8 and 16 mm and decoder of 8, 4 and 2 mm; three channels of 0.5 x 0.5 x 1 mm voxels in."""

    def __init__(self) -> None:
        super().__init__()
        # A kernel of 4 with stride 2 centers every 1 mm voxel between two of 0.5 mm; sizes halve exactly.
        self.at_1_mm = nn.Sequential(ConvBlock(CHANNELS, 24, (4, 4, 3), (2, 2, 1), (1, 1, 1)), ConvBlock(24, 24))
        self.residual_1_mm = Residual(24)
        self.at_2_mm = Down(24, 48)
        self.residual_2_mm = Residual(48)
        self.at_4_mm = Down(48, 64)
        self.at_8_mm = Down(64, 64)
        self.at_16_mm = Down(64, 64)
        self.d1 = Up(64, 64, 64)
        self.d2 = Up(64, 64, 64)
        self.d3 = Up(64, 48, FEATURES)
        self.residual_d3 = Residual(FEATURES)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encoder map at 1 mm, and the decoder's at 8, 4 and 2 mm."""
        e1 = self.residual_1_mm(self.at_1_mm(x))
        e2 = self.residual_2_mm(self.at_2_mm(e1))
        e4 = self.at_4_mm(e2)
        e8 = self.at_8_mm(e4)
        d1 = self.d1(self.at_16_mm(e8), e8)
        d2 = self.d2(d1, e4)
        return e1, d1, d2, self.residual_d3(self.d3(d2, e2))
