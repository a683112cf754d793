"""Bounds the largest and the smallest entry along dimensions, and of two tensors, by the rule of max pooling.

The dimensions are merged into one row, which a single window covers.  The larger of a value and a constant c is
c + relu(x - c), whose lower line `alpha-crown` can choose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch.nn import functional as F

from robustnas.bounds.refusals import expect_alignment, inner_dimensions
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.arithmetic import negate
from robustnas.bounds.rules.max_pool import max_pool2d
from robustnas.bounds.value import Function, Value, refuse, values_in


@rule(*spellings("amax", "amin"), scaled=True)
def extreme(function: Function, value: Any, dim: int | Sequence[int] = (), keepdim: bool = False) -> Any:
    """Take the largest or smallest entry over dimensions that are not the images'."""
    dims = sorted(inner_dimensions(function, value, dim))
    if function.__name__ == "amin":
        return negate(torch.neg, extreme(torch.amax, -value, dims, keepdim))
    kept = [index for index in range(1, value.centre.dim()) if index not in dims]
    shape = value.centre.shape
    count, rest = math.prod(shape[index] for index in dims), math.prod(shape[index] for index in kept)
    line = value.permute(0, *kept, *dims).reshape(shape[0], 1, rest, count)
    sizes = [1 if index in dims else size for index, size in enumerate(shape) if keepdim or index not in dims]
    return max_pool2d(F.max_pool2d, line, (1, count)).reshape(sizes)


class Places:
    """Stands for the indices of extremes, which differ within a region: their use is refused."""

    precedes_values = True

    def __init__(self, function: Function, value: Value):
        self._refusal = function, value

    def __getattr__(self, name: str) -> NoReturn:
        refuse(*self._refusal, "the places of extremes have no meaning for a whole region", "use their values alone")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        places = next(each for each in (*args, *(kwargs or {}).values()) if isinstance(each, cls))
        places.used()
        raise AssertionError


@rule(*spellings("max", "min"), scaled=True)
def extreme_or_larger(function: Function, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Take extremes along a dimension, together with `Places`, or of two tensors."""
    other = kwargs.get("other", args[0] if args else kwargs.get("dim"))
    largest = function.__name__ == "max"
    if other is None:
        refuse(function, next(values_in((value,))), "goes over the images", "name a dimension that is not the first")
    if not isinstance(other, int):
        return larger(torch.maximum if largest else torch.minimum, value, other)
    keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    extremes = extreme(torch.amax if largest else torch.amin, value, other, keepdim)
    kind: Any = torch.return_types.max if largest else torch.return_types.min
    return kind((extremes, Places(function, value)))


@rule(*spellings("maximum", "minimum", "fmax", "fmin"))
def larger(function: Function, left: Any, right: Any) -> Any:
    """Take the larger, or smaller, entries of a value and of another value or a constant."""
    if function.__name__ in ("minimum", "fmin"):
        return negate(torch.neg, larger(torch.maximum, -left, -right))
    if isinstance(left, Value) and isinstance(right, Value):
        expect_alignment(function, left, right)
        shape = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
        return extreme(torch.amax, torch.stack([left.expand(shape), right.expand(shape)], -1), -1)
    value, constant = (left, right) if isinstance(left, Value) else (right, left)
    return F.relu(value - constant) + constant
