"""Bounds products of matrices: of a value with constant matrices, from either side, and of two values.

The first dimension must stay that of the images: a product may neither sum over it nor pair it with another dimension.
In values of two dimensions each row is an image, in stacks of matrices each matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.affine import linear
from robustnas.bounds.rules.bilinear import bilinear
from robustnas.bounds.streams import propagate
from robustnas.bounds.value import Function, Value, refuse, values_in


@rule(*spellings("matmul", "__matmul__", "mm", "bmm"), scaled=True)
def matrix_product(function: Function, left: Any, right: Any) -> Value:
    """Multiply matrices, one or both of which depend on the images."""
    if isinstance(left, Value) and isinstance(right, Value):
        if left.centre.dim() != right.centre.dim() or left.centre.dim() < 3:
            shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
            refuse(function, left, f"matrices of shapes {shapes} do not stand image by image")
        return bilinear(torch.matmul, left.unscaled(), right.unscaled())
    value, matrix = (left, right) if isinstance(left, Value) else (right, left)
    known = value.centre.dim()
    if value is left and matrix.dim() == 2 and known >= 2:
        return linear(function, value, matrix.T)
    stacked = matrix.dim() < known or (matrix.dim() == known and len(matrix) in (1, value.propagation.images))
    by_vector = value is left and matrix.dim() == 1 and known == 2
    if not by_vector and (known < 3 or not stacked):
        shapes = f"a value of shape {tuple(value.shape)} and a constant of shape {tuple(matrix.shape)}"
        refuse(function, value, f"{shapes}: the product would mix or move the images")

    def product(x: Tensor, constant: Tensor) -> Tensor:
        return torch.matmul(x, constant) if value is left else torch.matmul(constant, x)

    return propagate(value, lambda x: product(x, matrix), lambda radius: product(radius, matrix.abs()))


@rule(*spellings("addmm", "baddbmm", "addbmm"))
def sum_and_product(
    function: Function, summand: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Any:
    """Compute beta * summand + alpha * left @ right, any of which may depend on the images."""
    if function.__name__ == "addbmm":
        refuse(function, next(values_in((summand, left, right))), "sums over images")
    product = torch.matmul(left, right)
    if alpha != 1:
        product = product * alpha
    return product if beta == 0 else product + (summand if beta == 1 else summand * beta)


@rule(*spellings("addcmul", "addcdiv"))
def sum_and_entrywise(function: Function, summand: Any, left: Any, right: Any, *, value: float = 1) -> Any:
    """Compute summand + value * left * right, or left / right."""
    term = left / right if function.__name__ == "addcdiv" else left * right
    return summand + (term if value == 1 else term * value)


@rule(*spellings("lerp"))
def between(function: Function, start: Any, end: Any, weight: Any) -> Any:
    """Compute start + weight * (end - start)."""
    return start + weight * (end - start) if isinstance(weight, Value) else start * (1 - weight) + end * weight
