"""Divides the intervals of each image by a power of two, so that those of deep networks do not overflow.

Interval bounds widen by orders of magnitude with every cell; at 8 cells they pass 1e38, the end of float32.  Where a
pass rescales, a value holds centre and radius divided by 2**exponent, with one exponent an image; the clean value stays
whole (`carried.py`).  Linear functions, ReLU, leaky ReLU and max pooling pass a positive factor on; a constant that
they add to the centre is divided by it first.  A power of two changes no digit, and the factors cancel in every slope:
the linear coefficient A that reaches a value in a backward pass belongs to the scaled value, and is of order one too.

A rule that can handle exponents says so (`rule(..., scaled=True)`); all others are given values with exponent 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustnas.bounds.carried import divided, moved
from robustnas.bounds.steps.layers import Scale
from robustnas.bounds.value import Value

LIMIT = 20
"""A value is rescaled where an image's widest radius passes 2**LIMIT."""

LOST = 96
"""Beyond this exponent divided clean values and constants are below every rounding: they are 0, not numbers too small
to compute with quickly."""


def rescaled(value: Value) -> Value:
    """Bring the interval to order one, where the value's pass rescales."""
    if not value.propagation.rescales:
        return value
    with torch.no_grad():
        if float(value.radius.amax()) < 2.0**LIMIT:  # not where it is NaN
            return value
        widest = value.radius.flatten(1).amax(dim=1)
        raised = torch.frexp(widest).exponent.to(widest.dtype)
        raised = torch.where(widest.isfinite() & (raised > LIMIT), raised, 0.0)
    if not bool((raised > 0).any()):
        return value
    return _divided(value, raised if value.exponent is None else value.exponent + raised)


def aligned(values: Sequence[Value]) -> list[Value]:
    """Give all values the same exponent for each image, the largest among them."""
    exponents = [value.exponent for value in values if value.exponent is not None]
    if not exponents:
        return list(values)
    largest = exponents[0]
    if any(exponent is not largest for exponent in exponents) or len(exponents) < len(values):
        widest = torch.stack(exponents).amax(dim=0).clamp_min(0.0)
        # one of them where it is the largest, so that its value stays as it is
        largest = next((exponent for exponent in exponents if torch.equal(exponent, widest)), widest)
    return [
        value
        if value.exponent is largest or (value.exponent is not None and torch.equal(value.exponent, largest))
        else _divided(value, largest)
        for value in values
    ]


def portion(constant: Tensor, value: Value) -> Tensor:
    """Divide a constant, of as many dimensions as the value or fewer, by the value's factor."""
    share = share_of(value)
    return constant if share is None else constant * share


def at_scale(value: Value) -> Tensor:
    """The clean value divided as the interval is: that at which lines are drawn, and through which slopes pass."""
    share = share_of(value)
    assert value.clean is not None
    return value.clean if share is None else divided(value.propagation.mode, value.clean, share)


def share_of(value: Value) -> Tensor | None:
    """(N, 1, ...) what divided constants and clean values are multiplied by; None is 1."""
    exponent = value.exponent
    if exponent is None:
        return None
    known = value.propagation.shares
    if id(exponent) not in known:
        shares = torch.where(exponent > LOST, 0.0, torch.exp2(-exponent))
        # the exponent itself is kept, lest another be given its `id`
        known[id(exponent)] = exponent, shares, not bool(shares.any())
    return known[id(exponent)][1].view(-1, *[1] * (value.centre.dim() - 1))


def is_lost(value: Value) -> bool:
    """Whether the clean value, divided as the interval is, is 0 for all images."""
    return share_of(value) is not None and value.propagation.shares[id(value.exponent)][2]


def _divided(value: Value, exponent: Tensor) -> Value:
    """Give the value this exponent, which is nowhere below its own."""
    own = torch.zeros_like(exponent) if value.exponent is None else value.exponent
    shape = (-1, *[1] * (value.centre.dim() - 1))
    factor, clean = torch.exp2(own - exponent).view(shape), value.clean
    if clean is not None and value.propagation.backward:
        clean = moved(value.propagation.mode, clean, factor)
    with value.propagation.intervals():
        scaled = Value(value.propagation, clean, value.centre * factor, value.radius * factor, exponent=exponent)
    if clean is not None and value.clean is not None:
        made, of = clean, value.clean
        value.propagation.note(made, (of,), lambda: Scale(lambda x: x * factor, of))
    scaled.tightened = value.tightened
    return scaled
