"""Gradients of the outer level: each takes a `Step` and returns a `Hypergradient`, one file each.

    first_order          w' = w
    unrolled             w' is one virtual step from w; its dependence on alpha by a finite difference
    exact                the same, by differentiating twice
    neumann              implicit: w is taken to be at its minimum; the inverse Hessian by a truncated series
    conjugate_gradient   implicit, the inverse Hessian by conjugate gradient

`curvature` has the products with second derivatives, `virtual` the virtual step, `implicit` what the last two share.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from robustnas.search import settings
from robustnas.search.hypergradient.conjugate_gradient import conjugate_gradient
from robustnas.search.hypergradient.exact import exact
from robustnas.search.hypergradient.first_order import first_order
from robustnas.search.hypergradient.neumann import neumann
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.unrolled import unrolled

FUNCTIONS: dict[type[settings.Order], Callable[..., Hypergradient]] = {
    settings.FirstOrder: first_order,
    settings.Unrolled: unrolled,
    settings.Exact: exact,
    settings.Neumann: neumann,
    settings.ConjugateGradient: conjugate_gradient,
}


def hypergradient(order: Any) -> Callable[[Step], Hypergradient]:
    """The function that the recipe's key `search.order` asks for, with its options."""
    return partial(FUNCTIONS[type(order)], order=order)


__all__ = [
    "Hypergradient",
    "Step",
    "conjugate_gradient",
    "exact",
    "first_order",
    "hypergradient",
    "neumann",
    "unrolled",
]
