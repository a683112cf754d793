"""Clean values stay whole where the streams beside them are divided: the factors are in their backward passes alone.

Where intervals are carried with an exponent (`scale.py`), slopes A belong to divided values.  A clean value is of order
one at any depth, and is left as it is; what divides the interval beside it multiplies the slopes that pass through it:

    moved        the interval beside it is divided once more: slopes are multiplied by the factor
    divided      the clean value as the interval beside it is, at which lines are drawn: slopes pass as they are

In backward passes that do not relax, which differentiate what is computed, both do what they say they compute.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.propagation import Mode

Gradients = tuple[None, Tensor, None]


def moved(mode: Mode, clean: Tensor, factor: Tensor) -> Tensor:
    """The clean value (N, ...) itself, beside an interval that has been multiplied by the factor (N, 1, ...)."""
    result: Tensor = _Moved.apply(mode, clean, factor)  # type: ignore[no-untyped-call]
    return result


def divided(mode: Mode, clean: Tensor, share: Tensor) -> Tensor:
    """The clean value times the share (N, 1, ...), 1 over what the interval beside it is divided by."""
    result: Tensor = _Divided.apply(mode, clean, share)  # type: ignore[no-untyped-call]
    return result


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mode: Mode, clean: Tensor, factor: Tensor) -> Tensor:
        ctx.mode = mode
        ctx.save_for_backward(factor)
        return clean.view_as(clean)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        (slope,), (factor,) = slopes, ctx.saved_tensors
        return None, slope * factor if ctx.mode.relaxing else slope, None


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mode: Mode, clean: Tensor, share: Tensor) -> Tensor:
        ctx.mode = mode
        ctx.save_for_backward(share)
        return clean * share

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        (slope,), (share,) = slopes, ctx.saved_tensors
        return None, slope if ctx.mode.relaxing else slope * share, None
