"""Cells that are computed again in the backward pass, so that what is inside them need not be kept (activation
checkpointing).

    recompute(supernet, "search.recompute_cells")      # once, after building: every cell of `supernet.cells`

Between the two passes only a cell's inputs live; in exchange each backward pass computes the cell once more.  Outputs,
gradients and running statistics are those of a network without it, because the second computation sees what the first
one saw: the same parameters, buffers, mode and attributes, even if others have taken their places since (a search
exchanges weights by reference), the same random draws and the same autocast.  What it changes in the modules is
thrown away, so running statistics move once.  Backward passes of backward passes (Jacobians, exact hypergradients)
compute the cell again each time they need it.

Cells are computed without this where nothing is gained or nothing can be: without gradients, on tensors of a subclass
(the values of `robustnas.bounds`), and inside `torch.func` transforms.

Source: Chen et al. 2016, arXiv:1604.06174, in the form of `torch.utils.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from robustnas.errors import InputError, RunError


def recompute(network: nn.Module, key: str) -> None:
    """From now on the cells of a network are computed again in the backward pass.

    The network's tensors, their names and the classes that `isinstance` sees stay.  Doing it twice changes nothing.

    Args:
        network: a supernet or a discrete network as its space built it, with a `cells` list.
        key: of the recipe, for the message.

    Raises:
        InputError: the network has no `cells`, or none in it.
    """
    for cell in cells_of(network, key):
        cls = type(cell)
        if not issubclass(cls, RecomputedCell):
            cell.__class__ = type(f"Recomputed{cls.__name__}", (RecomputedCell, cls), {})


def cells_of(network: nn.Module, key: str) -> nn.ModuleList:
    """The cells that can be computed again.

    Raises:
        InputError: the network has no `cells`, or none in it.
    """
    cells = getattr(network, "cells", None)
    if not isinstance(cells, nn.ModuleList) or not len(cells):
        raise InputError(
            f"{key}: {type(network).__name__} has no cells to compute again: its attribute `cells` must be an "
            f"nn.ModuleList of them; {key}: false would do"
        )
    return cells


class RecomputedCell(nn.Module):
    """What stands in front of a cell's own class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own = super().forward
        if not _worth_it((args, kwargs)):
            return own(*args, **kwargs)
        seen = _Seen(self)
        return checkpoint(
            partial(own, **_held(kwargs)),
            *_held(args),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), seen),
        )


class _Seen:
    """What the modules of a cell were like when it was computed: inside this context they are so again.

    It may be entered more than once, as a graph may be walked backward more than once.
    """

    def __init__(self, cell: nn.Module):
        self.modules: list[tuple[nn.Module, dict[str, Any]]] = []
        self.wanted: list[tuple[dict[str, Any], str, Tensor, bool]] = []
        self.versions: list[tuple[str, Tensor, int]] = []
        self.functions = _modes()
        self.now: list[dict[str, Any]] = []
        self.functions_now: list[TorchFunctionMode] = []
        for name, module in cell.named_modules():
            # The attributes too: momentum and mode are some, and a plugin may have others that matter.
            attributes = dict(module.__dict__)
            attributes["_parameters"] = parameters = dict(module._parameters)
            attributes["_buffers"] = buffers = dict(module._buffers)
            self.modules.append((module, attributes))
            kept = parameters.items() if module.training else (*parameters.items(), *buffers.items())
            for key, tensor in kept:
                if tensor is not None:
                    self.versions.append((f"{name}.{key}", tensor, tensor._version))
            self.wanted += [
                (parameters, key, tensor, tensor.requires_grad)
                for key, tensor in parameters.items()
                if tensor is not None
            ]
            if module.training and buffers and not _noted_only(module):
                # The pass that now begins may write to them, and they may matter to it.
                attributes["_buffers"] = _copies(buffers)

    def __enter__(self) -> None:
        """The modules as they were.

        Raises:
            RunError: a tensor that the pass computed with has been written to since.
        """
        for name, tensor, version in self.versions:
            if tensor._version != version:
                raise RunError(
                    f"{name} of a cell was changed in place between a forward pass and its backward pass, which would "
                    "now compute the cell with other values; recompute_cells: false would say where"
                )
        for parameters, key, tensor, wanted in self.wanted:
            # Autograd must save now what it saved then, also where a parameter has been frozen or thawed since.
            parameters[key] = tensor if tensor.requires_grad == wanted else tensor.detach().requires_grad_(wanted)
        self.now = [module.__dict__ for module, _ in self.modules]
        for module, attributes in self.modules:
            then = dict(attributes)  # a copy: there may be a third time
            if then["training"]:
                buffers = attributes["_buffers"]
                then["_buffers"] = _scratch(buffers) if _noted_only(module) else _copies(buffers)
            object.__setattr__(module, "__dict__", then)
        self.functions_now = _modes(self.functions)

    def __exit__(self, *fault: object) -> None:
        """The modules as they are now, whatever has happened to them inside."""
        _modes(self.functions_now)
        for (module, _), attributes in zip(self.modules, self.now, strict=True):
            object.__setattr__(module, "__dict__", attributes)
        self.now, self.functions_now = [], []


def _modes(instead: Sequence[TorchFunctionMode] | None = None) -> list[TorchFunctionMode]:
    """The modes that torch functions are called in, from the outermost; with `instead`, these take their place."""
    found: list[TorchFunctionMode] = overrides._get_current_function_mode_stack()
    if instead is not None:
        for _ in found:
            overrides._pop_mode()
        for mode in instead:
            overrides._push_mode(mode)
    return found


def _noted_only(module: nn.Module) -> bool:
    """Whether a training pass writes to the buffers and does not compute with them."""
    return isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward


def _scratch(buffers: dict[str, Any]) -> dict[str, Any]:
    """Room for batch norm to note in what nobody will read; it counts nothing."""
    return {
        key: torch.empty_like(buffer) if buffer is not None and buffer.is_floating_point() else None
        for key, buffer in buffers.items()
    }


def _copies(buffers: dict[str, Any]) -> dict[str, Any]:
    return {key: None if buffer is None else buffer.detach().clone() for key, buffer in buffers.items()}


def _worth_it(inputs: Any) -> bool:
    """Whether something would be kept for a backward pass, and can be computed again."""
    # `torch.func` transforms switch the hooks off that recomputation is made of.
    hooks: bool = torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]
    return torch.is_grad_enabled() and hooks and all(type(tensor) in (Tensor, nn.Parameter) for tensor in _all(inputs))


def _all(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _all(part)


def _held(value: Any) -> Any:
    """The same with lists and dicts of its own: a network may go on appending to the list that it hands to a cell."""
    if isinstance(value, dict):
        return {key: _held(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_held(part) for part in value)
    return value
