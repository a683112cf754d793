"""What every hypergradient is computed from, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.contracts import Context
from robustnas.data.batches import Batch
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.processes import ALONE, Processes
from robustnas.search.balancing import Pull
from robustnas.search.objective import GradientSum, Objective, Validation, training_loss, validate
from robustnas.search.weights import Weights, constant


@frozen(eq=False)
class Hypergradient:
    """Gradient of the outer objective in alpha, one tensor a parameter, and what the validation pass saw."""

    gradients: list[Tensor]
    validation: Validation


@frozen(eq=False, kw_only=True)
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

    @property
    def rate(self) -> float:
        """The present learning rate of w."""
        return float(self.w_optimizer.param_groups[0]["lr"])

    def inner_gradient(self, inputs: Sequence[Tensor], *, precise: bool = False) -> list[Tensor]:
        """The gradient of L_train at the weights the supernet holds, over all parts and processes.

        Running statistics stay as they are.

        Args:
            inputs: what to differentiate in: tables of alpha, or weights.
            precise: in float32 whatever the precision of plain passes, see `training_loss`.
        """
        total = GradientSum(list(inputs))
        with self._constant(inputs, self.objective.plain_inner), scratch_statistics(self.supernet, biased=False):
            for part in self.train:
                total.add(training_loss(self.objective, self.supernet, part, self.inner, precise=precise))
        return self.processes.sum(total.gradients)

    def outer_gradient(self, inputs: Sequence[Tensor]) -> Hypergradient:
        """The gradient of L_val - gamma * R at the weights the supernet holds, over all parts and processes.

        Args:
            inputs: what to differentiate in, tables of alpha among them.
        """
        tables = {id(table) for table in self.alpha}
        total = GradientSum(list(inputs), apart=[place for place, one in enumerate(inputs) if id(one) in tables])
        with self._constant(inputs, self.objective.plain_outer):
            seen = validate(self.objective, self.supernet, self.val, self.outer, total.add)
        scores = seen.loss.new_empty(0) if seen.scores is None else seen.scores
        seen = attrs.evolve(seen, scores=None)
        figures = {name: value for name, value in attrs.asdict(seen, recurse=False).items() if value is not None}
        summed = self.processes.sum([*total.gradients, *figures.values()])
        gradients, whole = summed[: len(inputs)], dict(zip(figures, summed[len(inputs) :], strict=True))
        pull = self._pull([total.terms[number] for number in sorted(total.terms)], scores)
        return Hypergradient(gradients, attrs.evolve(seen, **whole, scores=pull.scores, pull=pull))

    def _pull(self, terms: list[list[Tensor]], scores: Tensor) -> Pull:
        """How hard the terms pull at alpha, from their gradients in it and the scores' means over the parts here."""
        # a message of its own: in one with the gradients these would be summed in another order than without it
        *flat, scores = self.processes.sum([*(one for term in terms for one in term), scores])
        tables = len(terms[0])
        summed = [flat[first : first + tables] for first in range(0, len(flat), tables)]
        weights = scores.new_tensor([weight for weight, _ in self.objective.scores])
        return Pull.of(summed, weights, self.objective.gammas(scores), scores)

    def _constant(self, inputs: Sequence[Tensor], plain: bool) -> AbstractContextManager[None]:
        """Inside the block, no graph leads to parameters other than `inputs`, where the loss is plain.

        A metric may itself differentiate with respect to any of them, so its loss keeps all graphs.
        """
        asked = {id(tensor) for tensor in inputs} if plain else set()
        parameters = [*self.alpha, *self.weights.parameters] if plain else []
        return constant([parameter for parameter in parameters if id(parameter) not in asked])
