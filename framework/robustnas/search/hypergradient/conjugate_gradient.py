"""Conjugate gradient: implicit, the linear system (H + lambda + damping) p = v by conjugate gradient.

The Hessian of a network is indefinite.  A direction along which the damped curvature is not positive ends the
iteration with what was found so far; where that is the first, p is v / damping (or v where damping is 0).

Source: Hestenes and Stiefel 1952; for hypergradients Rajeswaran et al. 2019, arXiv:1909.04630.
"""

from __future__ import annotations

import torch
from attrs import frozen
from attrs.validators import ge
from torch import Tensor

from robustnas.options import option
from robustnas.search.hypergradient.curvature import Curvature
from robustnas.search.hypergradient.implicit import implicit
from robustnas.search.hypergradient.step import Hypergradient, Step


@frozen
class ConjugateGradient:
    """Order `cg`: implicit, by conjugate gradient (Rajeswaran et al. 2019, arXiv:1909.04630)."""

    iterations: int = option(5, "iterations at most; it stops at directions of negative curvature", ge(1))
    damping: float = option(1.0, "added to the curvature in every direction, which need not be positive", ge(0.0))
    tolerance: float = option(1e-6, "residual, relative to the right-hand side, at which it stops", ge(0.0))

    def gradient(self, step: Step) -> Hypergradient:
        """The hypergradient at w."""
        return implicit(step, self._solve)

    def _solve(self, curvature: Curvature, v: list[Tensor]) -> list[Tensor]:
        solution = [torch.zeros_like(entry) for entry in v]
        residual = direction = v
        size = first = _dot(residual, residual)
        for iteration in range(self.iterations):
            if size <= self.tolerance**2 * first:
                break
            curved = [c + self.damping * d for c, d in zip(curvature.along_w(direction), direction, strict=True)]
            bend = _dot(direction, curved)
            if bend <= 0:
                return _along(1 / self.damping if self.damping else 1.0, v) if iteration == 0 else solution
            length = size / bend
            solution = [s + length * d for s, d in zip(solution, direction, strict=True)]
            residual = [r - length * c for r, c in zip(residual, curved, strict=True)]
            before, size = size, _dot(residual, residual)
            direction = [r + (size / before) * d for r, d in zip(residual, direction, strict=True)]
        return solution


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    """The inner product over all weights together."""
    return float(torch.stack([(x * y).sum(dtype=torch.float64) for x, y in zip(a, b, strict=True)]).sum())


def _along(length: float, direction: list[Tensor]) -> list[Tensor]:
    return [length * entry for entry in direction]
