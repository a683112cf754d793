"""Divides the streams of each image by a power of two, so that intervals of deep networks do not overflow.

Interval bounds widen by orders of magnitude with every cell; at 8 cells they pass 1e38, the end of float32.  Where a
pass rescales, a value holds its streams divided by 2**exponent, with one exponent an image.  Linear functions, ReLU,
leaky ReLU and max pooling pass a positive factor on; a constant that they add is divided by it first.  A power of two
changes no digit, and the factors cancel in every slope: the linear coefficient A that reaches a value in a backward
pass belongs to the scaled value, and is of order one as well.

A rule that can handle exponents says so (`rule(..., scaled=True)`); all others are given values with exponent 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustnas.bounds.steps.local import Local
from robustnas.bounds.value import Value

LIMIT = 20
"""A value is rescaled where an image's widest radius passes 2**LIMIT."""

LOST = 96
"""Beyond this exponent clean values and constants are below every rounding: they are 0, not numbers too small to
compute with quickly."""


def rescaled(value: Value) -> Value:
    """Bring the streams to order one, where the value's pass rescales."""
    if not value.propagation.rescales:
        return value
    with torch.no_grad():
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
    largest = torch.stack(exponents).amax(dim=0).clamp_min(0.0)
    return [value if value.exponent is largest else _divided(value, largest) for value in values]


def portion(constant: Tensor, value: Value) -> Tensor:
    """Divide a constant, of as many dimensions as the value or fewer, by the value's factor."""
    if value.exponent is None:
        return constant
    shares = torch.where(value.exponent > LOST, 0.0, torch.exp2(-value.exponent))
    return constant * shares.view(-1, *[1] * (value.centre.dim() - 1))


def _divided(value: Value, exponent: Tensor) -> Value:
    """Give the value this exponent, which is nowhere below its own."""
    own = torch.zeros_like(exponent) if value.exponent is None else value.exponent
    shape = (-1, *[1] * (value.centre.dim() - 1))
    factor, lost = torch.exp2(own - exponent).view(shape), (exponent > LOST).view(shape)
    clean = value.clean
    if clean is not None:
        clean = clean * factor
        if bool(lost.any()):
            # subtracting makes it 0 and keeps its graph: slopes must still pass with this factor
            clean = clean - torch.where(lost, clean.detach(), 0.0)
    with value.propagation.intervals():
        scaled = Value(value.propagation, clean, value.centre * factor, value.radius * factor, exponent=exponent)
    if clean is not None and value.clean is not None:
        made, of = clean, value.clean
        value.propagation.note(made, (of,), lambda: Local((made,), (of,)))
    scaled.tightened = value.tightened
    return scaled
