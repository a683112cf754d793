"""Exact: through the same virtual step as `unrolled`, differentiating twice where that takes a difference.

    d/d alpha [ L_val(w'(alpha), alpha) - gamma * R(w'(alpha), alpha) ]

It keeps the graph of a gradient of the whole supernet, so it costs several times the memory of `unrolled`: a
reference, not a choice of the recipe.  It calls for operations that can be differentiated twice.
"""

from __future__ import annotations

import torch

from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import draws, inner_loss, moved, rewind
from robustnas.search.objective import GradientSum, validate
from robustnas.search.weights import replaced


def exact(step: Step) -> Hypergradient:
    """The hypergradient at w'."""
    start = draws(step)
    gradients = torch.autograd.grad(
        inner_loss(step),
        step.weights.parameters,
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    virtual = moved(step, list(gradients))
    # Every term's graph leads through w', whose own graph is therefore kept until the last.
    total = GradientSum(list(step.alpha), retain_graph=True)
    with replaced(step.weights, virtual):
        validation = validate(step.objective, step.supernet, step.val, step.outer, total.add)
    rewind(start)
    return Hypergradient(total.gradients, validation)
