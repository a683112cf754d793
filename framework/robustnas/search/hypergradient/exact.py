"""Exact: through the same virtual step as `unrolled`, differentiating twice where that takes a difference.

    hypergradient  = grad_alpha [ L_val(w', alpha) - gamma * R(w', alpha) ]  -  xi * grad_alpha < grad_w L_train, v >
    v              = grad_w'    [ L_val(w', alpha) - gamma * R(w', alpha) ]

It keeps the graph of a gradient of the whole supernet, so it costs several times the memory of `unrolled`, and calls
for operations that can be differentiated twice.
"""

from __future__ import annotations

from attrs import frozen

from robustnas.search.hypergradient.curvature import Curvature
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import at_virtual_step, draws, rewind


@frozen
class Exact:
    """Order `exact`: through the same virtual step as `unrolled`, by differentiating twice."""

    def gradient(self, step: Step) -> Hypergradient:
        """The hypergradient at w'."""
        start = draws(step)
        partial, v, validation = at_virtual_step(step)
        second = Curvature(step, start).along_alpha(v)
        rewind(start)
        gradients = [first - step.rate * more for first, more in zip(partial, second, strict=True)]
        return Hypergradient(gradients, validation)
