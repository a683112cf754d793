"""Products with the second derivatives of L_train at w, by differentiating twice; no matrix is ever formed.

    along_w(v)        grad_w     < grad_w L_train, v >  +  lambda v      the Hessian, with that of the weight decay
    along_alpha(v)    grad_alpha < grad_w L_train, v >                   the mixed derivatives

L_train is evaluated in float32, with the random draws of the step and batch statistics; running statistics stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robustnas.data.batches import Part
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.fast import double_backward
from robustnas.search.hypergradient.step import Step
from robustnas.search.hypergradient.virtual import GeneratorState, replayed
from robustnas.search.objective import training_loss


class Curvature:
    """The second derivatives at one step.

    Where the batch is one part its graph is kept from product to product; of several parts each is computed again
    for every product, so that no more than one is ever held.
    """

    def __init__(self, step: Step, start: GeneratorState):
        self._step, self._start = step, start
        self._kept: list[tuple[Tensor, ...]] = []

    def along_w(self, v: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian times v, one tensor a weight."""
        decay = float(self._step.w_optimizer.param_groups[0]["weight_decay"])
        product = self._product(self._step.weights.parameters, v)
        return [found + decay * direction for found, direction in zip(product, v, strict=True)]

    def along_alpha(self, v: Sequence[Tensor]) -> list[Tensor]:
        """The mixed derivatives times v, one tensor a table of alpha."""
        return self._product(self._step.alpha, v)

    def _product(self, inputs: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
        total: list[Tensor] = []
        for gradients in self._gradients():
            linked = [(g, d) for g, d in zip(gradients, v, strict=True) if g.requires_grad]
            products = torch.autograd.grad(
                [g for g, _ in linked],
                list(inputs),
                [d for _, d in linked],
                retain_graph=bool(self._kept),
                allow_unused=True,
                materialize_grads=True,
            )
            total = [a + b for a, b in zip(total, products, strict=True)] if total else list(products)
        return self._step.processes.sum(total)

    def _gradients(self) -> Iterator[tuple[Tensor, ...]]:
        """Each part's gradient of L_train in w, with its graph."""
        if self._kept:
            yield from self._kept
            return
        with replayed(self._start), scratch_statistics(self._step.supernet, biased=False):
            for part in self._step.train:
                gradients = self._gradient(part)
                if len(self._step.train) == 1:
                    self._kept.append(gradients)
                yield gradients

    def _gradient(self, part: Part) -> tuple[Tensor, ...]:
        step = self._step
        with double_backward():
            loss = training_loss(step.objective, step.supernet, part, step.inner, precise=True, twice=True)
        return torch.autograd.grad(
            loss,
            step.weights.parameters,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
