"""Neumann: implicit, the inverse Hessian by a truncated series.

    p = eta sum_{k=0}^{terms} (I - eta (H + lambda))^k v

It converges to (H + lambda)^-1 v where every curvature lies between 0 and 2 / eta; cut off after `terms` it is what
unrolling so many steps of size eta from the same point would give.

Source: Lorraine, Vicol and Duvenaud 2020, arXiv:1911.02590, sec. 4 and algorithm 3.
"""

from __future__ import annotations

from torch import Tensor

from robustnas.search.hypergradient.curvature import Curvature
from robustnas.search.hypergradient.implicit import implicit
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import rate
from robustnas.search.settings import Neumann


def neumann(step: Step, order: Neumann | None = None) -> Hypergradient:
    """The hypergradient at w."""
    order = order or Neumann()
    eta = order.rate or rate(step)

    def solve(curvature: Curvature, v: list[Tensor]) -> list[Tensor]:
        term, total = v, v
        for _ in range(order.terms):
            term = [t - eta * c for t, c in zip(term, curvature.along_w(term), strict=True)]
            total = [a + b for a, b in zip(total, term, strict=True)]
        return [eta * t for t in total]

    return implicit(step, solve)
