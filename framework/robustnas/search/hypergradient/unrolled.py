"""Unrolled: through one virtual step w'(alpha) of w, the second derivative by a finite difference.

    v              = grad_w'    [ L_val(w', alpha) - gamma * R(w', alpha) ]
    hypergradient  = grad_alpha [ L_val(w', alpha) - gamma * R(w', alpha) ]
                     - xi * [ grad_alpha L_train(w + r v, alpha) - grad_alpha L_train(w - r v, alpha) ] / (2 r)
    r              = radius / ||v||,   radius 0.01 in DARTS

All evaluations of L_train use the same images, the same random draws, and batch statistics; none moves the
running statistics.  R is evaluated at the same w' as L_val; its batch norm statistics are constants.

The error against `exact`, relative to the whole hypergradient, in float64: 2e-6 to 4e-6 on a smooth supernet, falling
with the square of the radius.  Rectifiers and max pooling have kinks, which a difference over a finite radius crosses
and `exact` does not see: 0.15 on DARTS's supernet (3 cells, 8 channels, 32 digits after 10 steps of w; first order is
off by 0.23 there), and 8e-10 where the radius is so small (1e-7) that no kink is crossed.

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, eqs. 7 and 8; R as in Hosseini et al. 2021,
arXiv:2012.06122.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import gt
from torch import Tensor
from torch.nn.utils import get_total_norm

from robustnas.options import option
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import GeneratorState, at_virtual_step, draws, replayed, rewind
from robustnas.search.weights import replaced


@frozen
class Unrolled:
    """Order `unrolled`: through one virtual step of w, by a finite difference (arXiv:1806.09055, eqs. 7 and 8)."""

    radius: float = option(0.01, "length of the finite difference's step in w, over all weights together", gt(0.0))

    def gradient(self, step: Step) -> Hypergradient:
        """The hypergradient at w'."""
        start = draws(step)
        partial, v, validation = at_virtual_step(step)
        # Where v is zero any radius will do; an infinite one would make NaN of the zero.
        radius = self.radius / get_total_norm(v).clamp_min(torch.finfo(v[0].dtype).tiny ** 0.5)
        above = _alpha_gradient(step, v, radius, start)
        below = _alpha_gradient(step, v, -radius, start)
        rewind(start)
        gradients = [
            first - step.rate * (a - b) / (2 * radius) for first, a, b in zip(partial, above, below, strict=True)
        ]
        return Hypergradient(gradients, validation)


def _alpha_gradient(step: Step, direction: list[Tensor], radius: Tensor, start: GeneratorState) -> list[Tensor]:
    """grad_alpha L_train at w + radius * direction."""
    values = [w.detach() + radius * v for w, v in zip(step.weights.parameters, direction, strict=True)]
    with replaced(step.weights, values), replayed(start):
        return step.inner_gradient(step.alpha, precise=True)
