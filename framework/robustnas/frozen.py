"""A network that is only looked at: eval mode, no gradients for its parameters, all put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode, its parameters without `requires_grad`; also put back after an exception.

    Foolbox differentiates with `loss.backward()`, which would fill `.grad` of every parameter and so leak
    into the next step of an optimiser.  The mode of every module is put back on its own: a network may hold
    some in eval mode while the rest trains.
    """
    modes = [(module, module.training) for module in network.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval()
    network.requires_grad_(False)
    try:
        yield network
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
