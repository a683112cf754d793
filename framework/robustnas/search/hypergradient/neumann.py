"""Neumann: implicit, the inverse Hessian by a truncated series.

    p = eta sum_{k=0}^{terms} (I - eta (H + lambda))^k v

It converges to (H + lambda)^-1 v where every curvature lies between 0 and 2 / eta; cut off after `terms` it is what
unrolling so many steps of size eta from the same point would give.

Source: Lorraine, Vicol and Duvenaud 2020, arXiv:1911.02590, sec. 4 and algorithm 3.
"""

from __future__ import annotations

from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor

from robustnas.options import option
from robustnas.search.hypergradient.curvature import Curvature
from robustnas.search.hypergradient.implicit import implicit
from robustnas.search.hypergradient.step import Hypergradient, Step


@frozen
class Neumann:
    """Order `neumann`: implicit, by a truncated Neumann series (Lorraine et al. 2020, arXiv:1911.02590)."""

    terms: int = option(3, "terms of the series after the first", ge(0))
    rate: float | None = option(
        None, "its step, below 2 over the largest curvature; default the present learning rate of w", optional(gt(0.0))
    )

    def gradient(self, step: Step) -> Hypergradient:
        """The hypergradient at w."""
        eta = self.rate or step.rate

        def solve(curvature: Curvature, v: list[Tensor]) -> list[Tensor]:
            term, total = v, v
            for _ in range(self.terms):
                term = [t - eta * c for t, c in zip(term, curvature.along_w(term), strict=True)]
                total = [a + b for a, b in zip(total, term, strict=True)]
            return [eta * t for t in total]

        return implicit(step, solve)
