"""Exact: through the same virtual step as `unrolled`, differentiating twice where that takes a difference.

    hypergradient  = grad_alpha [ L_val(w', alpha) - gamma * R(w', alpha) ]  -  xi * grad_alpha < grad_w L_train, v >
    v              = grad_w'    [ L_val(w', alpha) - gamma * R(w', alpha) ]

It keeps the graph of a gradient of the whole supernet, so it costs several times the memory of `unrolled`, and calls
for operations that can be differentiated twice.
"""

from __future__ import annotations

from robustnas.search.hypergradient.curvature import Curvature
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import at_virtual_step, draws, rate, rewind
from robustnas.search.settings import Exact


def exact(step: Step, order: Exact | None = None) -> Hypergradient:
    """The hypergradient at w'."""
    start = draws(step)
    partial, v, validation = at_virtual_step(step)
    second = Curvature(step, start).along_alpha(v)
    rewind(start)
    xi = rate(step)
    return Hypergradient([first - xi * more for first, more in zip(partial, second, strict=True)], validation)
