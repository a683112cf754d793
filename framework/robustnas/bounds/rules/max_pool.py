"""Bounds max pooling, overlapping and padded: interval ends are pooled, the lines of a window follow one entry.

The line below is the entry with the largest lower bound, of several the one with the largest upper bound.  Above, for
any g >= every lower bound of the window,

    max x  <=  g + sum over entries with u_i > g of (u_i - g) / (u_i - l_i) * (x_i - l_i)

because each term is at least 0 and, alone, a chord above x_i.  With g = max(largest l, second largest u)
only the entry with the largest u is left in the sum, and the line is exact when that entry dominates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.passes import tighten
from robustnas.bounds.refusals import only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.relaxation import relax
from robustnas.bounds.scale import at_scale, portion
from robustnas.bounds.steps.pools import ChosenEntries
from robustnas.bounds.value import Function, Value, refuse
from robustnas.nn.fast import pair

Pair = tuple[int, int]

TIE = 2.0**-6
"""Behind a ReLU most windows have several entries with the largest lower bound, 0, among which rounding would choose.
Adding this share of the radius makes it the one with the largest upper bound."""


@rule(*spellings("max_pool2d"), torch.nn.functional.max_pool2d_with_indices, scaled=True)
def max_pool2d(
    function: Function,
    value: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """Pool (N, C, H, W)."""
    only_first(function, value, (kernel_size,))
    refuse_places(function, value, return_indices)
    if value.centre.dim() != 4:
        refuse(function, value, f"input of {value.centre.dim()} dimensions; expected (N, C, H, W)")
    window = {
        "kernel_size": pair(kernel_size),
        "stride": pair(stride if stride not in (None, [], ()) else kernel_size),
        "padding": pair(padding),
        "dilation": pair(dilation),
    }

    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        pooled: tuple[Tensor, Tensor] = F.max_pool2d(x, **window, ceil_mode=ceil_mode, return_indices=True)
        return pooled

    propagation = value.propagation
    if propagation.kind.tightens and value.clean is not None:
        at_clean = pool(value.clean.detach())[1]

        def competes(lower: Tensor, upper: Tensor) -> Tensor:
            """Where an entry may be the largest of a window: the other entries change neither interval nor lines."""
            low = pool(lower.detach())[0]
            return upper > _Windows(lower, low, **window).least(low)

        def leads(lower: Tensor, upper: Tensor) -> Tensor:
            largest = torch.zeros_like(lower, dtype=torch.bool).flatten(2)
            return largest.scatter_(2, at_clean.flatten(2), True).view_as(lower) & competes(lower, upper)

        # the largest ones first: their lower ends may tell that many others need no bounds
        tighten(value, leads, partly=True)
        tighten(value, competes, partly=True)
    with propagation.intervals():
        lower, upper = value.lower, value.upper
    with propagation.intervals():
        low, (high, at_high) = pool(lower)[0], pool(upper)
        middle, reach = _take(value.centre, at_high), _take(value.radius, at_high)
        bottom = middle - reach
        # where one entry has both ends, the interval is its own, which a difference of ends may have rounded away
        alone = bottom == low
        centre = torch.where(alone, middle, (low + high) / 2)
        radius = torch.where(alone, reach, (high - low) / 2)
    clean = None
    if value.clean is not None:
        clean = pool(value.clean)[0]
        if propagation.backward:
            with propagation.intervals():
                at_low = pool((lower + TIE * value.radius).detach())[1]
                second = _Second.apply(upper, _Windows(upper, high, **window))  # type: ignore[no-untyped-call]
                # in a window of one entry `second` is the lowest number there is, so this is the largest lower bound
                floor = torch.maximum(low, second)
                # the excess is 0, and the line level, where a second entry reaches the largest upper bound
                excess = F.relu(high - floor)
                slope = excess / (high - bottom + torch.finfo(high.dtype).tiny)
                # an entry that dominates its window is the line, also where its interval is rounded to a point
                dominant = alone & (second <= low)
                level = high - excess
            at = at_scale(value)
            highest = _take(at, at_high)
            upper_line = torch.where(dominant, highest, level + slope * (highest - bottom))
            lower_line, output, clean_input = _take(at, at_low), clean, value.clean
            divided = None if value.exponent is None else portion(clean, value)

            def step() -> ChosenEntries:
                tilt = torch.where(dominant, 1.0, slope)
                pooled = output if divided is None else divided
                sides = (tilt, lower_line - pooled, upper_line - pooled)
                size = value.centre.shape[2], value.centre.shape[3]
                return ChosenEntries(
                    size, tuple(window.values()), (at_low, at_high), *(side.detach() for side in sides)
                )

            clean = relax(propagation, output, lower_line, upper_line, (clean_input,), step, divided)
    return value.like(clean, centre, radius)


def refuse_places(function: Function, value: Value, return_indices: bool) -> None:
    if return_indices:
        refuse(function, value, "return_indices has no meaning for a whole region")


def _take(values: Tensor, places: Tensor) -> Tensor:
    """Gather entries of (N, C, H, W) at places (N, C, h, w), which are flat indices into H x W.

    The result lies in memory as the places do: arithmetic on tensors that lie differently takes several times as long.
    """
    if places.is_contiguous():
        return values.flatten(2).gather(2, places.flatten(2)).view(places.shape)
    rows, indices = values.permute(0, 2, 3, 1).flatten(1, 2), places.permute(0, 2, 3, 1)
    return rows.gather(1, indices.flatten(1, 2)).view(indices.shape).permute(0, 3, 1, 2)


class _Windows:
    """The windows of a pool, as one tensor of every window's first entry, one of the second entries, and so on."""

    def __init__(self, image: Tensor, pooled: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair):
        self.size, self.padding = (image.shape[2], image.shape[3]), padding
        rows, columns = (
            [slice(at * step, at * step + (count - 1) * move + 1, move) for at in range(kernel)]
            for kernel, step, move, count in zip(kernel_size, dilation, stride, pooled.shape[2:], strict=True)
        )
        self.places = [(..., row, column) for row in rows for column in columns]
        # so many rows and columns after the image's last are looked at by some window
        ends = zip((rows, columns), self.size, padding, strict=True)
        self.behind = tuple(max(0, slices[-1].stop - size - before) for slices, size, before in ends)

    def padded(self, image: Tensor, filling: float) -> Tensor:
        (above, left), (below, right) = self.padding, self.behind
        return F.pad(image, (left, right, above, below), value=filling)

    def cut(self, padded: Tensor) -> Tensor:
        """Cut the image out of its padding."""
        (above, left), (rows, columns) = self.padding, self.size
        return padded[:, :, above : above + rows, left : left + columns]

    def least(self, pooled: Tensor) -> Tensor:
        """The least value of the windows that look at each entry; infinity where none does."""
        least = torch.full_like(self.padded(pooled.new_zeros(*pooled.shape[:2], *self.size), 0.0), torch.inf)
        for place in self.places:
            least[place] = torch.minimum(least[place], pooled)
        return self.cut(least)


class _Second(torch.autograd.Function):
    """The second largest entry of each window; in a window of one entry, the lowest number there is.

    The gradient compares by the sign of differences, which on CPUs takes a fraction of the time.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, windows: _Windows) -> Tensor:
        lowest = torch.finfo(values.dtype).min
        padded = windows.padded(values, lowest)
        largest = padded[windows.places[0]]
        second = torch.full_like(largest, lowest)
        for place in windows.places[1:]:
            entry = padded[place]
            second = torch.maximum(second, torch.minimum(largest, entry))
            largest = torch.maximum(largest, entry)
        ctx.windows = windows
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, second)
        return second

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, None]:
        """Pass the gradient to the first entry that is as large as the second largest."""
        (left,) = slopes
        if left is None:
            return None, None
        values, second = ctx.saved_tensors
        windows, select = ctx.windows, torch.ops.aten.threshold_backward
        nearly_zero = -torch.finfo(values.dtype).tiny
        padded = windows.padded(values.detach(), torch.finfo(values.dtype).min)
        total = torch.zeros_like(padded)
        for place in windows.places:
            above = padded[place] - second.detach()
            part = select(select(left, above, nearly_zero), above.neg_(), nearly_zero)
            total[place] += part
            left = left - part
        return windows.cut(total), None
