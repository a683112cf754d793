"""Bounds softmax and log-softmax along a dimension.

With t_i(x) = x_i - LSE(x), LSE the logarithm of the sum of exponentials, log-softmax is t and softmax is exp(t).

Intervals.  t_i rises in x_i and falls in every other entry, so its ends are exact:

    t_i  in  [ l_i - LSE(l_i, other u),  u_i - LSE(u_i, other l) ]  =  log sigmoid(l_i - LSE(other u)), ...

Lines.  LSE is convex, so t_i is concave: its tangent plane at the centre c, p = softmax(c), lies above,

    t_i(x)  <=  x_i - LSE(c) - <p, x - c>

and below it lies what a plane above LSE leaves: each exp(x_j) under its chord e_j(x_j) on [l_j, u_j], and log(s) under
its tangent at s0 = sum of e_j(c_j),

    t_i(x)  >=  x_i - log(s0) - sum_j e_j(x_j) / s0 + 1.

Softmax is exp(t_i) under the chord of exp on t_i's interval and over its tangent where the plane below is at c.  The
decomposition is that of Wei et al. 2023, arXiv:2303.01713, with planes for their convex bounds; a level line through
the interval's end takes the place of a plane that lies outside of the interval at c.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.passes import tighten
from robustnas.bounds.refusals import inner_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.relaxation import relax
from robustnas.bounds.value import Function, Softmaxed, Value, midpoint, refuse

FAR = 4096.0
"""An entry masked with -inf is put so far below all others instead: its exponential is 0 in every number format."""


@rule(*spellings("softmax", "log_softmax"), torch.special.log_softmax, torch.special.softmax, scaled=True)
def softmax(function: Function, value: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """Take the softmax, or its logarithm, along a dimension that is not the images'."""
    only_first(function, value, (dim,))
    if dtype not in (None, value.centre.dtype):
        refuse(function, value, f"changes the number format to {dtype}")
    if dim is None:  # torch's own default, which it keeps for old code
        dim = 0 if value.centre.dim() in (0, 1, 3) else 1
    (dim,) = inner_dimensions(function, value, dim)
    logarithm = "log" in function.__name__
    if value.centre.shape[dim] == 1:
        return value.unscaled() * 0 + (0 if logarithm else 1)
    return along(value, dim, logarithm=logarithm)


@rule(*spellings("softmin"))
def softmin(function: Function, value: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    return softmax(torch.softmax, -value, dim, dtype=dtype)


@rule(*spellings("logsumexp"), torch.special.logsumexp)
def log_sum_exp(function: Function, value: Value, dim: Any, keepdim: bool = False) -> Value:
    """Take the logarithm of sums of exponentials over dimensions that are not the images'."""
    dims, propagation = inner_dimensions(function, value, dim), value.propagation
    tighten(value)
    shown = [index for index in range(value.centre.dim()) if index not in dims or keepdim]
    with propagation.intervals():
        planes = _Planes(value, dims)
        shape = [planes.at_centre.shape[index] for index in shown]
        lower, upper = (torch.logsumexp(end, dims).view(shape) for end in (planes.lower, planes.upper))
    clean = None
    if value.clean is not None:
        clean = torch.logsumexp(value.clean, dims).view(shape)
        if propagation.backward:
            below, above = planes.below(value.clean), planes.above(value.clean)
            clean = relax(propagation, clean, below.view(shape), above.view(shape), (value.clean,))
    return value.like(clean, *midpoint(lower, upper))


class _Planes:
    """Two planes around LSE on the box of a value, over some dimensions, which stay with size 1."""

    def __init__(self, value: Value, dims: list[int]):
        self.dims, self.centre = dims, value.centre
        self.lower, self.upper = value.lower, value.upper
        self.at_centre = torch.logsumexp(value.centre, dims, keepdim=True)
        self.weights = torch.exp(value.centre - self.at_centre)
        self.most = self.upper.detach().amax(dims, keepdim=True)
        self.at_upper = torch.exp(self.upper - self.most)
        self.chord = self.at_upper * mean_exponential(2 * value.radius)
        self.sum = (self.at_upper - self.chord * value.radius).sum(self.dims, keepdim=True)
        self.above_centre = self.most + self.sum.log()  # the height of the plane above at the centre

    def below(self, x: Tensor) -> Tensor:
        """The plane below LSE: its tangent plane at the centre."""
        return self.at_centre + (self.weights * (x - self.centre)).sum(self.dims, keepdim=True)

    def above(self, x: Tensor) -> Tensor:
        """The plane above LSE: a tangent of the logarithm, with chords in the place of exponentials."""
        return self.above_centre + (self.chord * (x - self.centre)).sum(self.dims, keepdim=True) / self.sum


def mean_exponential(width: Tensor) -> Tensor:
    """(1 - exp(-w)) / w, the mean of exp over [-w, 0]."""
    wide = width > torch.finfo(width.dtype).tiny
    width = torch.where(wide, width, 1.0)
    return torch.where(wide, -torch.expm1(-width) / width, 1.0)


def along(value: Value, dim: int, *, logarithm: bool) -> Value:
    """Bound the softmax, or its logarithm, along a dimension."""
    propagation, logits = value.propagation, value.copy()
    value = value.unscaled()
    tighten(value)
    masked = _masked(value)
    if logarithm and bool(masked.any()):
        refuse("log_softmax", logits, "entries are masked with -inf, whose logarithms are", "mask after it, or softmax")
    value = _unmasked(value, masked, dim)
    with propagation.intervals():
        planes = _Planes(value, [dim])
        low = F.logsigmoid(planes.lower - _others(planes.upper, dim))
        high = F.logsigmoid(planes.upper - _others(planes.lower, dim))
        lower, upper = (low, high) if logarithm else (low.exp(), high.exp())
        centre, radius = midpoint(lower, upper)
    clean = None
    if value.clean is not None:
        clean = F.log_softmax(value.clean, dim) if logarithm else F.softmax(value.clean, dim)
        if propagation.backward:
            x = value.clean
            below, above = x - planes.above(x), x - planes.below(x)
            with propagation.intervals():
                lowest = planes.centre - planes.above_centre
                if not logarithm:
                    slope = upper * mean_exponential(high - low)
            if not logarithm:
                below, above = lowest.exp() * (1 + below - lowest), upper + slope * (above - high)
            clean = relax(propagation, clean, torch.where(lowest < low, lower, below), above, (x,))
    result = value.like(clean, centre, radius)
    if logits.centre.dim() == 2:
        result.softmaxed = Softmaxed(logits, logarithm)
    return result


def _others(x: Tensor, dim: int) -> Tensor:
    """LSE of all other entries along a dimension: sums from both sides are added, so that no subtraction cancels."""
    count = x.shape[dim]
    nothing = torch.full_like(x.narrow(dim, 0, 1), -torch.inf)
    before = torch.logcumsumexp(x, dim).narrow(dim, 0, count - 1)
    after = torch.logcumsumexp(x.flip(dim), dim).flip(dim).narrow(dim, 1, count - 1)
    return torch.logaddexp(torch.cat([nothing, before], dim), torch.cat([after, nothing], dim))


def _masked(value: Value) -> Tensor:
    """Find entries that a mask has put at -inf; intervals that overflowed are none of them."""
    return value.centre.detach().isneginf() & value.radius.detach().isfinite()


def _unmasked(value: Value, masked: Tensor, dim: int) -> Value:
    """Put finite numbers whose exponential is 0 in the place of masked entries."""
    if not bool(masked.any()):
        return value
    lowest = torch.where(masked, torch.inf, value.lower.detach()).amin(dim, keepdim=True)
    floor = (lowest - FAR).expand_as(value.centre)
    clean = None if value.clean is None else torch.where(masked, floor, value.clean)
    with value.propagation.intervals():
        return value.like(clean, torch.where(masked, floor, value.centre), torch.where(masked, 0.0, value.radius))
