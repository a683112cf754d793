"""Mixing weights of zeros and ones, told by the columns of the ones: whose operations alone are then computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

from torch import Tensor

Columns = Sequence[int | tuple[int, ...]]
"""For weights of zeros and ones, the columns of the ones: of every edge the one, or all of them."""


def columns_of(edge: int | tuple[int, ...]) -> tuple[int, ...]:
    """The columns of an edge's ones."""
    return (edge,) if isinstance(edge, int) else edge


def summed(terms: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of those that are there; None where none is."""
    found = [term for term in terms if term is not None]
    return reduce(add, found) if found else None
