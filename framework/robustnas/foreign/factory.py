"""A network by the name of what makes it: `module:name`, with the working directory among the places of modules."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.errors import InputError, UnsupportedOpError
from robustnas.foreign.messages import ELSEWHERE, kind, theirs
from robustnas.nn.wrappers import unwrapped
from robustnas.runtime.seeding import seeded
from robustnas.runtime.suggest import did_you_mean


@contextmanager
def working_directory() -> Iterator[None]:
    """Inside, modules of the working directory can be imported, as `python -m` has it."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def resolved(factory: str) -> tuple[ModuleType, Any]:
    """Import the module of `module:name`; return it and what has that name in it.

    Raises:
        InputError: it is not written so, there is no such module or name, or the module raises.
    """
    name, colon, path = factory.partition(":")
    if not colon or not all(part.isidentifier() for part in (*name.split("."), *path.split("."))):
        raise InputError(
            f"--network {factory!r} is not module:name; nets.resnet:make_network would do, for a function "
            "make_network of nets/resnet.py (no folders, no .py, no brackets)"
        )

    def imported() -> ModuleType:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as fault:
            if fault.name is None or not f"{name}.".startswith(f"{fault.name}."):
                raise  # a module that this one imports
            near = did_you_mean(name, (file.stem for file in Path.cwd().glob("*.py")))
            raise InputError(
                f"--network {factory}: no module is called {fault.name}, neither in {Path.cwd()} nor installed{near}"
            ) from fault

    # some modules make their network as they are imported
    with seeded(0, "network", name):
        module = theirs(imported, f"--network {factory}: the import of {name}")
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            known = [one for one in vars(found) if not one.startswith("_")] if hasattr(found, "__dict__") else []
            raise InputError(
                f"--network {factory}: {name} ({getattr(module, '__file__', 'built in')}) has no {path}"
                f"{did_you_mean(part, known)}"
            )
        found = getattr(found, part)
    return module, found


def made_by(factory: str) -> nn.Module:
    """Make a network of its own, float32, on the CPU.

    Raises:
        InputError: the factory needs arguments, raises, or makes something else.
    """
    _, made = resolved(factory)
    if isinstance(made, nn.Module):
        # whoever loads it a second time, with other weights, does not change the first
        found = theirs(lambda: copy.deepcopy(made), f"--network {factory}: a copy of the network")
    elif not callable(made):
        raise InputError(f"--network {factory} is {kind(made)}; {_would_do(made)}")
    else:
        needed = _needed(made)
        if needed:
            raise InputError(
                f"--network {factory} needs {', '.join(needed)}, and is called without arguments; a function that "
                f"returns {factory.partition(':')[2]}({', '.join(f'{one}=...' for one in needed)}) would do"
            )
        try:
            with seeded(0, "network", factory):
                found = theirs(made, f"--network {factory}: the factory")
        except InputError as fault:
            if not re.search(ELSEWHERE, str(fault)):
                raise
            advice = "networks are made on the CPU and moved as a whole; a factory without .cuda() would do"
            raise InputError(f"{fault}\n  {advice}") from fault.__cause__
    if not isinstance(found, nn.Module):
        raise InputError(f"--network {factory} makes {kind(found)}; {_would_do(found)}")
    # wrappers split batches over devices, or compile anew for every size of a batch
    try:
        network = unwrapped(found)
    except UnsupportedOpError as fault:
        raise InputError(f"--network {factory}: {fault}") from fault
    theirs(network.cpu, f"--network {factory}: the move to the CPU")
    for what, tensors in (("parameter", network.named_parameters()), ("buffer", network.named_buffers())):
        for name, tensor in tensors:
            if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
                raise InputError(
                    f"--network {factory}: {what} {name} is {tensor.dtype}; networks are evaluated in float32, so a "
                    "factory that returns network.float() would do"
                )
    return network


def _would_do(found: Any) -> str:
    """Say what would do in place of something that is no network."""
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return "a factory that calls it, for an nn.Module, would do"
    if isinstance(found, Mapping) and any(isinstance(one, Tensor) for one in found.values()):
        return "weights are given as a file by --weights, and a factory makes the nn.Module they belong to"
    if isinstance(found, list | tuple) and any(isinstance(one, nn.Module) for one in found):
        at = next(at for at, one in enumerate(found) if isinstance(one, nn.Module))
        return f"a factory that returns its entry {at} alone, an nn.Module, would do"
    if inspect.isroutine(found):
        return "a factory that calls it, if that makes an nn.Module, or a module whose forward does, would do"
    return "a function or class without arguments that makes an nn.Module, or an nn.Module, would do"


def _needed(made: Callable[..., Any]) -> list[str]:
    """Name the arguments without which something cannot be called."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except (ValueError, TypeError):  # of some that are written in C nothing is known before the call
        return []
    gathering = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in gathering]
