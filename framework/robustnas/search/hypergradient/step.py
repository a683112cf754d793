"""What every hypergradient is computed from, and what it returns."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.contracts import Context
from robustnas.normalize import PixelSupernet
from robustnas.search.objective import Batch, Objective, Validation
from robustnas.search.weights import Weights


@frozen(eq=False)
class Step:
    """One step of the bilevel problem.

    Args:
        supernet: in training mode.
        objective: what the two levels minimise.
        weights: w of this supernet.
        w_optimizer: SGD; its learning rate, momentum buffers and weight decay make the virtual step.
        train: batch of the inner level.
        val: batch of the outer level.
        inner: context of the inner level's loss.
        outer: context of the outer level's loss.
    """

    supernet: PixelSupernet
    objective: Objective
    weights: Weights
    w_optimizer: torch.optim.Optimizer
    train: Batch
    val: Batch
    inner: Context
    outer: Context

    @property
    def alpha(self) -> list[nn.Parameter]:
        """The parameters the outer level moves, in the supernet's order."""
        return list(self.supernet.alpha.values())


@frozen(eq=False)
class Hypergradient:
    """Gradient of the outer objective in alpha, one tensor a parameter, and what the validation pass saw."""

    gradients: list[Tensor]
    validation: Validation
