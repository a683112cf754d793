"""Finds w, the parameters of a supernet that are not alpha, and replaces their values during a pass.

Values are exchanged by reference, in the module's own tables (as `torch.func.functional_call` does): nothing
is copied, and a value may carry a graph, so that gradients flow through it to what it was computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from attrs import frozen
from torch import Tensor, nn

from robustnas.errors import PluginError
from robustnas.nn.normalize import PixelSupernet


@frozen(eq=False)
class Weights:
    """The weights of one supernet, each with the places where modules hold it (several when it is shared)."""

    parameters: list[nn.Parameter]
    places: list[list[tuple[nn.Module, str]]]


def weights(supernet: PixelSupernet) -> Weights:
    """Every parameter of the supernet that is not alpha, in the order of `parameters()`.

    Raises:
        PluginError: the supernet has no alpha, or one that is not a parameter of the module, so that a
            checkpoint would lose it.
    """
    alpha = {id(parameter): name for name, parameter in supernet.alpha.items()}
    if not alpha:
        raise PluginError("the search space's supernet has no alpha: there is nothing to search")
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for module in supernet.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            parameters[id(parameter)] = parameter
            places.setdefault(id(parameter), []).append((module, name))
    lost = [name for key, name in alpha.items() if key not in parameters]
    if lost:
        raise PluginError(
            f"alpha {', '.join(lost)} of the supernet is not among its parameters(): "
            "make it an nn.Parameter of the module, or a checkpoint would lose it"
        )
    kept = [key for key in parameters if key not in alpha]
    return Weights([parameters[key] for key in kept], [places[key] for key in kept])


@contextmanager
def replaced(weights: Weights, values: Sequence[Tensor]) -> Iterator[None]:
    """Let the supernet compute with `values` in the place of its weights while the block lasts."""
    try:
        for places, value in zip(weights.places, values, strict=True):
            for module, name in places:
                # Written into the module's table, because setattr would refuse a tensor that is not a leaf.
                module._parameters[name] = value  # type: ignore[assignment]
        yield
    finally:
        for places, parameter in zip(weights.places, weights.parameters, strict=True):
            for module, name in places:
                module._parameters[name] = parameter


@contextmanager
def constant(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Take parameters for constants while the block lasts, so that a pass keeps nothing for their gradients."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
