"""Products of matrices: of a value with matrices that do not depend on the images, from either side, and of two values.

The first dimension stays the images' where it is neither summed over nor laid against another one: values of fewer than
three dimensions have rows for images, stacks of matrices the first index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.registration import propagate, rule, spellings
from robustnas.bounds.rules.affine import linear
from robustnas.bounds.rules.bilinear import bilinear
from robustnas.bounds.value import Function, Value, refuse


@rule(*spellings("matmul", "__matmul__", "mm", "bmm"), scaled=True)
def matrix_product(function: Function, left: Any, right: Any) -> Value:
    if isinstance(left, Value) and isinstance(right, Value):
        if left.centre.dim() != right.centre.dim() or left.centre.dim() < 3:
            shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
            refuse(function, left, f"matrices of shapes {shapes} do not stand image by image")
        return bilinear(torch.matmul, left.unscaled(), right.unscaled())
    if isinstance(left, Value):
        return _from_the_right(function, left, right)
    return _from_the_left(function, left, right)


def _from_the_right(function: Function, value: Value, matrix: Tensor) -> Value:
    if matrix.dim() == 2 and value.centre.dim() >= 2:
        return linear(function, value, matrix.T)
    known = value.centre.dim()
    stacked = matrix.dim() < known or (matrix.dim() == known and len(matrix) in (1, value.walk.images))
    if known < 2 or (matrix.dim() > 1 and (known < 3 or not stacked)):
        _misplaced(function, value, matrix)
    return propagate(value, lambda x: torch.matmul(x, matrix), lambda r: torch.matmul(r, matrix.abs()))


def _from_the_left(function: Function, matrix: Tensor, value: Value) -> Value:
    known = value.centre.dim()
    if known < 3 or matrix.dim() > known or (matrix.dim() == known and len(matrix) not in (1, value.walk.images)):
        _misplaced(function, value, matrix)
    return propagate(value, lambda x: torch.matmul(matrix, x), lambda r: torch.matmul(matrix.abs(), r))


def _misplaced(function: Function, value: Value, matrix: Tensor) -> None:
    shapes = f"a value of shape {tuple(value.shape)} and a constant of shape {tuple(matrix.shape)}"
    refuse(function, value, f"{shapes}: the product would mix or move the images")


@rule(*spellings("addmm", "baddbmm", "addbmm"))
def sum_and_product(
    function: Function, summand: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Value:
    """beta * summand + alpha * left @ right, any of which may depend on the images."""
    if function.__name__ == "addbmm":
        refuse(function, next(each for each in (summand, left, right) if isinstance(each, Value)), "sums over images")
    if not isinstance(left, Value) and not isinstance(right, Value):
        product: Any = torch.matmul(left, right)
    else:
        product = matrix_product(torch.matmul, left, right)
    if alpha != 1:
        product = product * alpha
    found: Value = product if beta == 0 else product + (summand if beta == 1 else summand * beta)
    return found


@rule(*spellings("addcmul", "addcdiv"))
def sum_and_entrywise(function: Function, summand: Any, left: Any, right: Any, *, value: float = 1) -> Value:
    """summand + value * left * right, or left / right."""
    term = left / right if function.__name__ == "addcdiv" else left * right
    found: Value = summand + (term if value == 1 else term * value)
    return found


@rule(*spellings("lerp"))
def between(function: Function, start: Any, end: Any, weight: Any) -> Value:
    """start + weight * (end - start)."""
    found: Value
    found = start + weight * (end - start) if isinstance(weight, Value) else start * (1 - weight) + end * weight
    return found
