"""Choices between entries by a mask that does not depend on the images: every stream is chosen alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules.arithmetic import constant
from robustnas.bounds.value import Function, Value, refuse, values_in


@rule(*spellings("where"))
def where(function: Function, mask: Any, left: Any = None, right: Any = None) -> Value:
    """Entries of the left where the mask is true, else of the right."""
    if function is torch.Tensor.where:
        mask, left = left, mask
    value = next(values_in((left, right, mask)))
    if isinstance(mask, Value) or left is None or right is None:
        refuse(function, value, "a mask that depends on the images", "relu, clamp, maximum and abs have rules")
    known = value.centre.dim()
    for part in (mask, left, right):
        if isinstance(part, Tensor) and (
            part.dim() > known or (part.dim() == known and len(part) not in (1, len(value)))
        ):
            refuse(function, value, f"shapes {tuple(part.shape)} and {tuple(value.shape)} do not align image by image")
        if isinstance(part, Value) and part.centre.dim() != known:
            refuse(function, value, f"shapes {tuple(part.shape)} and {tuple(value.shape)} do not align image by image")
    one, other = (part if isinstance(part, Value) else constant(value, part) for part in (left, right))
    plain = None
    if one.plain is not None and other.plain is not None:
        plain = torch.where(mask, one.plain, other.plain)
    with value.walk.intervals():
        centre = torch.where(mask, one.centre, other.centre)
        radius = torch.where(mask, one.radius, other.radius)
    return value.like(plain, centre, radius)


@rule(*spellings("masked_fill", "masked_fill_"))
def masked_fill(function: Function, value: Any, mask: Any, filling: Any) -> Value:
    """A constant where the mask is true."""
    return where(torch.where, mask, filling, value)


@rule(*spellings("tril", "triu"))
def triangle(function: Function, value: Value, diagonal: int = 0) -> Value:
    """Zeros above or below a diagonal."""
    if value.centre.dim() < 3:
        refuse(function, value, "goes over the images")
    found: Any = value * function(torch.ones_like(value.centre[0]), diagonal)
    assert isinstance(found, Value)
    return found
