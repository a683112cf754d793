"""A promise of a contract: how a broken one is reported, and what it means to leave things as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.contracts import check_of
from robustnas.runtime.strangers import described
from robustnas.threat import ThreatModel

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


class ConformanceError(AssertionError):
    """A plugin broke a promise.

    Args:
        plugin: the plugin, as its class is called.
        promise: the promise, in the words of the kit.
        found: what was found instead.
    """

    def __init__(self, plugin: str, promise: str, found: str):
        self.plugin, self.promise, self.found = plugin, promise, found
        super().__init__(f"{plugin} breaks a promise of its contract\n  promised: {promise}\n  found:    {found}")


@frozen
class Judge:
    """Holds one plugin to its promises."""

    plugin: str

    def require(self, kept: bool | Tensor, promise: str, found: str) -> None:
        """Do nothing if the promise is kept.

        Raises:
            ConformanceError: it is not.
        """
        if not kept:
            raise ConformanceError(self.plugin, promise, found)

    @contextmanager
    def promised(self, promise: str, hint: str = "", unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Require that what the plugin does inside succeeds; an exception of its own is a broken promise.

        Exceptions named in `unless` are the plugin's right, and pass through.
        """
        try:
            yield
        except Exception as fault:  # whatever a plugin raises is the finding, and is chained to it
            if isinstance(fault, (ConformanceError, *unless)):
                raise
            found = f"it raised {described(fault, whole=True)}"
            raise ConformanceError(self.plugin, promise, f"{found}; {hint}" if hint else found) from fault

    def refuses(self, promise: str, kind: type[Exception], call: Callable[[], object]) -> None:
        """Require that the call raises `kind`, and nothing else."""
        try:
            with self.promised(promise, unless=(kind,)):
                call()
        except kind:
            return
        raise ConformanceError(self.plugin, promise, "it raised nothing")

    @contextmanager
    def unchanged(self, module: nn.Module, what: str, *, buffers: bool = True) -> Iterator[None]:
        """Require that what happens inside leaves mode, parameters, gradients, `requires_grad` and hooks as they were.

        `buffers=False` lets buffers move: a plain forward pass in training mode moves batch norm's.
        """
        before = _state(module, buffers)
        yield
        after = _state(module, buffers)
        for aspect, was in before.items():
            for name in sorted({*was, *after[aspect]}):
                same = name in was and name in after[aspect] and _same(was[name], after[aspect][name])
                self.require(same, f"leaves {aspect} of {what} as they were", f"{name or 'the network'} differs")


def judge(plugin: object) -> Judge:
    """The judge of one plugin, named as its class is."""
    return Judge(plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__)


def made(plugin: Any) -> Any:
    """The plugin itself; a class is made into one with its default options.

    Raises:
        ConformanceError: a class whose options have no defaults; pass an object then.
    """
    if not isinstance(plugin, type):
        return plugin
    with judge(plugin).promised("is made with default options", "pass an object if some options have no default"):
        return plugin()


def check_suited(plugin: Any, shape: tuple[int, ...], classes: int, threat: ThreatModel, verdict: Judge) -> None:
    """Require that `check` (`robustnas.contracts.Suited`), where there is one, lets pass what the kit tries."""
    if check_of(plugin) is None:
        return
    where = f"images {tuple(shape)}, {classes} classes and {threat}"
    with verdict.promised(f"check lets pass {where}", "the kit tries it there: give it options and norms that suit"):
        found = plugin.check(tuple(shape), classes, threat)
    verdict.require(found is None, "check returns nothing, and refuses by raising OptionError", repr(found))


def _state(module: nn.Module, buffers: bool) -> dict[str, dict[str, Any]]:
    """Note all that a plugin must not move, by what it is called in a message, then by name."""
    parameters = dict(module.named_parameters())
    return {
        "the mode": {name: part.training for name, part in module.named_modules()},
        "the weights": {name: one.detach().clone() for name, one in parameters.items()},
        "the identity of the weights": {name: id(one) for name, one in parameters.items()},
        "the buffers": {name: one.clone() for name, one in module.named_buffers()} if buffers else {},
        "the gradients": {
            name: None if one.grad is None else one.grad.detach().clone() for name, one in parameters.items()
        },
        "requires_grad": {name: one.requires_grad for name, one in parameters.items()},
        "the hooks": {
            f"{name}.{kind}": list(getattr(part, kind, ())) for name, part in module.named_modules() for kind in HOOKS
        },
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
    return type(one) is type(other) and bool(one == other)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside, and put those of torch, NumPy and Python back afterwards."""
    plain, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(legacy)


def close(one: Tensor, other: Tensor, share: float = 1e-3) -> bool:
    """Whether two tensors are equal up to rounding: everywhere within `share` of the larger of their sizes."""
    if one.shape != other.shape:
        return False
    size = float(torch.maximum(one.detach().abs().max(), other.detach().abs().max()))
    return bool(((one - other).detach().abs() <= share * size + 1e-6).all())


def figures(values: Tensor) -> str:
    """The first few numbers of a tensor, for a message."""
    flat = values.detach().flatten()
    return "[" + ", ".join(f"{float(value):.4g}" for value in flat[:6]) + (", ...]" if len(flat) > 6 else "]")
