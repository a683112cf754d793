"""What every hypergradient is computed from, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.contracts import Context
from robustnas.data.batches import Batch
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.processes import ALONE, Processes
from robustnas.search.objective import GradientSum, Objective, Validation, training_loss, validate
from robustnas.search.weights import Weights


@frozen(eq=False)
class Step:
    """One step of the bilevel problem.

    Args:
        supernet: in training mode.
        objective: what the two levels minimise.
        weights: w of this supernet.
        w_optimizer: SGD; its learning rate, momentum buffers and weight decay make the virtual step.
        train: this process's parts of the inner level's batch.
        val: this process's parts of the outer level's batch.
        inner: context of the inner level's loss.
        outer: context of the outer level's loss.
        processes: the processes that share the two batches.
    """

    supernet: PixelSupernet
    objective: Objective
    weights: Weights
    w_optimizer: torch.optim.Optimizer
    train: Batch
    val: Batch
    inner: Context
    outer: Context
    processes: Processes = ALONE

    @property
    def alpha(self) -> list[nn.Parameter]:
        """The parameters the outer level moves, in the supernet's order."""
        return list(self.supernet.alpha.values())


@frozen(eq=False)
class Hypergradient:
    """Gradient of the outer objective in alpha, one tensor a parameter, and what the validation pass saw."""

    gradients: list[Tensor]
    validation: Validation


def inner_gradient(step: Step, inputs: Sequence[Tensor], *, precise: bool = False) -> list[Tensor]:
    """The gradient of L_train at the weights the supernet holds, over all parts and processes.

    Running statistics stay as they are.

    Args:
        inputs: what to differentiate in.
        precise: see `training_loss`.
    """
    total = GradientSum(list(inputs))
    with scratch_statistics(step.supernet, biased=False):
        for part in step.train:
            total.add(training_loss(step.objective, step.supernet, part, step.inner, precise=precise))
    return step.processes.sum(total.gradients)


def outer_gradient(step: Step, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Validation]:
    """The gradient of L_val - gamma * R at the weights the supernet holds, over all parts and processes."""
    total = GradientSum(list(inputs))
    seen = validate(step.objective, step.supernet, step.val, step.outer, total.add)
    figures = {name: value for name, value in attrs.asdict(seen, recurse=False).items() if value is not None}
    summed = step.processes.sum([*total.gradients, *figures.values()])
    gradients, whole = summed[: len(inputs)], dict(zip(figures, summed[len(inputs) :], strict=True))
    return gradients, attrs.evolve(seen, **whole)
