"""Bounds the depthwise-separable layers of a supernet's state, which are one linear map in several outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from robustnas.bounds.registration import rule
from robustnas.bounds.scale import portion
from robustnas.bounds.value import Function, Value
from robustnas.nn.fast import Form, biases, composed_of_convolutions, separable


@rule(separable, scaled=True)
def separable_layers(
    function: Function,
    form: Form,
    value: Value,
    depthwise: Sequence[Tensor],
    pointwise: Tensor,
    bias: Tensor | None = None,
) -> tuple[Value, ...]:
    """Pass the centre through the weights, and the radius through the magnitudes of both, layer by layer."""
    if value.propagation.tape is not None:
        # rows are pulled back as crops of maps, which the rule of convolutions knows
        parts: Any = composed_of_convolutions(form, value, depthwise, pointwise, bias)
        return tuple(parts)

    def moved(x: Tensor) -> tuple[Tensor, ...]:
        """The map of what is divided."""
        if bias is None or value.exponent is None:
            return separable(form, x, depthwise, pointwise, bias)
        outputs = separable(form, x, depthwise, pointwise)
        shares = (portion(own.view(1, -1, 1, 1), value) for own in biases(bias, form.count, form.ending))
        return tuple(output + share for output, share in zip(outputs, shares, strict=True))

    cleans = None if value.clean is None else separable(form, value.clean, depthwise, pointwise, bias)
    with value.propagation.intervals():
        centres = moved(value.centre)
        radii = separable(form, value.radius, [weight.abs() for weight in depthwise], pointwise.abs())
    nothing = [None] * len(centres)
    return tuple(value.like(*streams) for streams in zip(cleans or nothing, centres, radii, strict=True))
