"""Gradients of depthwise convolutions on CPUs, put together from convolutions that oneDNN has fast code for.

oneDNN's fast code for the weight's gradient knows neither dilation nor more than three columns.  So

    dilation d, stride d   sees one row and column in d: a convolution with neither, of a smaller image
    dilation d, stride 1   is d * d such convolutions, one for each remainder of row and column, and an image each
    many columns           three at a time

Any other mix of stride and dilation is left to torch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor

from robustnas.nn.fast.convolution.geometry import Geometry, Pair
from robustnas.nn.fast.convolution.taps import spread

COLUMNS = 3
"""Columns of a weight whose gradient oneDNN has fast code for."""

ENTRIES = 2**15
"""Entries of an image batch from which on three columns at a time, or remainders, are worth their copies."""

CHANNELS = 16
"""Channels from which on oneDNN's way with dilation is slow for fewer entries, too."""


@lru_cache(maxsize=4096)
def inner(geometry: Geometry) -> Geometry | None:
    """Where stride and dilation are the same, the convolution without them of the rows and columns that are seen.

    None where they differ, or where that convolution would have another output.
    """
    step = geometry.stride[0]
    if not (geometry.depthwise and step > 1 and {*geometry.stride, *geometry.dilation} == {step}):
        return None
    firsts = _firsts(geometry)
    rows, columns = (len(range(first, size, step)) for first, size in zip(firsts, geometry.size, strict=True))
    above, left = ((padding + first) // step for first, padding in zip(firsts, geometry.padding, strict=True))
    smaller = evolve(geometry, size=(rows, columns), stride=(1, 1), dilation=(1, 1), padding=(above, left))
    can_turn = above <= smaller.reach[0] and left <= smaller.reach[1]
    return smaller if can_turn and smaller.output == geometry.output else None


def _firsts(geometry: Geometry) -> Pair:
    """The first row and column that a convolution of equal stride and dilation sees."""
    return -geometry.padding[0] % geometry.stride[0], -geometry.padding[1] % geometry.stride[1]


def _seen(geometry: Geometry, x: Tensor) -> Tensor:
    (top, left), step = _firsts(geometry), geometry.stride[0]
    return x[:, :, top::step, left::step]


def scattered(geometry: Geometry, seen: Tensor) -> Tensor:
    """The image's gradient from that of the `inner` convolution: zero where nothing was seen."""
    (top, left), (rows, columns) = _firsts(geometry), geometry.size
    apart = spread(seen, geometry.stride)
    return F.pad(apart, (left, columns - left - apart.shape[3], top, rows - top - apart.shape[2]))


def has_weight_gradient(geometry: Geometry, x: Tensor) -> bool:
    """Whether `weight_gradient` is the way for such a convolution."""
    wide, (down, across) = geometry.kernel[1] > COLUMNS, geometry.dilation
    large = x.numel() >= ENTRIES
    if (down, across) == (1, 1):
        return wide and large
    if inner(geometry) is not None:
        return True
    many = geometry.groups >= CHANNELS
    return geometry.kernel != (1, 1) and geometry.stride == (1, 1) and down == across and (wide or large or many)


def weight_gradient(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """x, y -> (C, 1, K, L)."""
    smaller = inner(geometry)
    if smaller is not None:
        x, geometry = _seen(geometry, x), smaller
    step, (down, right) = geometry.dilation[0], geometry.stride
    rows, columns = (-(-size // step) for size in geometry.output)
    height, width = geometry.kernel
    x = _remainders(x, geometry.padding, step, ((rows - 1) * down + height, (columns - 1) * right + width))
    y = _remainders(y, (0, 0), step, (rows, columns))
    parts = []
    for first in range(0, width, COLUMNS):
        some = min(COLUMNS, width - first)
        parts.append(
            torch.ops.aten.convolution_backward(
                y,
                x[:, :, :, first : first + (columns - 1) * right + some],
                torch.empty((*geometry.weight[:3], some), dtype=x.dtype),
                None,
                geometry.stride,
                (0, 0),
                (1, 1),
                False,
                (0, 0),
                geometry.groups,
                (False, True, False),
            )[1]
        )
    return torch.cat(parts, dim=3) if len(parts) > 1 else parts[0]


def _remainders(tensor: Tensor, before: Pair, step: int, size: Pair) -> Tensor:
    """Rows and columns sorted by their remainder: (N, C, H, W) -> (step * step * N, C, *size), channels last.

    Entry (m, n) of part (a, b) is row m * step + a and column n * step + b, counted from `before` rows and columns
    of zeros in front; what the image lacks behind is zeros too.
    """
    images, channels, height, width = tensor.shape
    (rows, columns), (above, left) = size, before
    amounts = [left, columns * step - width - left, above, rows * step - height - above]
    padded = F.pad(tensor, amounts) if any(amounts) else tensor
    if step == 1:
        return padded
    parts = padded.view(images, channels, rows, step, columns, step).permute(3, 5, 0, 2, 4, 1)
    return parts.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
