"""Intervals in front of rectifiers, noted while passes run, for losses that are made of them.

with rectified() as seen:
    bounds = margins(network, images, labels, threat, "ibp")
sum(radius.mean() for _, radius in seen)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Interval = tuple[Tensor, Tensor]
"""Centre and radius, (N, ...) both, with the graph that the pass's intervals have."""

_SEEN: ContextVar[list[Interval] | None] = ContextVar("rectified", default=None)


@contextmanager
def rectified() -> Iterator[list[Interval]]:
    """Inside, the intervals that passes of this thread meet in front of ReLU and leaky ReLU are noted, in order; one
    that several of them rectify, once."""
    seen: list[Interval] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def meet(centre: Tensor, radius: Tensor) -> None:
    """Note an interval in front of a rectifier, where somebody asks for it."""
    seen = _SEEN.get()
    if seen is not None and not any(centre is each for each, _ in seen):
        seen.append((centre, radius))
