"""Stems: what an image passes before the first cell.  A stem gives the first cell's two inputs.

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, the CIFAR and the ImageNet network.
"""

from __future__ import annotations

from torch import Tensor, nn


class CifarStem(nn.Module):
    """A convolution that keeps the size; both inputs of the first cell are its output.

    `out_channels` is three times the channels of the first cell; (N, C, H, W) -> twice (N, out_channels, H,
    W).
    """

    halves = False

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.out_channels = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, self.out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.out_channels),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.layers(images)
        return stem, stem


class ImageNetStem(nn.Module):
    """Three convolutions of stride 2: (N, C, H, W) -> (N, channels, H/4, W/4), (N, channels, H/8, W/8),
    rounded up."""

    halves = True
    """The second output has half the size of the first."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.out_channels = channels
        self.quarter = nn.Sequential(
            nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.eighth = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(images)
        return quarter, self.eighth(quarter)
