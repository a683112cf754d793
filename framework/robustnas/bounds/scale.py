"""Streams divided by a power of two for each image, so that the intervals of deep networks fit their number format.

Interval bounds widen by orders of magnitude with every cell; at 8 cells they pass 1e38, the end of float32.  Where a
pass rescales, a value holds its streams divided by 2**exponent, an exponent an image.  Linear functions and ReLU,
leaky ReLU and max pooling pass a positive factor on; what is constant in them is divided where it is added.  A power
of two changes no digit, and the factors cancel in every slope: the linear coefficient A that reaches a value in a
backward pass is that of the scaled value, hence of order one as well.

A rule knows nothing of this unless it says so (`rule(..., scaled=True)`): all others are given values with exponent 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustnas.bounds.value import Value

LIMIT = 20
"""A value is rescaled where an image's widest radius passes 2**LIMIT."""

LOST = 96
"""Beyond this exponent clean values and constants are below every rounding: they are 0, not numbers too small to
compute with quickly."""


def rescaled(value: Value) -> Value:
    """The value with streams of order one, where its pass rescales."""
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
    """The values with one exponent an image, the largest there is among them."""
    exponents = [value.exponent for value in values if value.exponent is not None]
    if not exponents:
        return list(values)
    largest = torch.stack(exponents).amax(dim=0).clamp_min(0.0)
    return [value if value.exponent is largest else _divided(value, largest) for value in values]


def portion(constant: Tensor, value: Value) -> Tensor:
    """What a constant (of as many dimensions as the value, or fewer) is in the value's units."""
    if value.exponent is None:
        return constant
    shares = torch.where(value.exponent > LOST, 0.0, torch.exp2(-value.exponent))
    return constant * shares.view(-1, *[1] * (value.centre.dim() - 1))


def _divided(value: Value, exponent: Tensor) -> Value:
    """The value with this exponent, which is nowhere below its own."""
    own = torch.zeros_like(exponent) if value.exponent is None else value.exponent
    shape = (-1, *[1] * (value.centre.dim() - 1))
    factor, lost = torch.exp2(own - exponent).view(shape), (exponent > LOST).view(shape)
    clean = value.clean
    if clean is not None:
        clean = clean * factor
        if bool(lost.any()):
            # 0, but still a function of the images with this factor: slopes must pass
            clean = clean - torch.where(lost, clean.detach(), 0.0)
    with value.propagation.intervals():
        scaled = Value(value.propagation, clean, value.centre * factor, value.radius * factor, exponent=exponent)
    scaled.tightened = value.tightened
    return scaled
