"""Rows of coefficients behind pooling of (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.rows import Coefficients, Crop, Pair, Rows, with_rows_last
from robustnas.bounds.steps.layers import Repeated


@frozen(eq=False)
class ChosenEntries:
    """Lines of max pooling: below, the entry of the window at one place; above, a multiple of that at another.

    Args:
        size: rows and columns of the input.
        windows: their kernel, stride, padding and dilation.
        places: (N, C, h, w) twice, flat places in the input, of the line below and of that above.
        slope: (N, C, h, w) of the line above.
        beneath, atop: (N, C, h, w) line - function at the clean images.
    """

    mixes: ClassVar[int] = 2
    size: Pair
    windows: tuple[Pair, ...]
    places: tuple[Tensor, Tensor]
    slope: Tensor
    beneath: Tensor
    atop: Tensor

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        rows.part()
        coefficients = rows.level(coefficients)
        crop = coefficients.crop
        each = rows.by_row(rows.inside(coefficients, (output.shape[2], output.shape[3])).tensor)
        positive, negative = each.clamp_min(0.0), each.clamp_max(0.0)
        slope, beneath, atop = (rows.maps(one, crop) for one in (self.slope, self.beneath, self.atop))
        rows.add_gap(torch.addcmul(positive * beneath, negative, atop))
        seen, size = None, self.size
        if crop is not None:
            kernel, stride, padding, dilation = self.windows
            reach = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
            seen = crop.through(stride, padding, reach)
            size = seen.size
        total = None
        if crop is None and rows.alone is not None and with_rows_last(each[0]):
            return [Coefficients(self._of_one_image(rows.alone, (positive, negative * slope)))]
        for part, at in zip((positive, negative * slope), self.places, strict=True):
            places = rows.maps(at.to(torch.float64), crop).long()
            if seen is not None:
                top, left = (one.view(-1, 1, 1, 1) for one in rows.begin(seen))
                down, across = places.div(self.size[1], rounding_mode="floor"), places % self.size[1]
                places = ((down - top) * size[1] + across - left).clamp(0, size[0] * size[1] - 1)
            # pixels as rows of memory, as crops and maps have them
            flat = part.flatten(0, 1).permute(0, 2, 3, 1).flatten(1, 2)
            where = places.expand(len(rows.image), -1, -1, -1).permute(0, 2, 3, 1).flatten(1, 2)
            where = where.repeat(len(flat) // len(rows.image), 1, 1)
            total = flat.new_zeros(len(flat), size[0] * size[1], flat.shape[2]) if total is None else total
            total = total.scatter_add(1, where, flat)
        assert total is not None
        pulled = total.view(len(total), *size, -1).permute(0, 3, 1, 2)
        return [Coefficients(pulled, seen)]

    def _of_one_image(self, image: int, parts: tuple[Tensor, Tensor]) -> Tensor:
        """Add coefficients (1 or 2, R, C, h, w), with the rows last, at the places of an image."""
        channels, area = self.slope.shape[1], self.size[0] * self.size[1]
        first = torch.arange(channels, device=self.slope.device)[:, None] * area
        total = None
        for part, at in zip(parts, self.places, strict=True):
            where = (at[min(image, len(at) - 1)].flatten(1) + first).flatten()
            flat = part.flatten(0, 1).permute(1, 2, 3, 0).flatten(0, 2)
            total = flat.new_zeros(channels * area, flat.shape[1]) if total is None else total
            total = total.index_add(0, where, flat)
        assert total is not None
        return total.view(channels, *self.size, -1).permute(3, 0, 1, 2)


@frozen(eq=False)
class Average:
    """Means over windows of (N, C, H, W): entries have the coefficients of the windows that see them, over what these
    divide by.

    Args:
        function: the pooling.
        shape: of the input.
        kernel, stride, padding: of the windows.
    """

    mixes: ClassVar[int] = 2

    function: Callable[[Tensor], Tensor]
    shape: torch.Size
    kernel: Pair
    stride: Pair
    padding: Pair

    def share(self, like: Tensor) -> Tensor:
        """(1, 1, h, w) what each window multiplies its entries with."""
        ones = self.function(like.new_ones(1, 1, *self.shape[2:]))
        # of a map of ones, windows give the share of their entries that the divisor counts
        rows, columns = (
            torch.tensor([len(range(max(0, at * step - before), min(size, at * step - before + length)))
                          for at in range(count)])
            for count, size, length, step, before in zip(
                ones.shape[2:], self.shape[2:], self.kernel, self.stride, self.padding, strict=True
            )
        )  # fmt: skip
        return ones / (rows[:, None] * columns).to(ones)

    def pull(self, rows: Rows, output: Tensor, coefficients: Coefficients) -> list[Coefficients]:
        crop = coefficients.crop
        if crop is None:
            return Repeated(self.function, self.shape).pull(rows, output, coefficients)
        share = rows.maps(self.share(output).expand(rows.images, -1, -1, -1), crop)
        each = (rows.by_row(coefficients.tensor) * share).flatten(0, 1)
        seen = crop.through(self.stride, self.padding, (self.kernel[0] - 1, self.kernel[1] - 1))
        columns = _spread(each, 3, self.kernel[1], self.stride[1], seen)
        return [Coefficients(_spread(columns, 2, self.kernel[0], self.stride[0], seen), seen, sticks=True)]


def _spread(tensor: Tensor, dim: int, kernel: int, stride: int, seen: Crop) -> Tensor:
    """Add every entry to the `kernel` entries that its window sees along a dimension."""
    shape = list(tensor.shape)
    shape[dim] = seen.size[dim - 2]
    total = tensor.new_zeros(shape)
    for at in range(kernel):
        last = at + (tensor.shape[dim] - 1) * stride + 1
        view = total[(slice(None),) * dim + (slice(at, last, stride),)]
        view += tensor
    return total
