"""The virtual step of w that the outer level looks through: w' = w - xi (mu buf + grad L_train + lambda w).

xi is the present (scheduled) learning rate, mu the momentum, buf its buffer, lambda the weight decay: what
SGD would do next, except for gradient clipping (as in DARTS).  Source: Liu et al. 2019, arXiv:1806.09055, eq.
7, with the momentum and decay of its published experiments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from attrs import frozen
from torch import Tensor

from robustnas.runtime import seeding
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Validation
from robustnas.search.weights import replaced


def at_virtual_step(step: Step) -> tuple[list[Tensor], list[Tensor], Validation]:
    """The gradients of L_val - gamma * R at w': in alpha, in w', and what the validation pass saw."""
    alpha = step.alpha
    virtual = [value.requires_grad_() for value in _moved(step, step.inner_gradient(step.weights.parameters))]
    with replaced(step.weights, virtual):
        found = step.outer_gradient([*alpha, *virtual])
    return found.gradients[: len(alpha)], found.gradients[len(alpha) :], found.validation


def _moved(step: Step, gradients: list[Tensor]) -> list[Tensor]:
    """w' for a gradient of L_train with respect to w."""
    group = step.w_optimizer.param_groups[0]
    momentum, decay = float(group["momentum"]), float(group["weight_decay"])
    values = []
    for parameter, gradient in zip(step.weights.parameters, gradients, strict=True):
        weight = parameter.detach()
        direction = gradient + decay * weight
        buffer = step.w_optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            direction = direction + momentum * buffer
        values.append(weight - step.rate * direction)
    return values


@frozen(eq=False)
class GeneratorState:
    """The state of every generator the inner loss may draw from."""

    generator: torch.Generator
    device: torch.device
    states: dict[str, Tensor]

    def put_back(self) -> None:
        """Restore the generators to this state."""
        seeding.put_back(self.states, {"inner": self.generator}, self.device)


def draws(step: Step) -> GeneratorState:
    """Record the present state of the generators."""
    device, generator = step.train[0].images.device, step.inner.generator
    return GeneratorState(generator, device, seeding.states({"inner": generator}, device))


@contextmanager
def replayed(draws: GeneratorState) -> Iterator[None]:
    """Let the inner loss repeat its draws from that state inside the block, and restore generators afterwards."""
    before = seeding.states({"inner": draws.generator}, draws.device)
    draws.put_back()
    try:
        yield
    finally:
        seeding.put_back(before, {"inner": draws.generator}, draws.device)


def rewind(draws: GeneratorState) -> None:
    """Reset the inner loss's own generator, so that the inner step repeats the draws of the virtual step."""
    draws.generator.set_state(draws.states["inner"])
