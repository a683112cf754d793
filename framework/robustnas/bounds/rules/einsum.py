"""Bounds sums of products in index notation, which are linear in one value and bilinear in two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.registration import rule
from robustnas.bounds.rules.bilinear import bilinear
from robustnas.bounds.streams import propagate
from robustnas.bounds.value import Function, Value, refuse


@rule(torch.einsum, scaled=True)
def einsum(function: Function, equation: str, *operands: Any) -> Value:
    """Sum products of one or two values; the index of the images must be the first of each and of the result, and of
    no other operand."""
    parts = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    places = [index for index, part in enumerate(parts) if isinstance(part, Value)]
    value: Value = parts[places[0]]
    if len(places) > 2:
        refuse(function, value, "a product of more than two values that depend on the images")
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    subscripts = inputs.split(",")
    if not arrow or "." in equation or not subscripts[places[0]]:
        refuse(function, value, f"{equation!r} does not name every index", "write all of them out, and the result's")
    images = subscripts[places[0]][0]
    first = all(subscripts[place][:1] == images and subscripts[place].count(images) == 1 for place in places)
    if output[:1] != images or inputs.count(images) > len(places) or output.count(images) > 1 or not first:
        refuse(function, value, f"{equation!r} does not leave the images the first index", "name their index first")

    if len(places) == 2:
        if len(parts) > 2:
            refuse(function, value, "a product of two values and of constants", "multiply one by the constants first")
        left, right = (part.unscaled() for part in parts)
        return bilinear(lambda x, y: torch.einsum(equation, x, y), left, right)

    def product(x: Tensor, others: list[Any]) -> Tensor:
        return torch.einsum(equation, *(x if index == places[0] else other for index, other in enumerate(others)))

    sizes = [part.abs() if isinstance(part, Tensor) and not isinstance(part, Value) else part for part in parts]
    return propagate(value, lambda x: product(x, parts), lambda radius: product(radius, sizes))
