"""Bounds transposed convolution, unfolding, folding and running sums: linear, with absolute weights for the radius."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.refusals import expect_dimensions, inner_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.streams import propagate
from robustnas.bounds.value import Function, Value, refuse

DIMENSIONS = {"conv_transpose1d": 3, "conv_transpose2d": 4, "conv_transpose3d": 5}


@rule(*spellings(*DIMENSIONS))
def transposed_convolution(
    function: Function, value: Value, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Value:
    only_first(function, value, (weight, bias, *args), kwargs)
    expect_dimensions(function, value, DIMENSIONS[function.__name__])
    return propagate(
        value,
        lambda x: function(x, weight, bias, *args, **kwargs),
        lambda radius: function(radius, weight.abs(), None, *args, **kwargs),
    )


@rule(F.unfold, F.fold, *spellings("im2col", "col2im"))
def patches(function: Function, value: Value, *args: Any, **kwargs: Any) -> Value:
    """Write patches as columns, or sum them back; as coefficients are 0 and 1, a radius passes as a value does."""
    only_first(function, value, args, kwargs)
    expect_dimensions(function, value, 4 if function.__name__ in ("unfold", "im2col") else 3)
    return propagate(value, lambda x: function(x, *args, **kwargs), lambda radius: function(radius, *args, **kwargs))


@rule(*spellings("cumsum"))
def running_sum(function: Function, value: Value, dim: int, **kwargs: Any) -> Value:
    inner_dimensions(function, value, dim)
    if kwargs:
        refuse(function, value, f"its rule knows no options, found {sorted(kwargs)}")
    return propagate(value, lambda x: x.cumsum(dim), lambda radius: radius.cumsum(dim))
