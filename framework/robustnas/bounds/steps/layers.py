"""Rows of coefficients behind layers with weights, and behind arithmetic with constants entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Rows, with_rows_last
from robustnas.nn.fast import image_gradient

Pair = tuple[int, int]

THIN = 3
"""Channels of the input that an entry of a thin convolution is made of at most."""

DENSE = 3
"""A convolution of maps whose places number up to this many times those of its kernel is transposed as one product with
a matrix, which has as many more entries than the kernel; measured on a CPU."""

DENSE_DEPTHWISE = 8
"""The same for convolutions in groups, where other ways take longer."""


@frozen(eq=False)
class Linear:
    """Multiply by the weight of a linear layer over the last dimension."""

    mixes: ClassVar[int] = 1
    weight: Tensor

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        if coefficients.crop is not None:  # the last dimension is that of a map, of which a part is here
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        return [Coefficients(coefficients.tensor @ self.weight)]


@frozen(eq=False)
class Convolution:
    """Transpose a convolution of (N, C, H, W): a crop becomes the crop that it looks at."""

    mixes: ClassVar[int] = 1
    weight: Tensor
    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        crop = coefficients.crop
        if crop is None:
            return [Coefficients(self._whole(coefficients.tensor))]
        tensor = rows.inside(coefficients, (output.shape[2], output.shape[3])).tensor
        height, width = self.weight.shape[2:]
        reach = self.dilation[0] * (height - 1), self.dilation[1] * (width - 1)
        seen = crop.through(self.stride, self.padding, reach)
        if self._by_taps(crop.size):
            pulled = _spread(tensor, self.weight, seen.size, self.stride, self.dilation, self.groups > 1)
        else:
            pulled = image_gradient(tensor, self.weight, seen.size, self.stride, (0, 0), self.dilation, self.groups)
        return [Coefficients(pulled, seen, sticks=any(self.padding) or min(*self.stride) > 1)]

    @property
    def thin(self) -> bool:
        """Whether each entry of the output is made of few entries of the input: those of one place, or of one or a
        few channels."""
        return self.weight.shape[1] <= THIN or self.weight.shape[2:].numel() == 1

    def _whole(self, tensor: Tensor) -> Tensor:
        """Transpose for whole maps (B, C', H', W')."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        if not with_rows_last(tensor):
            return image_gradient(tensor, self.weight, self.size, *geometry)
        places, kernel = self.size[0] * self.size[1], self.weight.shape[2] * self.weight.shape[3]
        last = tensor.permute(1, 2, 3, 0)
        if kernel == 1 and self.groups == 1 and not any(self.padding):
            pulled = self.weight[:, :, 0, 0].t() @ last.reshape(len(self.weight), -1)
            pulled = pulled.view(-1, *last.shape[1:])
            if last.shape[1:3] != self.size:
                apart = pulled.new_zeros(len(pulled), *self.size, pulled.shape[3])
                apart[:, :: self.stride[0], :: self.stride[1]] = pulled
                pulled = apart
        elif places <= kernel * (DENSE_DEPTHWISE if self.groups > 1 else DENSE):
            pulled = torch.bmm(self._matrices, last.reshape(self.groups, -1, last.shape[3]))
            pulled = pulled.view(-1, *self.size, last.shape[3])
        else:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
            return image_gradient(tensor, self.weight, self.size, *geometry)
        return pulled.permute(3, 0, 1, 2)

    @cached_property
    def _matrices(self) -> Tensor:
        """(G, C/G * H * W, C'/G * H' * W') the transposed layer, group by group."""
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                self.size, self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        )
        channels = len(self.weight) // self.groups
        units = torch.eye(channels * height * width, dtype=self.weight.dtype, device=self.weight.device)
        units = units.view(-1, channels, height, width).repeat(1, self.groups, 1, 1)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        pulled = image_gradient(units, self.weight, self.size, *geometry)
        return pulled.reshape(len(units), self.groups, -1).permute(1, 2, 0).contiguous()

    def _by_taps(self, size: Pair) -> bool:
        """Whether `_spread` is the faster way for a crop of this size, as measured on a CPU."""
        if self.weight.device.type != "cpu" or self.groups not in (1, len(self.weight)):
            return False
        if self.groups > 1 and self.weight.shape[1] > 1:
            return False
        narrow = self.groups == 1 and self.weight.shape[1] <= 2
        return size == (1, 1) or narrow or (self.groups > 1 and max(self.dilation) > 1)


def _spread(y: Tensor, weight: Tensor, size: Pair, stride: Pair, dilation: Pair, depthwise: bool) -> Tensor:
    """Transpose a convolution without padding entry by entry of its weight: (B, C', h, w) -> (B, C, *size)."""
    y = y.permute(0, 2, 3, 1)
    if depthwise:
        parts = y[:, :, :, None, None] * weight[:, 0].permute(1, 2, 0) if y.shape[1:3] == (1, 1) else None
    else:
        product = y.reshape(-1, y.shape[3]) @ weight.permute(0, 2, 3, 1).flatten(1)
        parts = product.view(*y.shape[:3], *weight.shape[2:], -1)
    if parts is not None and y.shape[1:3] == (1, 1) and dilation == (1, 1):
        return parts[:, 0, 0].permute(0, 3, 1, 2)
    (rows, columns), (down, right) = y.shape[1:3], stride
    channels = weight.shape[0] if depthwise else weight.shape[1]
    total = y.new_zeros(len(y), *size, channels)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            above, left = row * dilation[0], column * dilation[1]
            seen = total[
                :, above : above + (rows - 1) * down + 1 : down, left : left + (columns - 1) * right + 1 : right
            ]
            if parts is None:
                seen.addcmul_(y, weight[:, 0, row, column])
            else:
                seen.add_(parts[:, :, :, row, column])
    return total.permute(0, 3, 1, 2)


class Scale:
    """Multiply entry by entry by the factors of `affine`, arithmetic with constants that keeps the shape."""

    mixes: ClassVar[int] = 0

    def __init__(self, affine: Callable[[Tensor], Tensor], clean: Tensor):
        self._affine, self._clean = affine, clean

    @cached_property
    def factor(self) -> Tensor:
        """(N, ...), or (1, C, 1, ...) where all images and places have the same."""
        with torch.enable_grad():
            place = self._clean.detach().requires_grad_()
            (factor,) = torch.autograd.grad(self._affine(place).sum(), place)
        one = factor[(slice(1), slice(None), *[slice(1)] * (factor.dim() - 2))]
        return one if factor.dim() > 1 and bool((factor == one).all()) else factor

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        factor = rows.maps(self.factor, coefficients.crop)
        scaled = (rows.by_row(coefficients.tensor) * factor).flatten(0, 1)
        sticks = coefficients.sticks and self.factor.shape[2:].numel() == 1
        return [Coefficients(scaled, coefficients.crop, sticks)]


@frozen(eq=False)
class Sum:
    """Give both terms of left + alpha * right their coefficients."""

    mixes: ClassVar[int] = 2
    alpha: float

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        if self.alpha == 1:
            return [coefficients, coefficients]
        second = Coefficients(coefficients.tensor * self.alpha, coefficients.crop, coefficients.sticks)
        return [coefficients, second]


class Repeated:
    """Transpose a linear function of single images, whatever they are, by autograd through zeros in their place."""

    mixes: ClassVar[int] = 2

    def __init__(self, function: Callable[[Tensor], Any], shape: torch.Size):
        self._function, self._shape = function, shape

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        if coefficients.crop is not None:
            coefficients = rows.whole(coefficients, (output.shape[2], output.shape[3]))
        tensor = coefficients.tensor
        with torch.enable_grad():
            place = tensor.new_zeros(len(tensor), *self._shape[1:]).requires_grad_()
            repeated = self._function(place)
        (pulled,) = torch.autograd.grad(repeated, place, tensor, create_graph=tensor.requires_grad)
        return [Coefficients(pulled)]
