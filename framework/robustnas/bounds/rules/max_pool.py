"""Max pooling, overlapping and padded: both pools of the interval, one entry of each window as line.

Below: the entry with the largest lower bound.  Above, for any g >= every lower bound of the window,

    max x  <=  g + sum over entries with u_i > g of (u_i - g) / (u_i - l_i) * (x_i - l_i)

because each term is at least 0 and, alone, a chord above x_i.  With g = max(largest l, second largest u)
only the entry with the largest u is left in the sum, and the line is exact when that entry dominates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.registration import only_first, rule, spellings
from robustnas.bounds.relaxation import relax
from robustnas.bounds.value import Function, Value, refuse


@rule(*spellings("max_pool2d"), torch.nn.functional.max_pool2d_with_indices)
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
    only_first(function, value, (kernel_size,), {})
    if return_indices:
        refuse(function, value, "return_indices has no meaning for a whole region")
    if value.centre.dim() != 4:
        refuse(function, value, f"input of {value.centre.dim()} dimensions; expected (N, C, H, W)")
    window = {
        "kernel_size": _pair(kernel_size),
        "stride": _pair(stride if stride not in (None, [], ()) else kernel_size),
        "padding": _pair(padding),
        "dilation": _pair(dilation),
    }

    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        pooled: tuple[Tensor, Tensor] = F.max_pool2d(x, **window, ceil_mode=ceil_mode, return_indices=True)
        return pooled

    walk = value.walk
    lower, upper = walk.interval(value)
    with walk.intervals():
        low, at_low = pool(lower)
        high, at_high = pool(upper)
        centre, radius = (low + high) / 2, (high - low) / 2
    plain = None
    if value.plain is not None:
        plain = pool(value.plain)[0]
        if walk.backward:
            with walk.intervals():
                second = _take(upper, _second_largest(upper, at_high, window))
                # a window of one entry has no second: torch.maximum with -inf leaves the largest lower bound
                floor = torch.maximum(low, second)
                bottom = _take(lower, at_high)
                open_ = high > floor
                slope = torch.where(open_, (high - floor) / torch.where(open_, high - bottom, 1.0), high - high)
                # high - high: 0, or NaN where the interval has overflowed
                level = torch.where(open_, floor, high)
            upper_line = level + slope * (_take(value.plain, at_high) - bottom)
            plain = relax(walk, plain, _take(value.plain, at_low), upper_line)
    return Value(walk, plain, centre, radius)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def _take(values: Tensor, places: Tensor) -> Tensor:
    """Entries of (N, C, H, W) at places (N, C, h, w), flat indices into H x W; -inf where the place is -1."""
    missing = places < 0
    taken = values.reshape(*values.shape[:2], -1).gather(2, places.clamp_min(0).reshape(*places.shape[:2], -1))
    taken = taken.reshape(places.shape)
    return torch.where(missing, -torch.inf, taken) if bool(missing.any()) else taken


@torch.no_grad()
def _second_largest(values: Tensor, at_largest: Tensor, window: dict[str, tuple[int, int]]) -> Tensor:
    """Flat index of the second largest entry of each window, -1 where a window has one entry only."""
    (kernel_h, kernel_w), (stride_h, stride_w) = window["kernel_size"], window["stride"]
    (pad_h, pad_w), (step_h, step_w) = window["padding"], window["dilation"]
    H, W = values.shape[2:]
    rows, columns = at_largest.shape[2:]
    top = torch.arange(rows, device=values.device) * stride_h - pad_h
    left = torch.arange(columns, device=values.device) * stride_w - pad_w
    best = torch.full_like(values[:, :, :1, :1], -torch.inf).expand(at_largest.shape)
    place = torch.full_like(at_largest, -1)
    flat = values.reshape(*values.shape[:2], -1)
    for i in range(kernel_h):
        y = top + i * step_h
        for j in range(kernel_w):
            x = left + j * step_w
            inside = ((y >= 0) & (y < H))[:, None] & ((x >= 0) & (x < W))[None, :]
            index = y.clamp(0, H - 1)[:, None] * W + x.clamp(0, W - 1)[None, :]
            entry = flat[:, :, index.reshape(-1)].reshape(at_largest.shape)
            better = inside & (index != at_largest) & ((entry > best) | (place < 0))
            best, place = torch.where(better, entry, best), torch.where(better, index.expand_as(place), place)
    return place
