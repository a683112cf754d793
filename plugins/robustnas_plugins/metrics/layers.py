"""Weights of a network, and the layers that hold them, as zero-cost scores see both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.fast import plain


def alphas_of(network: nn.Module) -> set[int]:
    """The identities of the tables of alpha of a supernet; none of a discrete network."""
    return {id(one) for one in getattr(network, "alpha", {}).values()}


def weights_of(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers by name: parameters of two or more dimensions that are no alpha."""
    alpha = alphas_of(network)
    return {name: one for name, one in network.named_parameters() if one.dim() > 1 and id(one) not in alpha}


@contextmanager
def batch_norm_of_batch(network: nn.Module) -> Iterator[None]:
    """Inside, batch norm normalises with the statistics of what it is given, and running statistics stay as they are.

    Every other module stays in its mode.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    modes = [layer.training for layer in layers]
    with scratch_statistics(network, biased=False):
        try:
            for layer in layers:
                layer.training = True
            yield
        finally:
            for layer, training in zip(layers, modes, strict=True):
                layer.training = training


@contextmanager
def outputs_noted(network: nn.Module, weights: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the last output of each layer that holds some of the weights is noted, by the layer's name.

    Several tensors are one, side by side.  Layers are called as modules only where the speed layer is off.
    """
    noted: dict[str, Tensor] = {}
    layers = {layer_of(network, name) for name in weights}

    def note(path: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        parts = [output] if isinstance(output, Tensor) else list(output)
        noted[path] = torch.cat([part.flatten(1) for part in parts], dim=1)

    with plain(), ExitStack() as hooks:
        for path in layers:
            hooks.callback(network.get_submodule(path).register_forward_hook(partial(note, path)).remove)
        yield noted


def layer_of(network: nn.Module, weight: str) -> str:
    """The name of the layer that holds a weight: the module that computes with it, and not a list of parameters."""
    path = weight.rpartition(".")[0]
    while isinstance(network.get_submodule(path), nn.ParameterList | nn.ParameterDict):
        path = path.rpartition(".")[0]
    return path
