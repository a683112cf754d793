"""How a nonlinearity behaves in a backward pass: its derivative, or, while a pass relaxes, its lines.

Both functions return their first tensor unchanged.  In an ordinary backward pass the gradient goes to that
tensor, hence to the true derivative.  While `walk.relaxing`, the gradient A goes to the lower line where
A >= 0 and to the upper line where A < 0, and <A, line - value> goes to the budget of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.walk import Walk


def relax(walk: Walk, output: Tensor, lower_line: Tensor, upper_line: Tensor) -> Tensor:
    """Attach two lines to the clean output of a nonlinearity; all three (N, ...).

    `lower_line` and `upper_line` are the lines' values at the clean input, computed from it by linear
    operations, so that autograd knows their transposes.  They must enclose the nonlinearity on the whole
    interval.
    """
    relaxed: Tensor = _Lines.apply(walk, output, lower_line, upper_line, walk.budget)  # type: ignore[no-untyped-call]
    return relaxed


def relax_entrywise(
    walk: Walk,
    output: Tensor,
    clean: Tensor,
    lower_slope: Tensor,
    lower_offset: Tensor | None,
    upper_slope: Tensor,
    upper_offset: Tensor | None,
) -> Tensor:
    """The same for slope * input + offset, entry by entry; an offset of None is zero."""
    relaxed: Tensor = _EntrywiseLines.apply(  # type: ignore[no-untyped-call]
        walk, output, clean, lower_slope, lower_offset, upper_slope, upper_offset, walk.budget
    )
    return relaxed


def differentiated(
    function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], slopes: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of sum <slope, output> in the inputs, with a graph: the backward pass of a function that has a
    faster one without."""
    with torch.enable_grad():
        pairs = [(out, slope) for out, slope in zip(function(*inputs), slopes, strict=True) if slope is not None]
        places = [place for place in inputs if place.requires_grad]
        found = iter(
            torch.autograd.grad(
                [out for out, _ in pairs], places, [slope for _, slope in pairs], create_graph=True, allow_unused=True
            )
        )
    return tuple(next(found) if place.requires_grad else None for place in inputs)


def per_image(values: Tensor) -> Tensor:
    """Sums over all dimensions but the first, (N, ...) -> (N,)."""
    # not flatten: batched backward passes have no rule for it
    return values.sum(tuple(range(1, values.dim()))) if values.dim() > 1 else values


class _Lines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, walk: Walk, output: Tensor, lower_line: Tensor, upper_line: Tensor, budget: Tensor) -> Tensor:
        ctx.walk = walk
        ctx.save_for_backward(output, lower_line, upper_line)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = gradients
        if not ctx.walk.relaxing:
            return None, slope, None, None, None
        output, lower_line, upper_line = ctx.saved_tensors
        positive, negative = slope.clamp_min(0.0), slope.clamp_max(0.0)
        gap = positive * (lower_line - output) + negative * (upper_line - output)
        return None, None, positive, negative, per_image(gap)


class _EntrywiseLines(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        walk: Walk,
        output: Tensor,
        clean: Tensor,
        lower_slope: Tensor,
        lower_offset: Tensor | None,
        upper_slope: Tensor,
        upper_offset: Tensor | None,
        budget: Tensor,
    ) -> Tensor:
        ctx.walk = walk
        ctx.save_for_backward(output, clean, lower_slope, lower_offset, upper_slope, upper_offset)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = gradients
        if not ctx.walk.relaxing:
            return None, slope, None, None, None, None, None, None
        output, clean, lower_slope, lower_offset, upper_slope, upper_offset = ctx.saved_tensors
        positive = slope >= 0
        chosen = torch.where(positive, lower_slope, upper_slope)
        gap = chosen * clean - output
        if lower_offset is not None or upper_offset is not None:
            zero = output.new_zeros(())
            gap = gap + torch.where(
                positive,
                zero if lower_offset is None else lower_offset,
                zero if upper_offset is None else upper_offset,
            )
        return None, None, slope * chosen, None, None, None, None, per_image(slope * gap)
