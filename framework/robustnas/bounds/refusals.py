"""Refusals that rules share: of further arguments that depend on the images, and of what would mix or move images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from robustnas.bounds.value import Function, Value, refuse, values_in


def only_first(function: Function, value: Any, rest: Iterable[Any], kwargs: dict[str, Any] | None = None) -> None:
    """Refuse a call in which something besides the first argument depends on the images."""
    others = list(values_in((*rest, *(kwargs or {}).values())))
    if others:
        refuse(function, others[0], "an argument besides the first depends on the images")
    assert isinstance(value, Value)


def expect_dimensions(function: Function, value: Value, wanted: int) -> None:
    """Refuse images of another number of dimensions: torch would take the first one for channels."""
    known = value.centre.dim()
    if known != wanted:
        refuse(function, value, f"input of {known} dimensions: without an image dimension images mix")


def inner_dimensions(function: Function, value: Value, dim: int | Sequence[int], verb: str = "goes") -> list[int]:
    """Count the network's dimensions from the front, and refuse the dimension of the images."""
    dims = [index % value.centre.dim() for index in ([dim] if isinstance(dim, int) else dim)]
    if not dims or 0 in dims:
        refuse(function, value, f"{verb} over the images", "name the dimensions, without the first")
    return dims


def expect_alignment(function: Function, value: Value, other: Any) -> None:
    """Refuse unequal numbers of dimensions: shapes align from the right, so images could meet other entries."""
    known = value.centre.dim()
    if isinstance(other, Value):
        fits = other.centre.dim() == known
    elif isinstance(other, Tensor) and other.dim() > 0:
        fits = other.dim() < known or (other.dim() == known and len(other) in (1, value.propagation.images))
    else:
        fits = True
    if not fits:
        shapes = f"shapes {tuple(value.shape)} and {tuple(other.shape)}"
        refuse(function, value, f"{shapes} do not align image by image")
