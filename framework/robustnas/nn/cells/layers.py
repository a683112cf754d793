"""Layers of a cell: convolutions with rectifier and batch norm, and the reduction that stands for a skip.

`affine` says whether batch norm has a scale and a shift: not in a supernet, where the scale of an operation
would take the place of its mixing weight.  The order rectifier, convolution, norm and the layers' make-up
follow Liu et al. 2019 (DARTS), arXiv:1806.09055.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.nn.fast import Conv2d, convolve_and_norm, convolve_scaled, is_folded, of_layer


class ReluConvNorm(nn.Module):
    """Rectifier, convolution, batch norm: (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 1, stride: int = 1, *, affine: bool):
        super().__init__()
        self.conv = Conv2d(channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return convolve_and_norm(self.conv, self.norm, F.relu(x))


class DepthwiseSeparable(nn.Module):
    """Rectifier, depthwise convolution, pointwise convolution, batch norm; the channels stay.

    (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)) for any odd kernel and any dilation.

    Args:
        channels: channels of one operation.
        kernel: side of the depthwise kernel.
        stride: of the depthwise convolution.
        dilation: of the depthwise convolution.
        affine: whether batch norm has a scale and a shift.
        edges: this many operations side by side, each on channels of its own.
        rectify: False where the input has been rectified already.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        affine: bool,
        edges: int = 1,
        rectify: bool = True,
    ):
        super().__init__()
        self.rectify = rectify
        channels = edges * channels
        self.depthwise = Conv2d(
            channels,
            channels,
            kernel,
            stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=channels,
            bias=False,
        )
        self.pointwise = Conv2d(channels, channels, 1, groups=edges, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x) if self.rectify else x
        return convolve_and_norm(self.pointwise, self.norm, self.depthwise(x))


class FactorizedReduce(nn.Module):
    """Half the rows and columns: (N, C, H, W) -> (N, C', ceil(H / 2), ceil(W / 2)).

    Half of the output channels see the pixels of even row and even column, the others those of odd row and
    odd column.  An odd size has one odd row fewer than even ones: a row of zeros stands in for it.  For even
    sizes this is the published operation.
    """

    def __init__(self, channels: int, out_channels: int, *, affine: bool):
        super().__init__()
        self.even = Conv2d(channels, out_channels // 2, 1, stride=2, bias=False)
        # padded, its outputs are at -1, 1, 3, ...; the first is cut off, the last may lie beyond an odd edge
        self.odd = Conv2d(channels, out_channels - out_channels // 2, 1, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        folded = is_folded(self.norm, x)
        if folded:
            half = self.even.out_channels
            (even, odd), (low, high) = (part.tensor_split([half]) for part in of_layer(self.norm))
            halves = convolve_scaled(self.even, even, low, x), convolve_scaled(self.odd, odd, high, x)
        else:
            halves = self.even(x), self.odd(x)
        joined = torch.cat([halves[0], halves[1][:, :, 1:, 1:]], dim=1)
        normed: Tensor = joined if folded else self.norm(joined)
        return normed


def preprocessing(channels: int, out_channels: int, *, halve: bool, affine: bool) -> nn.Module:
    """What brings a cell's input to the cell's channels, and to half the size where `halve`."""
    if halve:
        return FactorizedReduce(channels, out_channels, affine=affine)
    return ReluConvNorm(channels, out_channels, affine=affine)
