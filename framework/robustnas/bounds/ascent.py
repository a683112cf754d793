"""Method `alpha-crown`: the lower lines of rectifiers are chosen for each linear function, by ascent on its bound.

Every slope between the two of a rectifier gives a lower line, so every choice is sound.  The first choice is that of
`crown`, and the best bound of all steps is kept.  The intervals in front of nonlinearities are those of `crown`.

Source: Xu et al. 2021, arXiv:2011.13824.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.bounds.passes import drop_below_clean
from robustnas.bounds.propagation import Ascent
from robustnas.bounds.value import Value


def least_drop(value: Value, coefficients: Tensor, ascent: Ascent) -> Tensor:
    """Minimise `drop_below_clean` over slopes: (S, N, ...) coefficients -> (S, N), in the value's units.

    A gradient of the result takes the slopes for constants.
    """
    free = value.propagation.free_slopes
    if not free:
        return drop_below_clean(value, coefficients)
    slopes = [each.slopes.expand(len(coefficients), *each.slopes.shape).clone() for each in free]
    best = coefficients.new_full(coefficients.shape[:2], torch.inf)
    kept = [slope.clone() for slope in slopes]
    first, second = [torch.zeros_like(slope) for slope in slopes], [torch.zeros_like(slope) for slope in slopes]
    for step in range(ascent.steps + 1):
        leaves = [slope.requires_grad_() for slope in slopes]
        drop = drop_below_clean(value, coefficients, differentiable=False, slopes=leaves)
        better = drop.detach() < best
        best = torch.where(better, drop.detach(), best)
        kept = [torch.where(_beside(better, new), new.detach(), old) for new, old in zip(leaves, kept, strict=True)]
        if step == ascent.steps or not drop.requires_grad:
            break
        with torch.enable_grad():
            total = drop.sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        rate = ascent.rate * 0.1 ** (step / ascent.steps)
        slopes = [
            descended(leaf.detach(), gradient, m, v, rate, step + 1).clamp_(each.least, 1.0)
            for leaf, gradient, m, v, each in zip(leaves, gradients, first, second, free, strict=True)
        ]
    return drop_below_clean(value, coefficients, slopes=kept) if value.propagation.differentiable else best


def _beside(verdicts: Tensor, slopes: Tensor) -> Tensor:
    """Reshape verdicts (S, N) so that they broadcast over slopes (S, N, ...)."""
    return verdicts.view(*verdicts.shape, *[1] * (slopes.dim() - 2))


def descended(slope: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: float, step: int) -> Tensor:
    """Take a step of Adam (Kingma and Ba 2015, arXiv:1412.6980), whose moments are written in place."""
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    length = (second / (1 - 0.999**step)).sqrt_().add_(torch.finfo(slope.dtype).tiny ** 0.5)
    return slope - rate * (first / (1 - 0.9**step)) / length
