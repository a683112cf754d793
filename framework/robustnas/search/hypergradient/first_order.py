"""First order: w' = w, so alpha moves along the partial gradient at the present weights.

    grad_alpha [ L_val(w, alpha) - gamma * R(w, alpha) ]

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, sec. 2.3 with xi = 0.
"""

from __future__ import annotations

from contextlib import nullcontext

from robustnas.search.hypergradient.step import Hypergradient, Step, outer_gradient
from robustnas.search.settings import FirstOrder
from robustnas.search.weights import constant


def first_order(step: Step, order: FirstOrder | None = None) -> Hypergradient:
    """The hypergradient at w.  No gradient of w is computed."""
    # A metric may itself differentiate with respect to w; the plain loss does not.
    with constant(step.weights.parameters) if step.objective.plain_outer else nullcontext():
        return Hypergradient(*outer_gradient(step, step.alpha))
