"""Bounds exponentials, logarithms, reciprocals, roots and powers as curves, most of them of positive numbers only.

    exp, expm1            convex
    log, log1p            concave
    sqrt, x^p (0 < p < 1) concave
    1/x, 1/sqrt(x), x^p   convex and falling (p < 0); convex and rising (p > 1)
    x^2, x^4, ...         convex, least at 0
    x^3, x^5, ...         concave up to 0, convex beyond

A value whose interval leaves the positive numbers has no bound there (NaN, which certifies nothing); 1/x is mirrored
where the interval is negative.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.passes import tighten
from robustnas.bounds.refusals import only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.curve import Curve, enclose_curve
from robustnas.bounds.streams import Entrywise, root
from robustnas.bounds.value import Function, Value, refuse

EXP = Curve(torch.exp, torch.exp, torch.exp)
EXPM1 = Curve(torch.expm1, torch.exp, torch.exp)
SQUARE = Curve(torch.square, lambda x: 2 * x, lambda x: 2 * x, valley=0.0)


def _positive(x: Tensor) -> Tensor:
    """Keep x above 0, where the curve has a derivative."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


def _concave(value: Entrywise, slope: Entrywise) -> Curve:
    return Curve(value, slope, slope, left=torch.inf, right=torch.inf)


def _falling(value: Entrywise, slope: Entrywise) -> Curve:
    """Make a falling convex curve of positive numbers."""
    return Curve(value, slope, slope, valley=torch.inf)


LOG = _concave(torch.log, lambda x: 1 / _positive(x))
LOG1P = _concave(torch.log1p, lambda x: 1 / _positive(1 + x))


def _root(x: Tensor) -> Tensor:
    """Take the square root, with a gradient of 0 at 0."""
    return torch.where(x < 0, torch.nan, root(x))


SQRT = _concave(_root, lambda x: 0.5 * _positive(x).rsqrt())
RSQRT = _falling(torch.rsqrt, lambda x: -0.5 * _positive(x) ** -1.5)
RECIPROCAL = _falling(lambda x: torch.where(x > 0, x, torch.nan).reciprocal(), lambda x: -(_positive(x) ** -2))

CURVES = {"exp": EXP, "expm1": EXPM1, "log": LOG, "log1p": LOG1P, "sqrt": SQRT, "rsqrt": RSQRT, "square": SQUARE}
"""Functions of one tensor without further arguments; `activations.py` registers them."""


@rule(*spellings("reciprocal", "reciprocal_"))
def reciprocal(function: Function, value: Value) -> Any:
    """Bound 1/x, of either sign."""
    tighten(value)
    sign = torch.where(value.centre.detach() < 0, -1.0, 1.0)
    if bool((sign > 0).all()):
        return enclose_curve(RECIPROCAL, torch.reciprocal, value)
    # negative intervals are mirrored, so that the curve of positive numbers serves both
    clean = None if value.clean is None else value.clean * sign
    mirrored = value.like(clean, value.centre * sign, value.radius)
    mirrored.tightened = value.tightened
    return enclose_curve(RECIPROCAL, torch.reciprocal, mirrored) * sign


@rule(*spellings("__rtruediv__", "__rdiv__"))
def reciprocal_times(function: Function, value: Value, numerator: Any) -> Any:
    """Divide a number, or a tensor that does not depend on the images, by a value."""
    return reciprocal(torch.reciprocal, value) * numerator


@rule(*spellings("pow", "pow_", "__pow__", "__ipow__"))
def power(function: Function, value: Any, exponent: Any) -> Any:
    """Bound x^p, where p is a number or a tensor of one entry, and c^x for positive numbers c."""
    if isinstance(exponent, Value):
        if isinstance(value, Value):
            refuse(function, value, "base and exponent depend on the images", "exp(exponent * log(base)) would do")
        return base_to(function, exponent, value)
    if isinstance(exponent, Tensor) and exponent.numel() != 1:
        refuse(function, value, f"exponents of shape {tuple(exponent.shape)}: the rule holds for one exponent")
    p = float(exponent)
    if p == 0 or p == 1:
        return value * p + (1 - p)
    if p == -1:
        return reciprocal(function, value)
    curve = power_curve(exponent)
    return enclose_curve(curve, curve.value, value)


@rule(*spellings("__rpow__"))
def base_to(function: Function, exponent: Value, base: Any) -> Value:
    """Bound c^x, which is exp(x log c)."""
    only_first(function, exponent, (base,))
    if (isinstance(base, Tensor) and base.numel() != 1) or not float(base) > 0:
        refuse(function, exponent, "a base that is not one positive number")
    scaled: Any = exponent * math.log(float(base))
    return enclose_curve(EXP, torch.exp, scaled)


def power_curve(exponent: Any) -> Curve:
    """Make the curve of x^p for p other than 0 and 1; x must be positive unless p is a positive integer."""
    p = float(exponent)
    if p == 2:
        return SQUARE

    def value(x: Tensor) -> Tensor:
        return torch.pow(x, exponent)

    def slope(x: Tensor) -> Any:
        return torch.pow(x, exponent - 1) * exponent

    if p > 0 and p == int(p):
        return Curve(value, slope, slope, valley=0.0) if p % 2 == 0 else Curve(value, slope, slope, left=0.0)

    def of_positive(x: Tensor) -> Tensor:
        # integer powers of negative numbers exist, and would pass for values of the curve
        powers = torch.where(x > 0, x, 1.0) ** exponent
        return torch.where(x > 0, powers, torch.where(x == 0, 0.0 if p > 0 else torch.nan, torch.nan))

    def slope_of_positive(x: Tensor) -> Tensor:
        return slope(_positive(x))  # type: ignore[no-any-return]

    if p > 1:
        return Curve(of_positive, slope_of_positive, slope_of_positive)
    return (_falling if p < 0 else _concave)(of_positive, slope_of_positive)
