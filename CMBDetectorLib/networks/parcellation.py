"""Which region tissue belongs to: a 3D U-Net at 4 mm that sees a whole head and its coordinates.

Ours. Borders between regions are places in the head rather than edges of the image: a coarse grid with many channels
learns them faster than the fine one that draws the edges of tissue (`segmenter`).
"""

from __future__ import annotations

from torch import Tensor, nn

from CMBDetectorLib.networks.blocks import ConvBlock, Down, Up


class Parcellation(nn.Module):
    """Image and coordinates at 2 mm in, one logit per region and one for the left side at 4 mm out.

    Parameters
    ----------
    channels_in, regions : int
        Channels that are read; regions that are told apart.
    """

    def __init__(self, channels_in: int, regions: int) -> None:
        super().__init__()
        # A kernel of 4 with stride 2 centers every 4 mm voxel between two of 2 mm.
        self.at_4_mm = nn.Sequential(ConvBlock(channels_in, 32, (4, 4, 4), (2, 2, 2)), ConvBlock(32, 32))
        self.at_8_mm = Down(32, 64)
        self.at_16_mm = Down(64, 80)
        self.d8 = Up(80, 64, 64)
        self.d4 = Up(64, 32, 32)
        self.last = ConvBlock(32, 32)
        self.answer = nn.Conv3d(32, regions + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, regions + 1, R/2, A/2, S/2) of an image (B, C, R, A, S); sizes are multiples of 8."""
        e4 = self.at_4_mm(x)
        e8 = self.at_8_mm(e4)
        return self.answer(self.last(self.d4(self.d8(self.at_16_mm(e8), e8), e4)))
