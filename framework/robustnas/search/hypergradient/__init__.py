"""Gradients of the outer level: each takes a `Step` and returns a `Hypergradient`, one file each.

first_order   w' = w
unrolled      w' is one virtual step from w; its dependence on alpha by a finite difference
exact         the same, by differentiating twice; too costly for a search, and what the others are tested
against
"""

from collections.abc import Callable

from robustnas.search.hypergradient.exact import exact
from robustnas.search.hypergradient.first_order import first_order
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.unrolled import unrolled

ORDERS: dict[str, Callable[[Step], Hypergradient]] = {"first": first_order, "unrolled": unrolled}
"""By the values of the recipe's key `search.order`."""

__all__ = ["ORDERS", "Hypergradient", "Step", "exact", "first_order", "unrolled"]
