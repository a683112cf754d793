"""Unrolled: through one virtual step w'(alpha) of w, the second derivative by a finite difference.

    v              = grad_w'    [ L_val(w', alpha) - gamma * R(w', alpha) ]
    hypergradient  = grad_alpha [ L_val(w', alpha) - gamma * R(w', alpha) ]
                     - xi * [ grad_alpha L_train(w + r v, alpha) - grad_alpha L_train(w - r v, alpha) ] / (2 r)
    r              = 0.01 / ||v||

All evaluations of L_train use the same images, the same random draws, and batch statistics; none moves the
running statistics.  R is evaluated at the same w' as L_val; its batch norm statistics are constants.

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, eqs. 7 and 8; R as in Hosseini et al. 2021,
arXiv:2012.06122.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import Draws, draws, inner_loss, moved, rate, replayed, rewind
from robustnas.search.objective import GradientSum, validate
from robustnas.search.weights import constant, replaced

RADIUS = 0.01
"""Length of the finite difference's step in w, over all weights together."""


def unrolled(step: Step) -> Hypergradient:
    """The hypergradient at w'."""
    alpha, w = step.alpha, step.weights.parameters
    start = draws(step)
    with constant(alpha) if step.objective.plain_inner else nullcontext():
        gradients = torch.autograd.grad(inner_loss(step), w, allow_unused=True, materialize_grads=True)
    virtual = [value.detach().requires_grad_() for value in moved(step, list(gradients))]
    del gradients

    total = GradientSum([*alpha, *virtual])
    with replaced(step.weights, virtual):
        validation = validate(step.objective, step.supernet, step.val, step.outer, total.add)
    partial, v = total.gradients[: len(alpha)], total.gradients[len(alpha) :]
    del virtual

    # Where v is zero any radius will do; an infinite one would make NaN of the zero.
    radius = RADIUS / get_total_norm(v).clamp_min(torch.finfo(v[0].dtype).tiny ** 0.5)
    above = _alpha_gradient(step, v, radius, start)
    below = _alpha_gradient(step, v, -radius, start)
    rewind(start)
    xi = rate(step)
    gradients_of_alpha = [
        first - xi * (a - b) / (2 * radius) for first, a, b in zip(partial, above, below, strict=True)
    ]
    return Hypergradient(gradients_of_alpha, validation)


def _alpha_gradient(step: Step, direction: list[Tensor], radius: Tensor, start: Draws) -> tuple[Tensor, ...]:
    """grad_alpha L_train at w + radius * direction."""
    values = [w.detach() + radius * v for w, v in zip(step.weights.parameters, direction, strict=True)]
    with replaced(step.weights, values), replayed(start):
        return torch.autograd.grad(inner_loss(step), step.alpha, allow_unused=True, materialize_grads=True)
