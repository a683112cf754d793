"""How the streams of a value pass through affine functions, and through functions of each entry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.passes import Matters, interval
from robustnas.bounds.relaxation import relax_entrywise
from robustnas.bounds.scale import at_scale, portion
from robustnas.bounds.steps.layers import Scale
from robustnas.bounds.steps.local import Local
from robustnas.bounds.tape import Step
from robustnas.bounds.value import Value, midpoint

Entrywise = Callable[[Tensor], Tensor]
"""A function of a tensor that treats every entry, or at least every image, by itself."""

Span = Callable[[Tensor, Tensor, Entrywise], tuple[Tensor, Tensor]]
"""(lower, upper, function) -> the least and the largest value of the function on [lower, upper]."""


@frozen(eq=False)
class Lines:
    """Two lines slope * x + offset, all (N, ...), that enclose an activation on [lower, upper], entry by entry."""

    lower_slope: Tensor
    lower_offset: Tensor | None
    upper_slope: Tensor
    upper_offset: Tensor | None


def enclose(
    value: Value,
    function: Entrywise,
    lines: Callable[[Tensor, Tensor, Entrywise], Lines],
    matters: Matters | None = None,
    span: Span | None = None,
) -> Value:
    """Bound a function of each entry: its interval comes from `span` (for nondecreasing functions, from the ends), and
    its lines are attached to the clean value."""
    propagation = value.propagation
    lower, upper = interval(value, matters)
    with propagation.intervals():
        ends = (function(lower), function(upper)) if span is None else span(lower, upper, function)
        centre, radius = midpoint(*ends)
    clean = None
    if value.clean is not None:
        clean = function(value.clean)
        if propagation.backward:
            with propagation.intervals():
                drawn = lines(lower, upper, function)
            below, above = (drawn.lower_slope, drawn.lower_offset), (drawn.upper_slope, drawn.upper_offset)
            whole = () if value.exponent is None else (portion(clean, value), value.clean)
            clean = relax_entrywise(propagation, clean, at_scale(value), *below, *above, *whole)
    return value.like(clean, centre, radius)


def propagate(
    value: Value,
    function: Entrywise,
    magnitude: Entrywise,
    length: Entrywise | None = None,
    constant: Tensor | None = None,
    step: Callable[[], Step] | None = None,
    whole: Entrywise | None = None,
) -> Value:
    """Bound an affine function of a value.

    Args:
        function: the linear part, for centre and clean value; with the constant in it, if `constant` is None.
        whole: the function of clean values, where that is not `function` and `constant`.
        magnitude: the linear part with absolute coefficients, for the radius.
        length: takes the scales (N, ...) of entries that are pixels of an l_2 or l_1 ball, and gives for every output
            the dual norm of its coefficients times these scales.
        constant: what is added, (1, ...) or (N, ...); to the centre it is divided, where that has an exponent.
        step: makes what the pass's tape is told of the function; without it autograd is asked.
    """
    region, share = value.propagation.region, None if constant is None else portion(constant, value)

    def affine(x: Tensor) -> Tensor:
        return function(x) if share is None else function(x) + share

    clean = value.clean
    if clean is not None and whole is not None:
        clean = whole(clean)
    elif clean is not None:
        clean = function(clean) if constant is None else function(clean) + constant
    if clean is not None and value.clean is not None:
        made, of = clean, value.clean
        value.propagation.note(made, (of,), step or (lambda: Local((made,), (of,))))
    with value.propagation.intervals():
        centre, radius = affine(value.centre), magnitude(value.radius)
        if value.ball is not None and length is not None:
            reaches = length(value.ball.reach(region.norm))
            reach = region.epsilon.view(-1, *[1] * (reaches.dim() - 1)) * reaches
            middle = affine(value.ball.clean)
            lower, upper = (
                torch.maximum(centre - radius, middle - reach),
                torch.minimum(centre + radius, middle + reach),
            )
            # where both intervals are a point, rounding may let the ends cross
            centre, radius = (lower + upper) / 2, ((upper - lower) / 2).clamp_min(0.0)
    return value.like(clean, centre, radius)


def scale_entries(value: Value, affine: Entrywise, size: Entrywise, whole: Entrywise | None = None) -> Value:
    """Bound arithmetic with constants, entry by entry, broadcasting as torch does: `affine` is the arithmetic, `size`
    multiplies by the magnitude of its factor, `whole` is the arithmetic of clean values, where these are not divided
    and constants are."""
    step = None
    if value.clean is not None and value.exponent is None and value.propagation.tape is not None:
        clean = value.clean
        if affine(clean.detach()).shape == clean.shape:

            def step() -> Step:
                return Scale(affine, clean)

    result = propagate(value, affine, size, step=step, whole=whole)
    if value.ball is not None:
        with value.propagation.intervals():
            result.ball = value.ball.scaled(affine, size)
    return result


def move_entries(
    value: Value, function: Entrywise, blank: Entrywise | None = None, step: Callable[[], Step] | None = None
) -> Value:
    """Bound a function that moves, selects or copies entries, or puts constants beside them (`blank`: zeros in their
    place)."""
    result = propagate(value, function, blank or function, step=step)
    if value.ball is not None:
        with value.propagation.intervals():
            result.ball = value.ball.moved(function, blank)
    return result


def root(squares: Tensor) -> Tensor:
    """Take the square root, with a gradient at 0 of 0 instead of infinity."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
