"""Transposed convolution, unfolding and folding: linear, the radius by the absolute weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.registration import only_first, propagate, rule, spellings
from robustnas.bounds.value import Function, Value, refuse

DIMENSIONS = {"conv_transpose1d": 3, "conv_transpose2d": 4, "conv_transpose3d": 5}


@rule(*spellings(*DIMENSIONS))
def transposed_convolution(
    function: Function, value: Value, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Value:
    """Centre by the weights, radius by their magnitudes."""
    only_first(function, value, (weight, bias, *args), kwargs)
    if value.centre.dim() != DIMENSIONS[function.__name__]:
        refuse(function, value, f"input of {value.centre.dim()} dimensions: without an image dimension images mix")
    return propagate(
        value,
        lambda x: function(x, weight, bias, *args, **kwargs),
        lambda radius: function(radius, weight.abs(), None, *args, **kwargs),
    )


@rule(F.unfold, F.fold, *spellings("im2col", "col2im"))
def patches(function: Function, value: Value, *args: Any, **kwargs: Any) -> Value:
    """Patches as columns, and their sum: of coefficients 0 and 1."""
    only_first(function, value, args, kwargs)
    if value.centre.dim() != (4 if function.__name__ in ("unfold", "im2col") else 3):
        refuse(function, value, f"input of {value.centre.dim()} dimensions: without an image dimension images mix")
    return propagate(value, lambda x: function(x, *args, **kwargs), lambda radius: function(radius, *args, **kwargs))


@rule(*spellings("cumsum"))
def running_sum(function: Function, value: Value, dim: int, **kwargs: Any) -> Value:
    """Along a dimension that is not the images'."""
    if dim % value.centre.dim() == 0 or kwargs:
        refuse(function, value, "goes over the images", "name a dimension that is not the first")
    return propagate(value, lambda x: x.cumsum(dim), lambda radius: radius.cumsum(dim))
