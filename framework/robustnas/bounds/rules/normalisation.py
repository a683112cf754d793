"""Bounds normalisation by statistics of each image: layer, group, instance, RMS, local response norm, variance, length.

    y_i = d_i / sqrt(mean(d^2) + eps),   d = x - mean(x)    (RMS norm: d = x)

Lines are composed of those of the square, the reciprocal root and the product (`powers.py`, `bilinear.py`), as Shi et
al. 2020, arXiv:2002.06622, do for layer norm.  For intervals, let R be the sum of the other squares.  Then

    y_i = d_i / sqrt((d_i^2 + R) / n + eps)    rises in d_i and, where d_i > 0, falls in R

so its ends lie at the ends of d_i, with the least or the largest R.  |y_i| is at most sqrt(n), or sqrt(n - 1) where the
d_i sum to 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.refusals import inner_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.affine import batch_norm
from robustnas.bounds.rules.bilinear import bilinear
from robustnas.bounds.rules.curve import enclose_curve
from robustnas.bounds.rules.powers import RSQRT, SQRT, SQUARE, power
from robustnas.bounds.streams import propagate
from robustnas.bounds.value import Function, Value, midpoint, refuse


@rule(*spellings("layer_norm"))
def layer_norm(
    function: Function,
    value: Value,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    """Normalise over the last dimensions."""
    only_first(function, value, (weight, bias))
    return _with_weights(_normalised(value, _last(function, value, normalized_shape), eps), weight, bias)


@rule(*spellings("rms_norm"))
def rms_norm(
    function: Function,
    value: Value,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    """Normalise over the last dimensions, without a mean."""
    only_first(function, value, (weight,))
    eps = torch.finfo(value.centre.dtype).eps if eps is None else eps
    dims = _last(function, value, normalized_shape)
    return _with_weights(_normalised(value, dims, eps, centred=False), weight, None)


@rule(*spellings("group_norm"))
def group_norm(
    function: Function,
    value: Any,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Normalise (N, C, ...) over groups of channels and all places."""
    only_first(function, value, (weight, bias))
    shape = value.centre.shape
    grouped = value.reshape(shape[0], num_groups, -1)
    return _by_channel(_normalised(grouped, [2], eps).reshape(shape), weight, bias)


@rule(*spellings("instance_norm"))
def instance_norm(
    function: Function,
    value: Value,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """Normalise (N, C, ...) over all places of a channel; with running statistics it is batch norm in evaluation."""
    only_first(function, value, (weight, bias))
    if not use_input_stats:
        return batch_norm(F.batch_norm, value, running_mean, running_var, weight, bias, False, momentum, eps)
    if value.centre.dim() < 3:
        refuse(function, value, "input without an image dimension: images mix")
    return _by_channel(_normalised(value, list(range(2, value.centre.dim())), eps), weight, bias)


@rule(*spellings("local_response_norm"))
def local_response_norm(
    function: Function, value: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Any:
    """Compute x / (k + alpha * mean of the squares in a window over channels)^beta."""
    before, behind = size // 2, (size - 1) // 2
    squares = power(torch.square, value, 2)
    flat = F.pad(squares.flatten(2).transpose(1, 2), (before, behind))
    means = F.avg_pool1d(flat, size, 1).transpose(1, 2).reshape(value.shape)
    return value * power(torch.pow, means * alpha + k, -beta)


@rule(*spellings("var", "std"))
def spread(
    function: Function,
    value: Value,
    dim: int | Sequence[int] | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    """Take the variance, or its root, over dimensions that are not the images'."""
    if isinstance(dim, bool) or dim is None:
        refuse(function, value, "goes over the images", "name the dimensions, without the first")
    dims = inner_dimensions(function, value, dim)
    count = math.prod(value.centre.shape[index] for index in dims)
    freedom = max(count - (float(unbiased) if correction is None else correction), 0)
    total: Any = _squares(_centred(value, dims)).sum(dims, keepdim=keepdim)
    variance = _not_negative(total / freedom)
    return variance if function.__name__ == "var" else enclose_curve(SQRT, torch.sqrt, variance)


@rule(*spellings("var_mean", "std_mean"))
def spread_and_mean(function: Function, value: Any, dim: Any = None, **kwargs: Any) -> tuple[Value, Value]:
    spread_of = torch.var if function.__name__ == "var_mean" else torch.std
    return spread(spread_of, value, dim, **kwargs), value.mean(dim, keepdim=kwargs.get("keepdim", False))


@rule(*spellings("norm"), torch.linalg.vector_norm, torch.linalg.norm)
def length(function: Function, value: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Take lengths of order 1 or 2 over dimensions that are not the images'."""
    order = kwargs.pop("ord", p)
    order = 2 if order in (None, "fro") else order
    options = any(option is not None for option in kwargs.values())
    if options or order not in (1, 2) or dim is None or (function is torch.linalg.norm and not isinstance(dim, int)):
        refuse(function, value, "its rule holds for orders 1 and 2 over named dimensions, without other options")
    dims = inner_dimensions(function, value, dim)
    if order == 1:
        return value.abs().sum(dims, keepdim=keepdim)
    squares: Any = _squares(value)
    return enclose_curve(SQRT, torch.sqrt, _not_negative(squares.sum(dims, keepdim=keepdim)))


@rule(*spellings("normalize"))
def normalize(function: Function, value: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    """Divide x by its Euclidean length; where that may be below eps, entries are only known to be in [-1, 1]."""
    if p != 2:
        refuse(function, value, f"order {p}: the rule holds for order 2")
    dims = inner_dimensions(function, value, dim)
    count = math.prod(value.centre.shape[index] for index in dims)
    return _normalised(value, dims, 0.0, centred=False, floor=eps**2 / count) * count**-0.5


@rule(F.cosine_similarity)
def cosine(function: Function, left: Any, right: Any, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Multiply two vectors of unit length, either of which may depend on the images."""
    return (F.normalize(left, dim=dim, eps=eps) * F.normalize(right, dim=dim, eps=eps)).sum(dim)


def _last(function: Function, value: Value, normalized_shape: Sequence[int]) -> list[int]:
    known, count = value.centre.dim(), len(normalized_shape)
    if count >= known:
        refuse(function, value, "goes over the images", "normalise the other dimensions")
    return list(range(known - count, known))


def _with_weights(value: Any, weight: Tensor | None, bias: Tensor | None) -> Any:
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


def _by_channel(value: Any, weight: Tensor | None, bias: Tensor | None) -> Any:
    shape = (-1, *[1] * (value.dim() - 2))
    return _with_weights(value, *(each if each is None else each.view(shape) for each in (weight, bias)))


def _centred(value: Value, dims: list[int]) -> Value:
    """Compute x - mean(x), whose coefficients are 1 - 1/n for the entry itself and -1/n for every other entry."""
    count = math.prod(value.centre.shape[index] for index in dims)
    return propagate(
        value,
        lambda x: x - x.mean(dims, keepdim=True),
        lambda r: (1 - 2 / count) * r + r.mean(dims, keepdim=True) if count > 1 else torch.zeros_like(r),
    )


def _squares(value: Value) -> Value:
    return enclose_curve(SQUARE, torch.square, value)


def _not_negative(value: Value) -> Value:
    """Cut the interval of a sum of squares at 0, below which rounding may have put its lower end."""
    with value.propagation.intervals():
        value.centre, value.radius = midpoint(value.lower.clamp_min(0.0), value.upper)
    return value


def _normalised(value: Value, dims: list[int], eps: float, *, centred: bool = True, floor: float = -1.0) -> Value:
    """Bound d / sqrt(mean(d^2) + eps) over dimensions; there are no lines where mean(d^2) may be at most `floor`."""
    count = math.prod(value.centre.shape[index] for index in dims)
    value = _centred(value, dims) if centred else value
    squares: Any = _squares(value)
    mean = _not_negative(squares.mean(dims, keepdim=True))
    with value.propagation.intervals():
        vanishing = mean.lower <= floor
        mean.radius = torch.where(vanishing, torch.nan, mean.radius)
    shifted: Any = mean + eps
    inverse = enclose_curve(RSQRT, torch.rsqrt, shifted)
    result = bilinear(torch.mul, value, inverse, entrywise=True)
    with value.propagation.intervals():
        most = math.sqrt(count - 1 if centred else count)
        lower, upper = _ends(value, dims, count, eps, most)
        lower, upper = torch.where(vanishing, -most, lower), torch.where(vanishing, most, upper)
        lower = torch.maximum(lower, _known(result.lower, -torch.inf))
        upper = torch.minimum(upper, _known(result.upper, torch.inf))
        result.centre, result.radius = midpoint(torch.minimum(lower, upper), torch.maximum(lower, upper))
    return result


def _known(end: Tensor, nothing: float) -> Tensor:
    return torch.where(end.isnan(), nothing, end)


def _ends(value: Value, dims: list[int], count: int, eps: float, most: float) -> tuple[Tensor, Tensor]:
    """Compute the ends of y_i from the ends of d_i and of the sum of the other squares."""
    low, high = value.lower, value.upper
    smallest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.square(), high.square()))
    largest = torch.maximum(low.square(), high.square())

    def others(squares: Tensor, sign: float) -> Tensor:
        total = squares.sum(dims, keepdim=True)
        rounding = 4 * count * torch.finfo(total.dtype).eps * total
        return (total - squares + sign * rounding).clamp_min(0.0)

    least, greatest = others(smallest, -1.0), others(largest, 1.0)

    def at(end: Tensor, rest: Tensor) -> Tensor:
        # where all squares may be 0 the quotient is 0/0, and y_i may be anything up to `most`
        below = (end.square() + rest) / count + eps
        quotient = end / torch.where(below > 0, below, 1.0).sqrt()
        limit = torch.where(end == 0, 0.0, most * end.sign())
        return torch.where(below > 0, quotient, limit).clamp(-most, most)

    upper = torch.where(high > 0, at(high, least), at(high, greatest))
    lower = torch.where(low < 0, at(low, least), at(low, greatest))
    return lower, upper
