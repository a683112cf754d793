"""Sums of products with tensors that do not depend on the images, in index notation: linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.registration import propagate, rule
from robustnas.bounds.value import Function, Value, refuse


@rule(torch.einsum, scaled=True)
def einsum(function: Function, equation: str, *operands: Any) -> Value:
    """One bounded value whose first index is the images', and the result's first, and nobody else's."""
    parts = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else list(operands)
    places = [index for index, part in enumerate(parts) if isinstance(part, Value)]
    value: Value = parts[places[0]]
    if len(places) > 1:
        refuse(function, value, "a product of two values that depend on the images is not linear")
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    subscripts = inputs.split(",")
    if not arrow or "." in equation or not subscripts[places[0]]:
        refuse(function, value, f"{equation!r} does not name every index", "write all of them out, and the result's")
    images = subscripts[places[0]][0]
    if output[:1] != images or inputs.count(images) > 1 or output.count(images) > 1:
        refuse(function, value, f"{equation!r} does not leave the images the first index", "name their index first")

    def product(x: Tensor, others: list[Any]) -> Tensor:
        return torch.einsum(equation, *(x if index == places[0] else other for index, other in enumerate(others)))

    sizes = [part.abs() if isinstance(part, Tensor) and not isinstance(part, Value) else part for part in parts]
    return propagate(value, lambda x: product(x, parts), lambda radius: product(radius, sizes))
