"""ReLU and leaky ReLU: the chord above, one of the two rays below.

ReLU is what a network spends its bounds on, so its rule is written out: interval, lines and their gradients in a few
passes over memory.  `relax_entrywise` with `rectifier_lines` gives the same bounds and serves every slope.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.registration import Lines, enclose, only_first, rule, spellings
from robustnas.bounds.relaxation import differentiated, per_image
from robustnas.bounds.value import Function, Value, refuse
from robustnas.bounds.walk import Walk

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


def unstable(lower: Tensor, upper: Tensor) -> Tensor:
    """Entries whose interval has the kink inside."""
    return (lower < 0) & (upper > 0)


def rectifier_lines(lower: Tensor, upper: Tensor, negative: float) -> Lines:
    """Lines around x -> max(x, negative * x) with 0 <= negative <= 1; source: CROWN, arXiv:1811.00866.

    Below, of the two rays the one that leaves the smaller area: the identity where upper > -lower.  Above,
        the
    chord.  Both are the function itself where the interval does not contain the kink.
    """
    kinked = unstable(lower, upper)
    # the width is 1 where it is not used: no 0/0 in the value nor, through `where`, in the gradient
    width = torch.where(kinked, upper - lower, 1.0)
    # neither holds for a NaN interval (an overflow), which must not pass for a stable one
    stable = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, negative, torch.nan))
    chord = torch.where(kinked, (upper - negative * lower) / width, stable)
    offset = torch.where(kinked, (negative - chord) * lower, 0.0)
    ray = torch.where(upper > -lower, 1.0, negative).to(lower)
    return Lines(ray, None, chord, offset)


@rule(*spellings("leaky_relu", "leaky_relu_"))
def leaky_relu(
    function: Function, value: Value, negative_slope: float = 0.01, inplace: bool = False, **kwargs: Any
) -> Value:
    """As ReLU, with a ray of `negative_slope` on the left."""
    only_first(function, value, (negative_slope,), kwargs)
    if not 0 <= negative_slope <= 1:
        refuse(function, value, f"negative_slope {negative_slope:g}: the lines hold for slopes in [0, 1]")
    return enclose(
        value,
        lambda x: torch.nn.functional.leaky_relu(x, negative_slope),
        lambda lower, upper, _: rectifier_lines(lower, upper, negative_slope),
        unstable,
    )


@rule(*spellings("relu", "relu_"))
def relu(function: Function, value: Value, inplace: bool = False) -> Value:
    walk = value.walk
    lower, upper = walk.interval(value, unstable)
    if value.plain is None or not walk.backward:
        with walk.intervals():
            low, high = F.relu(lower), F.relu(upper)
            centre, radius = (low + high) / 2, (high - low) / 2
        return Value(walk, None if value.plain is None else F.relu(value.plain), centre, radius)
    with walk.intervals():
        centre, radius, chord, offset = _Enclosure.apply(lower, upper)  # type: ignore[no-untyped-call]
    plain = _Relaxed.apply(walk, value.plain, chord, offset, walk.budget)  # type: ignore[no-untyped-call]
    return Value(walk, plain, centre, radius)


def enclosure(lower: Tensor, upper: Tensor) -> Tensors:
    """Centre and radius of ReLU's values on [lower, upper], slope and offset of the chord above it.

    Where the interval is a point the chord is the tangent; where it is NaN, so is everything.
    """
    low, high = F.relu(lower), F.relu(upper)
    # tiny is lost beside every number but 0, and there it makes the quotient 1 or 0
    tiny = torch.finfo(lower.dtype).tiny
    chord = ((high - low) + low.clamp_max(tiny)) / ((upper - lower) + tiny)
    return (low + high) / 2, (high - low) / 2, chord, low - chord * lower


class _Enclosure(torch.autograd.Function):
    """`enclosure`, with its gradients in fewer passes."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> Tensors:
        tiny = torch.finfo(lower.dtype).tiny
        low, high = F.relu(lower), F.relu(upper)
        radius = high - low
        chord = low.clamp_max(tiny).add_(radius).div_((upper - lower).add_(tiny))
        offset = torch.addcmul(low, chord, lower, value=-1)
        ctx.save_for_backward(lower, upper, chord)
        ctx.set_materialize_grads(False)
        return low.add_(high).mul_(0.5), radius.mul_(0.5), chord, offset

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        """With w the interval's width and s the chord's slope, where the kink is inside:

        centre = radius = u/2,   s = u/w,   offset = -s l,   ds/du = (1 - s)/w,   ds/dl = s/w
        """
        lower, upper, chord = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiated(enclosure, (lower, upper), slopes)
        by_centre, by_radius, by_chord, by_offset = (
            torch.zeros_like(lower) if slope is None else slope for slope in slopes
        )
        into_lower = where_positive(by_centre - by_radius, lower).mul_(0.5)
        into_upper = where_positive(by_centre + by_radius, upper).mul_(0.5)
        if slopes[2] is None and slopes[3] is None:
            return into_lower, into_upper
        # the slope is neither 0 nor 1 just where the kink is inside
        rest = 1.0 - chord
        inverse = (upper - lower).add_(torch.finfo(lower.dtype).tiny).reciprocal_()
        at_lower, at_upper = where_positive(chord * inverse, rest), where_positive(rest * inverse, chord)
        into_lower.addcmul_(torch.addcmul(by_chord, upper, by_offset, value=-1), at_lower)
        into_upper.addcmul_(torch.addcmul(by_chord, lower, by_offset, value=-1), at_upper)
        return into_lower, into_upper


class _Relaxed(torch.autograd.Function):
    """ReLU of the clean values; while the walk relaxes, its backward pass follows the lines."""

    @staticmethod
    def forward(ctx: Any, walk: Walk, clean: Tensor, chord: Tensor, offset: Tensor, budget: Tensor) -> Tensor:
        ctx.walk = walk
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(clean, chord, offset)
        return F.relu(clean)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Gradients:
        (slope,) = slopes
        if slope is None:
            return None, None, None, None, None
        clean, chord, offset = ctx.saved_tensors
        if not ctx.walk.relaxing:
            return None, torch.ops.aten.threshold_backward(slope, clean, 0), None, None, None
        if ctx.walk.batched or not torch.is_grad_enabled():
            through, gap = pulled(slope, clean, chord, offset)
        else:
            through, gap = _Pulled.apply(slope, clean, chord, offset)  # type: ignore[no-untyped-call]
        return None, through, None, None, gap


def pulled(slope: Tensor, clean: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
    """A linear function of ReLU's outputs, pulled through the lines: slopes (N, ...) at its inputs, gaps (N,).

    The ray below has the slope to which the chord's rounds: 1 where upper > -lower.
    """
    positive, negative = slope.clamp_min(0.0), slope.clamp_max(0.0)
    through = torch.addcmul(positive * chord.round(), negative, chord)
    gap = torch.addcmul(torch.addcmul(through * clean, slope, F.relu(clean), value=-1), negative, offset)
    return through, per_image(gap)


class _Pulled(torch.autograd.Function):
    """`pulled`, with its gradients in fewer passes."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, clean: Tensor, chord: Tensor, offset: Tensor) -> Tensors:
        through, gap = pulled(slope, clean, chord, offset)
        ctx.save_for_backward(slope, clean, chord, offset, through)
        ctx.set_materialize_grads(False)
        return through, gap

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        slope, clean, chord, offset, through = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiated(pulled, (slope, clean, chord, offset), cotangents)
        by_through, by_gap = cotangents
        if by_through is None:
            by_through = torch.zeros_like(slope)
        by_gap = (by_through.new_zeros(len(slope)) if by_gap is None else by_gap).view(-1, *[1] * (slope.dim() - 1))
        negative = slope.clamp_max(0.0)
        by_line = torch.addcmul(by_through, by_gap, clean)
        along_ray = chord.round() * by_line
        along_chord = (chord * by_line).addcmul_(by_gap, offset)
        by_slope = where_positive(along_chord.sub_(along_ray), -negative)
        by_slope.add_(along_ray).addcmul_(by_gap, F.relu(clean), value=-1)
        by_clean = (by_gap * through).sub_(where_positive(by_gap * slope, clean))
        return by_slope, by_clean, by_line.mul_(negative), by_gap * negative


def where_positive(values: Tensor, condition: Tensor) -> Tensor:
    """The values where the condition is positive, else 0: on CPUs 5 to 20 times as fast as a comparison and `where`."""
    selected: Tensor = torch.ops.aten.threshold_backward(values, condition, 0)
    return selected
