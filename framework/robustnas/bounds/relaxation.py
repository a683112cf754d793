"""How a nonlinearity behaves in a backward pass: its derivative, or, while a pass relaxes, its lines.

Both functions return their first tensor unchanged.  In an ordinary backward pass the gradient goes to that
tensor, hence to the true derivative.  While `propagation.mode.relaxing`, the gradient A goes to the lower line where
A >= 0 and to the upper line where A < 0, and <A, line - value> goes to the gap of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.propagation import Propagation
from robustnas.bounds.steps.lines import EntrywiseLines, Lines, Slopes
from robustnas.bounds.tape import Step

Gradients = tuple[Tensor | None, ...]


def relax(
    propagation: Propagation,
    output: Tensor,
    lower_line: Tensor,
    upper_line: Tensor,
    inputs: tuple[Tensor, ...] = (),
    step: Callable[[], Step] | None = None,
    divided: Tensor | None = None,
) -> Tensor:
    """Attach two lines to the clean output of a nonlinearity; all three (N, ...).

    `lower_line` and `upper_line` are the lines' values at the clean input, computed from it by linear
    operations, so that autograd knows their transposes.  They must enclose the nonlinearity on the whole
    interval.

    Args:
        inputs: the clean values of which the lines are made; without them `crown` is slow from here on.
        step: makes what the pass's tape is told of the lines; without it autograd is asked for their slopes.
        divided: the output divided as the interval and the lines are, where these have an exponent (`scale.py`).
    """
    lines = (propagation, output, lower_line, upper_line, propagation.gap_input)
    relaxed: Tensor = _Lines.apply(*lines, divided)  # type: ignore[no-untyped-call]
    if inputs:
        propagation.note(relaxed, inputs, step or (lambda: Lines(output, lower_line, upper_line, inputs)))
    return relaxed


def relax_entrywise(
    propagation: Propagation,
    output: Tensor,
    clean: Tensor,
    lower_slope: Tensor,
    lower_offset: Tensor | None,
    upper_slope: Tensor,
    upper_offset: Tensor | None,
    divided: Tensor | None = None,
    source: Tensor | None = None,
) -> Tensor:
    """Attach lines slope * clean + offset, entry by entry, as `relax` does; an offset of None is zero.

    Where the interval has an exponent (`scale.py`), `clean` and `divided` are the clean input and output divided as it
    is, and `source` is the clean input of which `clean` was made.
    """
    lines = (lower_slope, lower_offset, upper_slope, upper_offset, propagation.gap_input)
    relaxed: Tensor = _EntrywiseLines.apply(propagation, output, clean, divided, *lines)  # type: ignore[no-untyped-call]
    at = output if divided is None else divided

    def drawn() -> Slopes:
        zero = output.new_zeros(())
        below, above = (zero if offset is None else offset for offset in (lower_offset, upper_offset))
        turn = upper_slope - lower_slope
        lines = (lower_slope, turn, lower_slope * clean + below - at, turn * clean + (above - below))
        return Slopes(*(each.detach().expand_as(output) for each in lines))

    propagation.note(relaxed, (clean if source is None else source,), lambda: EntrywiseLines(drawn, clean.detach()))
    return relaxed


def differentiated(
    function: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], slopes: Sequence[Tensor | None]
) -> Gradients:
    """Give gradients of sum <slope, output> in the inputs, with a graph: functions whose backward pass is written out
    fast, but without a graph, call this where gradients are differentiated again."""
    with torch.enable_grad():
        pairs = [(out, slope) for out, slope in zip(function(*inputs), slopes, strict=True) if slope is not None]
        places = [place for place in inputs if place.requires_grad]
        outputs, cotangents = [out for out, _ in pairs], [slope for _, slope in pairs]
        gradients = iter(torch.autograd.grad(outputs, places, cotangents, create_graph=True, allow_unused=True))
    return tuple(next(gradients) if place.requires_grad else None for place in inputs)


def per_image(values: Tensor) -> Tensor:
    """Sum over all dimensions but the first, (N, ...) -> (N,)."""
    # `flatten` would be simpler, but has no batching rule for backward passes
    return values.sum(tuple(range(1, values.dim()))) if values.dim() > 1 else values


class _Lines(torch.autograd.Function):
    """Return the output as it is; while the pass relaxes, gradients go to the lines."""

    @staticmethod
    def forward(
        ctx: Any,
        propagation: Propagation,
        output: Tensor,
        lower_line: Tensor,
        upper_line: Tensor,
        gap_input: Tensor,
        divided: Tensor | None,
    ) -> Tensor:
        ctx.mode = propagation.mode
        ctx.save_for_backward(output if divided is None else divided, lower_line, upper_line)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        (slope,) = gradients
        if not ctx.mode.relaxing:
            return None, slope, None, None, None, None
        output, lower_line, upper_line = ctx.saved_tensors
        positive, negative = slope.clamp_min(0.0), slope.clamp_max(0.0)
        gap = positive * (lower_line - output) + negative * (upper_line - output)
        return None, None, positive, negative, per_image(gap), None


class _EntrywiseLines(torch.autograd.Function):
    """Do what `_Lines` does, for lines given by slopes and offsets."""

    @staticmethod
    def forward(
        ctx: Any, propagation: Propagation, output: Tensor, clean: Tensor, divided: Tensor | None, *lines: Any
    ) -> Tensor:
        ctx.mode = propagation.mode
        at = output if divided is None else divided
        ctx.save_for_backward(at, clean, *lines[:-1])  # without the gap's input, which is all zeros
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        (slope,) = gradients
        if not ctx.mode.relaxing:
            return None, slope, None, None, None, None, None, None, None
        output, clean, lower_slope, lower_offset, upper_slope, upper_offset = ctx.saved_tensors
        positive = slope >= 0
        chosen = torch.where(positive, lower_slope, upper_slope)
        gap = chosen * clean - output
        if lower_offset is not None or upper_offset is not None:
            zero = output.new_zeros(())
            below, above = (zero if offset is None else offset for offset in (lower_offset, upper_offset))
            gap = gap + torch.where(positive, below, above)
        return None, None, slope * chosen, None, None, None, None, None, per_image(slope * gap)
