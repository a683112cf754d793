"""Method `alpha-crown`: the lower lines of rectifiers chosen for each linear function, by ascent on its bound.

Every slope between a rectifier's two is a lower line, so every choice is sound; the best of all that were tried is
kept, and the first that is tried is that of `crown`.  The intervals in front of nonlinearities are those of `crown`.

Source: Xu et al. 2021, arXiv:2011.13824.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.bounds.value import Value
from robustnas.bounds.walk import Walk

STEPS = 20
"""Steps of ascent: one backward pass each, and one more for the lines of `crown`."""

RATE = 0.3
"""First step, of slopes in [0, 1]; it decays to a tenth."""


def least_fall(walk: Walk, value: Value, coefficients: Tensor) -> Tensor:
    """`Walk.fall` with the best slopes found: (S, N, ...) coefficients -> (S, N), in the value's units.

    The slopes are constants to a gradient of what is returned.
    """
    rays = walk.rays
    if not rays:
        return walk.fall(value, coefficients)
    slopes = [each.slopes.expand(len(coefficients), *each.slopes.shape).clone() for each in rays]
    best = coefficients.new_full(coefficients.shape[:2], torch.inf)
    kept = [each.clone() for each in slopes]
    first, second = [torch.zeros_like(each) for each in slopes], [torch.zeros_like(each) for each in slopes]
    for step in range(STEPS + 1):
        leaves = [each.requires_grad_() for each in slopes]
        fall = walk.fall(value, coefficients, False, leaves)
        better = fall.detach() < best
        best = torch.where(better, fall.detach(), best)
        kept = [torch.where(_beside(better, new), new.detach(), old) for new, old in zip(leaves, kept, strict=True)]
        if step == STEPS or not fall.requires_grad:
            break
        with torch.enable_grad():
            total = fall.sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        rate = RATE * 0.1 ** (step / STEPS)
        slopes = [
            _descended(leaf.detach(), gradient, m, v, rate, step + 1).clamp_(each.least, 1.0)
            for leaf, gradient, m, v, each in zip(leaves, gradients, first, second, rays, strict=True)
        ]
    return walk.fall(value, coefficients, slopes=kept) if walk.differentiable else best


def _beside(verdicts: Tensor, slopes: Tensor) -> Tensor:
    """(S, N) verdicts, to stand beside slopes (S, N, ...)."""
    return verdicts.view(*verdicts.shape, *[1] * (slopes.dim() - 2))


def _descended(slope: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: float, step: int) -> Tensor:
    """One step of Adam (Kingma and Ba 2015, arXiv:1412.6980); the moments are written in place."""
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    length = (second / (1 - 0.999**step)).sqrt_().add_(torch.finfo(slope.dtype).tiny ** 0.5)
    return slope - rate * (first / (1 - 0.9**step)) / length
