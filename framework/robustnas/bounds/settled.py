"""Intervals in front of nonlinearities: kept from one pass, and given to others, which then need not bound them."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field
from torch import Tensor

Interval = tuple[Tensor, Tensor]
"""Lower and upper ends, (N, ...)."""


@define(eq=False)
class Settled:
    """The values whose intervals decide about lines, by place: in the order in which a pass meets them.

    Args:
        given: the intervals, by place, of a pass that takes them as they are; None where the pass finds its own.

    Attributes:
        found: the intervals of a pass that found its own, by place.
        clean: the clean values (N, ...) by place, with the pass's graph.
        keys: which value stands at which place.
    """

    given: Sequence[Interval] | None = None
    found: list[Interval] = field(init=False, factory=list)
    clean: list[Tensor] = field(init=False, factory=list)
    keys: dict[int, int] = field(init=False, factory=dict)
    _held: list[object] = field(init=False, factory=list)

    def meet(self, value: object, clean: Tensor) -> Interval | None:
        """Take note of a value and its clean stream (N, ...), and return its interval where that is given."""
        place = len(self.clean)
        self.clean.append(clean)
        self.keys[id(value)] = place
        self._held.append(value)  # an id is of a value that is there
        return None if self.given is None else self.given[place]

    def keep(self, lower: Tensor, upper: Tensor) -> None:
        """Keep the interval (N, ...) that the pass has found for the last value it met."""
        self.found.append((lower.detach(), upper.detach()))

    def place(self, value: object) -> int | None:
        """Where the pass met the value; None where it did not, because its interval was that of another by then."""
        return self.keys.get(id(value))
