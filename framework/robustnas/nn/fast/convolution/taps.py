"""Depthwise convolutions entry by entry of the weight: a multiplication and an addition over the image for each.

For CPUs where there is no other fast way: float64, which oneDNN does not know (torch then goes channel by channel,
6 to 20 times as slow), and machines without oneDNN.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution.geometry import Geometry, Pair


def better(like: Tensor) -> bool:
    """Whether this is the way for tensors of this kind on a CPU."""
    known = like.dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()
    return not known and switch.is_on("taps")


def convolve(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, C, H, W), weight (C, 1, K, L) -> (N, C, H', W')."""
    above, left = geometry.padding
    padded = _padded(x, (left, left, above, above))
    y = _weighted(_windows(padded, geometry.output, geometry.kernel, geometry.stride, geometry.dilation), weight)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def image_gradient(geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
    """weight, y (N, C, H', W') -> (N, C, H, W): y with zeros between, convolved with the weight turned round."""
    (above, left), (rows, columns) = geometry.padding, geometry.reach
    y = spread(y, geometry.stride)
    bottom, right = (
        size + edge - here for size, edge, here in zip(geometry.size, geometry.padding, y.shape[2:], strict=True)
    )
    padded = _padded(y, (columns - left, right, rows - above, bottom))
    return _weighted(_windows(padded, geometry.size, geometry.kernel, (1, 1), geometry.dilation), weight.flip(2, 3))


def weight_gradient(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """x, y (N, C, H', W') -> (C, 1, K, L)."""
    above, left = geometry.padding
    padded = _padded(x, (left, left, above, above))
    seen = _windows(padded, geometry.output, geometry.kernel, geometry.stride, geometry.dilation)
    return torch.stack([(part * y).sum((0, 2, 3)) for part in seen], dim=1).view(geometry.weight)


def spread(y: Tensor, steps: Pair) -> Tensor:
    """Rows and columns with zeros between and behind: (N, C, H, W) -> (N, C, H * steps[0], W * steps[1])."""
    down, right = steps
    if down == right == 1:
        return y
    images, channels, rows, columns = y.shape
    # channels last, with an axis of one for the rows and the columns to come
    apart = y.permute(0, 2, 3, 1).reshape(images, rows, 1, columns, 1, channels)
    apart = F.pad(apart, (0, 0, 0, right - 1, 0, 0, 0, down - 1))
    return apart.reshape(images, rows * down, columns * right, channels).permute(0, 3, 1, 2)


def _padded(x: Tensor, amounts: tuple[int, int, int, int]) -> Tensor:
    return F.pad(x, amounts) if any(amounts) else x


def _weighted(seen: Iterator[Tensor], weight: Tensor) -> Tensor:
    """The sum of what each entry sees, times the entry."""
    y = None
    add = torch.addcmul if torch._C._are_functorch_transforms_active() else Tensor.addcmul_
    for part, entry in zip(seen, weight.flatten(1).unbind(1), strict=True):
        factor = entry.view(1, -1, 1, 1)
        y = part * factor if y is None else add(y, part, factor)
    assert y is not None
    return y


def _windows(padded: Tensor, output: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Iterator[Tensor]:
    """What each entry of the weight sees of the padded image, a view of the output's shape each, row by row."""
    (rows, columns), (down, right) = output, stride
    for top in range(0, kernel[0] * dilation[0], dilation[0]):
        for left in range(0, kernel[1] * dilation[1], dilation[1]):
            # indexing makes an alias where a slice is everything, and batched tensors have none
            part = torch.ops.aten.slice.Tensor(padded, 2, top, top + (rows - 1) * down + 1, down)
            yield torch.ops.aten.slice.Tensor(part, 3, left, left + (columns - 1) * right + 1, right)
