"""The building blocks of both networks: convolution, batch normalization, ReLU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch normalization, ReLU (Kim et al. 2023, "conv(n)"); keeps the size.

    Other kernels, strides and paddings are for the detector's stem.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__(
            nn.Conv3d(channels_in, channels_out, kernel, stride, padding, bias=False),
            nn.BatchNorm3d(channels_out),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """Two convolution blocks whose answer is added to what they read, which is not negative.

    A new one changes nothing, so it can be put into a network that has been trained.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.conv = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x + self.norm(self.conv(self.first(x))))


class Down(nn.Sequential):
    """Max pooling to half the size, then two convolution blocks."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(nn.MaxPool3d(2), ConvBlock(channels_in, channels_out), ConvBlock(channels_out, channels_out))


class Up(nn.Module):
    """Transposed convolution to double the size, joined with the encoder's map of that size, then one block.

    Parameters
    ----------
    channels_in, channels_skip, channels_out : int
        Channels of the coarse map, of the encoder's map, and of the result.
    """

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(channels_in, channels_out, kernel_size=2, stride=2)
        self.join = ConvBlock(channels_out + channels_skip, channels_out)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        return self.join(torch.cat((self.up(coarse), skip), dim=1))
