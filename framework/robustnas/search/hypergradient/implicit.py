"""Implicit: w is taken to be at the minimum of the inner level, and to stay there as alpha moves.

    hypergradient  = grad_alpha F  -  grad_alpha < grad_w L_train, p >,      p ~ (H + lambda)^-1 grad_w F
    F              = L_val(w, alpha) - gamma * R(w, alpha)

by the implicit function theorem at grad_w L_train + lambda w = 0, H the Hessian of L_train in w.  What tells the
choices apart is how they solve for p: `neumann`, `conjugate_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from robustnas.search.hypergradient.curvature import Curvature
from robustnas.search.hypergradient.step import Hypergradient, Step
from robustnas.search.hypergradient.virtual import draws, rewind


def implicit(step: Step, solve: Callable[[Curvature, list[Tensor]], list[Tensor]]) -> Hypergradient:
    """The hypergradient at w, with p as `solve` finds it from the curvature and grad_w F."""
    start, alpha = draws(step), step.alpha
    outer = step.outer_gradient([*alpha, *step.weights.parameters])
    partial, v = outer.gradients[: len(alpha)], outer.gradients[len(alpha) :]
    curvature = Curvature(step, start)
    second = curvature.along_alpha(solve(curvature, v))
    rewind(start)
    return Hypergradient([first - more for first, more in zip(partial, second, strict=True)], outer.validation)
