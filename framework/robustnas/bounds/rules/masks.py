"""Bounds choices between entries by a mask that does not depend on the images: every stream is chosen alike."""

from __future__ import annotations

from typing import Any

import torch

from robustnas.bounds.refusals import expect_alignment
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.arithmetic import constant
from robustnas.bounds.value import Function, Value, refuse, values_in


@rule(*spellings("where"))
def where(function: Function, mask: Any, left: Any = None, right: Any = None) -> Value:
    """Take the left entries where the mask is true, else the right ones."""
    if function is torch.Tensor.where:
        mask, left = left, mask
    value = next(values_in((left, right, mask)))
    if isinstance(mask, Value) or left is None or right is None:
        refuse(function, value, "a mask that depends on the images", "relu, clamp, maximum and abs have rules")
    for part in (mask, left, right):
        expect_alignment(function, value, part)
    chosen, other = (part if isinstance(part, Value) else constant(value, part) for part in (left, right))
    clean = None
    if chosen.clean is not None and other.clean is not None:
        clean = torch.where(mask, chosen.clean, other.clean)
    with value.propagation.intervals():
        centre = torch.where(mask, chosen.centre, other.centre)
        radius = torch.where(mask, chosen.radius, other.radius)
    return value.like(clean, centre, radius)


@rule(*spellings("masked_fill", "masked_fill_"))
def masked_fill(function: Function, value: Any, mask: Any, filling: Any) -> Value:
    return where(torch.where, mask, filling, value)


@rule(*spellings("tril", "triu"))
def triangle(function: Function, value: Value, diagonal: int = 0) -> Any:
    """Put zeros above or below a diagonal."""
    if value.centre.dim() < 3:
        refuse(function, value, "goes over the images")
    return value * function(torch.ones_like(value.centre[0]), diagonal)
