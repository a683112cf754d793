"""Method `alpha-crown`: the lower lines of rectifiers are chosen for each linear function, by ascent on its bound.

Every slope between the two of a rectifier gives a lower line, so every choice is sound.  The first choice is that of
`crown`, and the best bound of all steps is kept.  Functions are the margins, and also the entries in front of later
nonlinearities and their negatives: layer after layer each of them has slopes of its own for every rectifier behind it.
The tightest interval of every entry by itself gives the tightest lines for all that follows, so nothing is gained by
optimising several layers for one margin together, and a part of the rows can be optimised at a time.

Source: Xu et al. 2021, arXiv:2011.13824.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustnas.bounds.propagation import Propagation
from robustnas.bounds.rows import Coefficients, Rows
from robustnas.bounds.walk import drops


def ascended(
    propagation: Propagation,
    clean: Tensor,
    coefficients: Coefficients,
    rows_of: Callable[[], Rows],
    steps: int,
    rate: float,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Minimise `walk.drops` over slopes: the least drops (B,), and the slopes that gave them.

    Args:
        rows_of: makes the rows anew for each backward pass.
        steps, rate: of ascent.
    """

    def walked(slopes: dict[int, Tensor]) -> Tensor:
        rows = rows_of()
        rows.slopes = slopes
        return drops(propagation, clean, coefficients, rows)

    rows = rows_of()
    rows.first = {}
    with torch.no_grad():
        best = drops(propagation, clean, coefficients, rows)
    kept = {place: slope for place, (slope, _) in rows.first.items()}
    if not kept:
        return best, kept
    least = {place: smallest for place, (_, smallest) in rows.first.items()}
    slopes = {place: slope.clone(memory_format=torch.preserve_format) for place, slope in kept.items()}
    moments = {place: (torch.zeros_like(slope), torch.zeros_like(slope)) for place, slope in kept.items()}
    for step in range(steps + 1):
        leaves = {place: slope.requires_grad_() for place, slope in slopes.items()}
        with torch.set_grad_enabled(step < steps):
            drop = walked(leaves)
        found = drop.detach()
        better = found < best
        best = torch.where(better, found, best)
        kept = {place: torch.where(_beside(better, old), leaves[place].detach(), old) for place, old in kept.items()}
        if step == steps or not drop.requires_grad:
            break
        wanted = list(leaves.values())
        ones = torch.ones_like(drop)
        gradients = torch.autograd.grad(drop, wanted, ones, allow_unused=True, materialize_grads=True)
        length = rate * 0.1 ** (step / steps)
        slopes = {
            place: descended(leaf.detach(), gradient, *moments[place], length, step + 1).clamp_(least[place], 1.0)
            for (place, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }
    return best, kept


def _beside(verdicts: Tensor, slopes: Tensor) -> Tensor:
    """Reshape verdicts (B,) so that they broadcast over slopes (B, ...)."""
    return verdicts.view(-1, *[1] * (slopes.dim() - 1))


def descended(slope: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: float, step: int) -> Tensor:
    """Take a step of Adam (Kingma and Ba 2015, arXiv:1412.6980), whose moments are written in place."""
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    length = (second / (1 - 0.999**step)).sqrt_().add_(torch.finfo(slope.dtype).tiny ** 0.5)
    return slope - rate * (first / (1 - 0.9**step)) / length
