"""Bounds sums, differences, products and quotients, and sums and means over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.refusals import expect_alignment, inner_dimensions
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.bilinear import bilinear
from robustnas.bounds.rules.powers import power, reciprocal
from robustnas.bounds.scale import aligned, portion
from robustnas.bounds.steps.layers import Repeated, Sum
from robustnas.bounds.steps.local import Local, apart
from robustnas.bounds.streams import propagate, scale_entries
from robustnas.bounds.value import Function, Value, refuse


def constant(like: Value, tensor: Any) -> Value:
    """Make a value of a tensor that does not depend on the images."""
    tensor = torch.as_tensor(tensor, dtype=like.centre.dtype, device=like.centre.device)
    return Value(like.propagation, tensor, tensor, torch.zeros_like(tensor))


def magnitude(factor: Any) -> Any:
    """Take |factor| of a number or a tensor; a mask of booleans stays as it is."""
    return factor if isinstance(factor, Tensor) and factor.dtype == torch.bool else abs(factor)


@rule(*spellings("add", "add_", "__add__", "__iadd__", "__radd__"), scaled=True)
def add(function: Function, left: Any, right: Any, *, alpha: float = 1) -> Value:
    return _sum(function, left, right, alpha)


@rule(*spellings("sub", "sub_", "subtract", "__sub__", "__isub__"), scaled=True)
def subtract(function: Function, left: Any, right: Any, *, alpha: float = 1) -> Value:
    return _sum(function, left, right, -alpha)


@rule(*spellings("rsub", "__rsub__"))
def reverse_subtract(function: Function, left: Any, right: Any, *, alpha: float = 1) -> Value:
    return _sum(function, right, left, -alpha)


def _sum(function: Function, left: Any, right: Any, alpha: float) -> Value:
    """Compute left + alpha * right, of two values or of a value and a constant."""
    value, other = (left, right) if isinstance(left, Value) else (right, left)
    expect_alignment(function, value, other)
    if not isinstance(other, Value):
        return _with_constant(value, other, alpha, value_first=value is left)
    first, second = aligned([left, right])
    clean = None
    if first.clean is not None and second.clean is not None:
        terms, alike = (first.clean, second.clean), first.clean.shape == second.clean.shape
        own = terms if alike else apart(terms)
        made = clean = torch.add(*own, alpha=alpha)
        value.propagation.note(clean, terms, lambda: Sum(alpha) if alike else Local((made,), own))
    with value.propagation.intervals():
        centre = torch.add(first.centre, second.centre, alpha=alpha)
        radius = torch.add(first.radius, second.radius, alpha=abs(alpha))
    return first.like(clean, centre, radius)


def _with_constant(value: Value, other: Any, alpha: float, *, value_first: bool) -> Value:
    """Compute value + alpha * other, or other + alpha * value."""
    share = other
    if value.exponent is not None:
        if not isinstance(other, Tensor):
            other = torch.as_tensor(other, dtype=value.centre.dtype, device=value.centre.device)
        share = portion(other, value)
    scale: float = 1 if value_first else alpha

    def moved(x: Tensor, constant: Any) -> Tensor:
        left, right = (x, constant) if value_first else (constant, x)
        result: Tensor = left + right * alpha if alpha != 1 else left + right
        return result

    shape = value.centre.shape
    if isinstance(other, Tensor):
        shape = torch.broadcast_shapes(shape, other.shape)  # type: ignore[no-untyped-call]

    def widen(radius: Tensor) -> Tensor:
        radius = radius if abs(scale) == 1 else radius * abs(scale)
        return radius if radius.shape == shape else radius.expand(shape)

    return scale_entries(value, lambda x: moved(x, share), widen, lambda x: moved(x, other))


@rule(*spellings("mul", "mul_", "multiply", "__mul__", "__imul__", "__rmul__"), scaled=True)
def multiply(function: Function, left: Any, right: Any) -> Any:
    value, factor = (left, right) if isinstance(left, Value) else (right, left)
    expect_alignment(function, value, factor)
    if left is right:
        return power(torch.square, value.unscaled(), 2)
    if isinstance(factor, Value):
        return bilinear(torch.mul, left.unscaled(), right.unscaled(), entrywise=True)
    size = magnitude(factor)
    return scale_entries(value, lambda x: x * factor, lambda r: r * size)


@rule(*spellings("glu"))
def gated(function: Function, value: Any, dim: int = -1) -> Any:
    """Multiply one half of the entries along a dimension by the sigmoid of the other."""
    left, right = value.chunk(2, dim)
    return multiply(torch.mul, left, torch.sigmoid(right))


@rule(*spellings("div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__", "__div__"), scaled=True)
def divide(function: Function, value: Any, divisor: Any, *, rounding_mode: str | None = None) -> Any:
    """Divide a value, or a constant, by another, or by numbers that do not depend on the images, of either sign."""
    if isinstance(divisor, Value):
        if rounding_mode is None:
            return multiply(function, value, reciprocal(function, divisor.unscaled()))
        value = divisor
    if rounding_mode is not None:
        refuse(function, value, f"rounding_mode {rounding_mode!r} is not linear")
    expect_alignment(function, value, divisor)
    size = magnitude(divisor)
    return scale_entries(value, lambda x: x / divisor, lambda r: r / size)


@rule(*spellings("neg", "neg_", "negative", "__neg__"), scaled=True)
def negate(function: Function, value: Value) -> Value:
    return scale_entries(value, torch.neg, lambda radius: radius)


@rule(*spellings("sum"), *spellings("mean"), scaled=True)
def reduce(
    function: Function,
    value: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **kwargs: Any,
) -> Value:
    """Take the sum or mean over dimensions that are not the images'."""
    dim = kwargs.pop("axis", dim)
    if kwargs.pop("dtype", None) not in (None, value.centre.dtype) or kwargs:
        refuse(function, value, "a reduction that changes the number format or has options unknown to the rule")
    dims = inner_dimensions(function, value, 0 if dim is None else dim, "reduces")

    def fold(x: Tensor) -> Any:
        return function(x, dims, keepdim=keepdim)

    return propagate(value, fold, fold, step=lambda: Repeated(fold, value.centre.shape))


@rule(torch.zeros_like, torch.ones_like)
def filled_like(function: Function, value: Value, **kwargs: Any) -> Value:
    return constant(value, function(value.centre.detach(), **kwargs))
