"""First order: w' = w, so alpha moves along the partial gradient at the present weights.

    grad_alpha [ L_val(w, alpha) - gamma * R(w, alpha) ]

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, sec. 2.3 with xi = 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:  # the default of the settings, which cost no torch
    from robustnas.search.hypergradient.step import Hypergradient, Step


@frozen
class FirstOrder:
    """Order `first`: the weights as they are (Liu et al. 2019, arXiv:1806.09055, with xi = 0)."""

    def gradient(self, step: Step) -> Hypergradient:
        """The hypergradient at w.  No gradient of w is computed, unless a metric does so itself."""
        return step.outer_gradient(step.alpha)
