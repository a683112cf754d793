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
from robustnas.bounds.scale import is_lost, portion, rescaled, share_of
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
    """Bound ReLU, once for all that are called on a value: a linear bound then sees the sum of their coefficients, of
    which opposite ones cancel, where a pair of lines for each would add up."""
    known = value.rectified
    if known is None:
        known = _relu(value)
        value.rectified = known
    return known.copy()


def _relu(value: Value) -> Value:
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
    scale = (share_of(value), is_lost(value))
    clean, control = _Rectifier.apply(propagation, scale, value.clean, output, *lines)  # type: ignore[no-untyped-call]

    def told() -> EntrywiseLines:
        before, behind = (portion(each.detach(), value) for each in (value.clean, clean) if each is not None)
        return _step(before, behind, ray, above[0], above[1], negative)

    propagation.note(clean, (value.clean,), told)
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
        upper = (centre + radius).relu_()
        half = upper * 0.5
        middle, reach = torch.maximum(centre, half), torch.minimum(radius, half)
        if not with_lines:
            ctx.save_for_backward(centre, radius, half, reach)
            return middle, reach
        tiny = torch.finfo(centre.dtype).tiny
        chord = middle.clamp_max(tiny).add_(reach).div_(radius + tiny)
        offset = upper.mul_(1 - chord)
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
        # s (1 - s), positive just where the kink is inside: elsewhere the chord's slope is 0 or 1
        inside = torch.addcmul(chord, chord, chord, value=-1)
        half = where_positive((by_middle - by_reach).mul_(0.5), inside)
        into_centre.sub_(half)
        into_radius.add_(half)
        if slopes[2] is not None or slopes[3] is not None:
            by_chord, by_offset = by_lines
            ratio = chord.mul(2.0).sub_(1.0)
            turn = (radius + torch.finfo(radius.dtype).tiny).mul_(2.0)
            torch.div(by_chord, turn, out=turn)
            # into the centre; into the radius goes -q times that and the rest of d offset / dr, (1 - q^2)/2
            turn = where_positive(turn.addcmul_(by_offset, ratio, value=-1), inside)
            into_centre.add_(turn)
            into_radius.addcmul_(turn, ratio, value=-1).addcmul_(by_offset, inside, value=2.0)
        return into_centre, into_radius, None


class _Rectifier(torch.autograd.Function):
    """Rectify the clean values; while the pass relaxes, gradients follow the lines.

    The second output carries no value.  Its gradient, (N, ...) in a backward pass that relaxes, gives the slopes of the
    lower lines, so that each row of a batched backward pass has lines of its own and the bound can be differentiated
    in their slopes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        propagation: Propagation,
        scale: tuple[Tensor | None, bool],
        clean: Tensor,
        output: Tensor | None,
        *lines_and_gap_input: Any,
    ) -> tuple[Tensor, Tensor]:
        ctx.mode, (ctx.share, ctx.lost) = propagation.mode, scale
        ctx.set_materialize_grads(False)
        # without the gap's input, which is all zeros
        ctx.save_for_backward(clean, output, *lines_and_gap_input[:-1])
        return F.relu(clean) if output is None else output.view_as(output), clean.new_zeros(()).expand_as(clean)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        slope, chosen = slopes
        if slope is None:
            return None, None, None, None, None, None, None, None
        clean, output, ray, chord, offset = ctx.saved_tensors
        if not ctx.mode.relaxing:
            inward = (where_positive(slope, clean), None) if output is None else (None, slope)
            return None, None, *inward, None, None, None, None
        rows = has_rows(slope)
        if ctx.lost and output is None and not rows:
            clean = None
        elif ctx.share is not None:
            # lines are drawn at the clean value as the interval is divided
            clean, output = clean * ctx.share, None if output is None else output * ctx.share
        if output is None:
            pull = _Pulled.apply if torch.is_grad_enabled() else pulled
            lines = (slope, clean, chord, offset)
            through, gap = of_rows(pull, *lines) if rows else pull(*lines)
        else:
            through, gap = pulled_along(slope, clean, output, ray if chosen is None else chosen, chord, offset)
        return None, None, through, None, None, None, None, gap


def pulled_along(slope: Tensor, clean: Tensor, output: Tensor, ray: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
    """Pull a linear function of a rectifier's outputs through the lines: slopes (N, ...) at its inputs, gaps (N,)."""
    positive, negative = slope.clamp_min(0.0), slope.clamp_max(0.0)
    through = torch.addcmul(positive * ray, negative, chord)
    gap = torch.addcmul(through * clean, slope, output, value=-1)
    return through, per_image(torch.addcmul(gap, negative, offset))


def pulled(slope: Tensor, clean: Tensor | None, chord: Tensor, offset: Tensor) -> Tensors:
    """Pull through the lines of ReLU, of which the one below has the slope of the chord, rounded: 1 where upper >
    -lower, else 0.

    Args:
        slope: (N, ...), or (S, N, ...) of several functions.
        clean: None is 0.

    Returns:
        Slopes at the inputs, shaped as `slope`, and gaps (N,), or (S, N).
    """
    if slope.dim() == chord.dim() and not torch.is_grad_enabled():
        line, height = _line(slope, clean, chord, offset)
        return slope * line, per_image(slope * height)
    clean = torch.zeros_like(chord) if clean is None else clean
    negative, (ray, turn, below, above) = slope.clamp_max(0.0), _parts(clean, chord, offset)
    gap = torch.addcmul(slope * below, negative, above)
    return torch.addcmul(slope * ray, negative, turn), _per_image(gap, clean)


def _line(slope: Tensor, clean: Tensor | None, chord: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The slope of the line that a slope of the function takes, and the gap of that line: (N, ...) each."""
    ray, falling = chord.round(), -slope
    line, height = where_positive(chord - ray, falling).add_(ray), where_positive(offset, falling)
    return line, height if clean is None else height.addcmul_(line, clean).sub_(F.relu(clean))


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
    def forward(ctx: Any, slope: Tensor, clean: Tensor | None, chord: Tensor, offset: Tensor) -> Tensors:
        ctx.set_materialize_grads(False)
        if slope.dim() > chord.dim():
            ctx.save_for_backward(slope, clean, chord, offset)
            return pulled(slope, clean, chord, offset)
        line, height = _line(slope, clean, chord, offset)
        ctx.save_for_backward(slope, clean, chord, offset, line, height)
        return slope * line, per_image(slope * height)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        slope, clean, chord, offset, *line_and_height = ctx.saved_tensors
        if torch.is_grad_enabled():
            clean = torch.zeros_like(chord) if clean is None else clean
            return differentiated(pulled, (slope, clean, chord, offset), cotangents)
        by_through, by_gap = cotangents
        if line_and_height and by_through is not None and by_gap is not None:
            line, height = line_and_height
            by_gap = by_gap.view(-1, *[1] * (chord.dim() - 1))
            negative, by_clean = slope.clamp_max(0.0), None
            if clean is not None and ctx.needs_input_grad[1]:
                by_clean = (slope * line).sub_(where_positive(slope, clean)).mul_(by_gap)
            by_slope = (by_through * line).addcmul_(by_gap, height)
            by_chord = by_through * negative
            by_offset = negative.mul_(by_gap)
            if clean is not None:
                by_chord.addcmul_(by_offset, clean)
            return by_slope, by_clean, by_chord, by_offset
        clean = torch.zeros_like(chord) if clean is None else clean
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
