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

from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import training_loss
from robustnas.statistics import scratch_statistics


def rate(step: Step) -> float:
    """xi: the present learning rate of w."""
    return float(step.w_optimizer.param_groups[0]["lr"])


def inner_loss(step: Step) -> Tensor:
    """L_train at the weights the supernet holds; running statistics stay as they are."""
    with scratch_statistics(step.supernet, biased=False):
        return training_loss(step.objective, step.supernet, step.train, step.inner)


def moved(step: Step, gradients: list[Tensor]) -> list[Tensor]:
    """w', carrying the graph of `gradients` (of L_train with respect to w) where they have one."""
    group = step.w_optimizer.param_groups[0]
    xi, momentum, decay = rate(step), float(group["momentum"]), float(group["weight_decay"])
    values = []
    for parameter, gradient in zip(step.weights.parameters, gradients, strict=True):
        weight = parameter.detach()
        direction = gradient + decay * weight
        buffer = step.w_optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            direction = direction + momentum * buffer
        values.append(weight - xi * direction)
    return values


@frozen(eq=False)
class Draws:
    """The state of every generator the inner loss may draw from."""

    generator: torch.Generator
    device: torch.device
    own: Tensor
    everyones: list[Tensor]


def draws(step: Step) -> Draws:
    """The state as it is now."""
    device = step.train[0].device
    return Draws(step.inner.generator, device, step.inner.generator.get_state(), _global_states(device))


@contextmanager
def replayed(draws: Draws) -> Iterator[None]:
    """Inside, the inner loss draws what it drew then; afterwards the generators go on where they were."""
    before = Draws(draws.generator, draws.device, draws.generator.get_state(), _global_states(draws.device))
    _restore(draws)
    try:
        yield
    finally:
        _restore(before)


def rewind(draws: Draws) -> None:
    """The inner loss's own generator back to its state then: the inner step draws what its rehearsal drew."""
    draws.generator.set_state(draws.own)


def _global_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def _restore(draws: Draws) -> None:
    draws.generator.set_state(draws.own)
    torch.set_rng_state(draws.everyones[0])
    if draws.device.type == "cuda":
        torch.cuda.set_rng_state(draws.everyones[1], draws.device)
    elif draws.device.type == "mps":
        torch.mps.set_rng_state(draws.everyones[1])
