"""Bounds ReLU and leaky ReLU between a chord above and a ray through 0 below.

The ray is one of the function's two pieces, whichever leaves the smaller area, or it is optimised.  Most of the time of
bounds goes into ReLU, so its rule computes interval, lines and their gradients in a few passes over memory;
`rectifier_lines` gives the same lines for a leaky ReLU of any slope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.passes import interval, tighten
from robustnas.bounds.propagation import FreeSlopes, Propagation
from robustnas.bounds.rectified import meet
from robustnas.bounds.refusals import only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.relaxation import Gradients, differentiated, per_image
from robustnas.bounds.scale import rescaled
from robustnas.bounds.steps.lines import EntrywiseLines, Slopes
from robustnas.bounds.streams import Lines
from robustnas.bounds.value import Function, Value, midpoint, refuse
from robustnas.nn.fast import has_rows, of_rows

Tensors = tuple[Tensor, ...]


def unstable(lower: Tensor, upper: Tensor) -> Tensor:
    """Find entries whose interval has the kink inside."""
    return (lower < 0) & (upper > 0)


def rectifier_lines(lower: Tensor, upper: Tensor, negative: float) -> Lines:
    """Draw lines around x -> max(x, negative * x) with 0 <= negative <= 1; source: CROWN, arXiv:1811.00866.

    The line above is the chord.  The line below is the ray that leaves the smaller area: the identity where
    upper > -lower.  Both are the function itself where the interval does not contain the kink.
    """
    kinked = unstable(lower, upper)
    # 1 stands for widths that are not used: 0/0 would make NaN of the gradient even where `where` drops the value
    width = torch.where(kinked, upper - lower, 1.0)
    # an interval that overflowed is NaN, of which neither condition holds: it must not pass for a stable one
    left = torch.full_like(lower, negative)
    stable = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, left, torch.nan))
    chord = torch.where(kinked, (upper - negative * lower) / width, stable)
    offset = torch.where(kinked, (negative - chord) * lower, 0.0)
    ray = torch.where(upper > -lower, 1.0, left)
    return Lines(ray, None, chord, offset)


@rule(*spellings("leaky_relu", "leaky_relu_"), scaled=True)
def leaky_relu(
    function: Function, value: Value, negative_slope: float = 0.01, inplace: bool = False, **kwargs: Any
) -> Value:
    """Bound leaky ReLU, whose ray on the left has `negative_slope`."""
    only_first(function, value, (negative_slope,), kwargs)
    if not 0 <= negative_slope <= 1:
        refuse(function, value, f"negative_slope {negative_slope:g}: the lines hold for slopes in [0, 1]")
    if negative_slope == 0:
        return relu(function, value)
    value = rescaled(value)
    meet(value.centre, value.radius)
    lower, upper = interval(value, unstable)
    with value.propagation.intervals():
        centre, radius = midpoint(F.leaky_relu(lower, negative_slope), F.leaky_relu(upper, negative_slope))
        lines = rectifier_lines(lower, upper, negative_slope)
    clean = None if value.clean is None else F.leaky_relu(value.clean, negative_slope)
    if value.propagation.backward:
        clean = _rectified(value, clean, lines.lower_slope, (lines.upper_slope, lines.upper_offset), negative_slope)
    return value.like(clean, centre, radius)


@rule(*spellings("relu", "relu_"), scaled=True)
def relu(function: Function, value: Value, inplace: bool = False) -> Value:
    value = rescaled(value)
    propagation = value.propagation
    meet(value.centre, value.radius)
    tighten(value, unstable)
    if value.clean is None or not propagation.backward:
        with propagation.intervals():
            centre, radius = _Enclosure.apply(value.centre, value.radius, False)  # type: ignore[no-untyped-call]
        return value.like(None if value.clean is None else F.relu(value.clean), centre, radius)
    optimised = propagation.kind.ascent is not None
    with propagation.intervals():
        if optimised:
            enclosed = enclosure(value.centre, value.radius)
        else:
            enclosed = _Enclosure.apply(value.centre, value.radius, True)  # type: ignore[no-untyped-call]
    centre, radius, chord, offset = enclosed
    output, ray = (F.relu(value.clean), chord.round()) if optimised else (None, None)
    return value.like(_rectified(value, output, ray, (chord, offset)), centre, radius)


def _rectified(
    value: Value, output: Tensor | None, ray: Tensor | None, above: Sequence[Any], negative: float = 0.0
) -> Tensor:
    """Apply the rectifier to the clean value, and attach the lines.

    Args:
        output: the rectified clean value; None for ReLU, whose backward pass has a form in fewer passes.
        ray: slope of the line below; None rounds the slope of the line above to 0 or 1.
        above: slope and offset of the line above.
        negative: slope of the rectifier on the left.
    """
    propagation = value.propagation
    lines = (ray, *above, propagation.gap_input)
    clean: Tensor
    clean, control = _Rectifier.apply(propagation, value.clean, output, *lines)  # type: ignore[no-untyped-call]
    propagation.note(clean, (value.clean,), lambda: _step(value.clean, clean, ray, above[0], above[1], negative))
    if ray is not None and propagation.kind.ascent:
        if bool(unstable(value.lower, value.upper).any()):
            place = None if propagation.settled is None else propagation.settled.place(value)
            record = None if propagation.tape is None else propagation.tape.of(clean)
            step = None if record is None else record.place
            free = FreeSlopes(control, ray.detach(), negative, clean, place, propagation.rectifiers, step)
            propagation.free_slopes.append(free)
        propagation.rectifiers += 1
    return clean


def _step(
    clean: Any, output: Tensor, ray: Tensor | None, chord: Tensor, offset: Tensor, negative: float
) -> EntrywiseLines:
    """Tell the pass's tape of the lines."""

    def drawn() -> Slopes:
        below = chord.round() if ray is None else ray
        turn = chord - below
        return Slopes(below, turn, below * clean - output, torch.addcmul(offset, turn, clean))

    return EntrywiseLines(drawn, clean.detach(), negative)


def enclosure(centre: Tensor, radius: Tensor) -> Tensors:
    """Compute centre and radius of ReLU's values on centre +- radius, and slope and offset of the chord above.

    With h half of the upper end, or 0 where that is negative, the centre is max(centre, h), the radius min(radius, h)
    and the chord's slope min(radius, h) / radius, whatever the signs of the ends.  No end is subtracted from another,
    so a radius far below the rounding of the centre survives.  Where the interval is a point the chord is the tangent;
    where it is NaN, so is everything.
    """
    half = F.relu(centre + radius) / 2
    middle, reach = torch.maximum(centre, half), torch.minimum(radius, half)
    # adding `tiny` changes no number but 0, where it makes the quotient 1 or 0 instead of 0/0
    tiny = torch.finfo(centre.dtype).tiny
    chord = (reach + middle.clamp_max(tiny)) / (radius + tiny)
    return middle, reach, chord, 2 * half * (1 - chord)


class _Enclosure(torch.autograd.Function):
    """Compute `enclosure`, or its centre and radius alone, with gradients in fewer passes over memory."""

    @staticmethod
    def forward(ctx: Any, centre: Tensor, radius: Tensor, with_lines: bool) -> Tensors:
        ctx.set_materialize_grads(False)
        half = F.relu(centre + radius).mul_(0.5)
        middle, reach = torch.maximum(centre, half), torch.minimum(radius, half)
        if not with_lines:
            ctx.save_for_backward(centre, radius, half, reach)
            return middle, reach
        tiny = torch.finfo(centre.dtype).tiny
        chord = middle.clamp_max(tiny).add_(reach).div_(radius + tiny)
        offset = half.mul_(2.0).mul_(1 - chord)
        ctx.save_for_backward(centre, radius, chord)
        return middle, reach, chord, offset

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        """Pass gradients on where the interval is positive and stop them where it is negative.  Where the kink is
        inside, with centre c, radius r, s the chord's slope and q = c / r = 2 s - 1, they follow from

        middle = reach = (c + r)/2,   offset = (r^2 - c^2) / 2r,   ds/dc = 1 / 2r,   ds/dr = -q / 2r
        """
        centre, radius, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            inputs, count = (centre, radius), len(slopes)
            return (*differentiated(lambda c, r: enclosure(c, r)[:count], inputs, slopes), None)
        by_middle, by_reach, *by_lines = (torch.zeros_like(centre) if slope is None else slope for slope in slopes)
        if not by_lines:
            half, reach = kept
            by_middle, by_reach = where_positive(by_middle, half), where_positive(by_reach, half)
            turned = where_positive((by_reach - by_middle).mul_(0.5), radius - reach)
            return by_middle.add_(turned), by_reach.sub_(turned), None
        (chord,) = kept
        into_centre, into_radius = where_positive(by_middle, chord), where_positive(by_reach, chord)
        # positive just where the kink is inside: elsewhere the chord's slope is 0 or 1
        inside = chord * (1.0 - chord)
        half = (by_middle - by_reach).mul_(0.5)
        at_centre, at_radius = half.neg(), half
        if slopes[2] is not None or slopes[3] is not None:
            by_chord, by_offset = by_lines
            ratio = torch.sub(2.0 * chord, 1.0)
            turn = by_chord * (radius + torch.finfo(radius.dtype).tiny).reciprocal_().mul_(0.5)
            at_centre = at_centre.add_(turn).addcmul_(by_offset, ratio, value=-1)
            at_radius = at_radius.addcmul_(turn, ratio, value=-1)
            at_radius = at_radius.addcmul_(by_offset, ratio.square().add_(1.0), value=0.5)
        into_centre.add_(where_positive(at_centre, inside))
        into_radius.add_(where_positive(at_radius, inside))
        return into_centre, into_radius, None


class _Rectifier(torch.autograd.Function):
    """Rectify the clean values; while the pass relaxes, gradients follow the lines.

    The second output carries no value.  Its gradient, (N, ...) in a backward pass that relaxes, gives the slopes of the
    lower lines, so that each row of a batched backward pass has lines of its own and the bound can be differentiated
    in their slopes.
    """

    @staticmethod
    def forward(
        ctx: Any, propagation: Propagation, clean: Tensor, output: Tensor | None, *lines_and_gap_input: Any
    ) -> tuple[Tensor, Tensor]:
        ctx.mode = propagation.mode
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(clean, output, *lines_and_gap_input[:-1])  # without the gap's input, which is all zeros
        return F.relu(clean) if output is None else output.view_as(output), clean.new_zeros(()).expand_as(clean)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        slope, chosen = slopes
        if slope is None:
            return None, None, None, None, None, None, None
        clean, output, ray, chord, offset = ctx.saved_tensors
        if not ctx.mode.relaxing:
            inward = (where_positive(slope, clean), None) if output is None else (None, slope)
            return None, *inward, None, None, None, None
        if output is None:
            pull = _Pulled.apply if torch.is_grad_enabled() else pulled
            lines = (slope, clean, chord, offset)
            through, gap = of_rows(pull, *lines) if has_rows(slope) else pull(*lines)
        else:
            through, gap = pulled_along(slope, clean, output, ray if chosen is None else chosen, chord, offset)
        return None, through, None, None, None, None, gap


def pulled_along(slope: Tensor, clean: Tensor, output: Tensor, ray: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
    """Pull a linear function of a rectifier's outputs through the lines: slopes (N, ...) at its inputs, gaps (N,)."""
    positive, negative = slope.clamp_min(0.0), slope.clamp_max(0.0)
    through = torch.addcmul(positive * ray, negative, chord)
    gap = torch.addcmul(through * clean, slope, output, value=-1)
    return through, per_image(torch.addcmul(gap, negative, offset))


def pulled(slope: Tensor, clean: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
    """Pull through the lines of ReLU, of which the one below has the slope of the chord, rounded: 1 where upper >
    -lower, else 0.

    Args:
        slope: (N, ...), or (S, N, ...) of several functions.

    Returns:
        Slopes at the inputs, shaped as `slope`, and gaps (N,), or (S, N).
    """
    negative, (ray, turn, below, above) = slope.clamp_max(0.0), _parts(clean, chord, offset)
    gap = torch.addcmul(slope * below, negative, above)
    return torch.addcmul(slope * ray, negative, turn), _per_image(gap, clean)


def _parts(clean: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
    """The slope of the line below, how much steeper the chord is, the gap of the line below, and how much larger the
    chord's is: (N, ...) each.  A slope of the function takes the first of each pair, and the second where it is
    negative."""
    ray = chord.round()
    turn = chord - ray
    return ray, turn, torch.addcmul(-F.relu(clean), ray, clean), torch.addcmul(offset, turn, clean)


def _per_image(values: Tensor, clean: Tensor) -> Tensor:
    """Sum over the entries of an image, of values that have rows in front or not."""
    return values.sum(tuple(range(2, values.dim()))) if values.dim() > clean.dim() else per_image(values)


class _Pulled(torch.autograd.Function):
    """Compute `pulled`, with gradients in fewer passes over memory."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, clean: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
        ctx.save_for_backward(slope, clean, chord, offset)
        ctx.set_materialize_grads(False)
        return pulled(slope, clean, chord, offset)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        slope, clean, chord, offset = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiated(pulled, (slope, clean, chord, offset), cotangents)
        by_through, by_gap = cotangents
        by_slope = torch.zeros_like(slope) if by_through is None else by_through
        ray, turn, below, above = _parts(clean, chord, offset)
        rows = slope.dim() > clean.dim()
        negative = slope.clamp_max(0.0)
        by_chord = by_slope * negative
        by_negative = by_slope * turn
        by_slope = by_slope * ray
        if by_gap is None:
            return (
                by_slope.add_(where_positive(by_negative, -negative)),
                None,
                by_chord.sum(0) if rows else by_chord,
                None,
            )
        by_gap = by_gap.view(*by_gap.shape, *[1] * (clean.dim() - 1))
        by_negative.addcmul_(by_gap, above)
        by_slope.addcmul_(by_gap, below).add_(where_positive(by_negative, negative.neg()))
        by_below, by_above = by_gap * slope, negative.mul_(by_gap)
        if rows:
            by_chord, by_below, by_above = by_chord.sum(0), by_below.sum(0), by_above.sum(0)
        by_clean = (ray * by_below).sub_(where_positive(by_below, clean)).addcmul_(turn, by_above)
        return by_slope, by_clean, by_chord.addcmul_(clean, by_above), by_above


def where_positive(values: Tensor, condition: Tensor) -> Tensor:
    """Put 0 where the condition is not positive: on CPUs 5 to 20 times as fast as a comparison and `where`."""
    selected: Tensor = torch.ops.aten.threshold_backward(values, condition, 0)
    return selected
