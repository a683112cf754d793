"""A promise of a contract: how a broken one is reported, and what it means to leave things as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from attrs import Factory, define, frozen
from torch import Tensor, nn

from robustnas.contracts import check_of
from robustnas.runtime.seeding import reseed
from robustnas.runtime.strangers import described
from robustnas.testing.meanings import MEANINGS, left_alone
from robustnas.threat import NORMS, ThreatModel

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


class ConformanceError(AssertionError):
    """A plugin broke promises of its contract.

    Args:
        plugin: the plugin, as its class is called.
        broken: the promises that it broke, at least one.
        tried: every promise that was looked at; what needs a broken one was not.
    """

    def __init__(self, plugin: str, broken: Sequence[Broken], tried: Sequence[str] = ()):
        self.plugin, self.broken, self.tried = plugin, tuple(broken), tuple(tried)
        count = "a promise" if len(broken) == 1 else f"{len(broken)} promises"
        super().__init__("\n".join([f"{plugin} breaks {count} of its contract", *map(str, broken)]))


@frozen
class Broken:
    """A promise that a plugin broke.

    Args:
        promise: in the words of the kit.
        found: what was found instead.
        usually: what that usually means.
        cause: what the plugin raised, if it did.
    """

    promise: str
    found: str
    usually: str
    cause: Exception | None = None

    def __str__(self) -> str:
        lines = (f"  promised: {self.promise}", f"  found:    {self.found}", f"  usually:  {self.usually}")
        return "\n".join(lines)


class _HaltError(Exception):
    """What follows needs a promise that is broken; it has been noted."""


@define
class Judge:
    """Holds one plugin to its promises, and notes those that it breaks.

    Args:
        plugin: as its class is called.
        meanings: what a break of each promise usually means; there are no others.
        tried: the promises looked at, in order.
        broken: those broken, each as it was found first.
    """

    plugin: str
    meanings: Mapping[str, str]
    tried: dict[str, None] = Factory(dict)
    broken: dict[str, Broken] = Factory(dict)

    def expect(self, kept: bool | Tensor, promise: str, found: str, cause: Exception | None = None) -> bool:
        """Note the promise, and whether it is broken; whoever calls goes on."""
        self.tried[promise] = None
        usually = self.meanings[promise]
        if not kept:
            self.broken.setdefault(promise, Broken(promise, found, usually, cause))
        return bool(kept)

    def require(self, kept: bool | Tensor, promise: str, found: str, cause: Exception | None = None) -> None:
        """As `expect`, for a promise that what follows needs: if it is broken, the block of `apart` ends here."""
        if not self.expect(kept, promise, found, cause):
            raise _HaltError from cause

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is broken inside does not keep the kit from what comes after."""
        with suppress(_HaltError):
            yield

    @contextmanager
    def promised(self, promise: str, where: str = "", unless: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Require that what the plugin does inside succeeds; an exception of its own is a broken promise.

        Exceptions named in `unless` are the plugin's right, and pass through.

        Args:
            where: what it is called with.
        """
        try:
            yield
        except Exception as fault:  # whatever a plugin raises is the finding, and is chained to it
            if isinstance(fault, (_HaltError, *unless)):
                raise
            found = f"it raised {described(fault, whole=True)}"
            self.require(False, promise, f"{found} ({where})" if where else found, fault)
        else:
            self.expect(True, promise, "")

    def refuses(self, promise: str, kind: type[Exception], call: Callable[[], object]) -> None:
        """Expect that the call raises `kind`, and nothing else."""
        with self.apart():
            try:
                with self.promised(promise, unless=(kind,)):
                    call()
            except kind:
                self.expect(True, promise, "")
                return
            self.expect(False, promise, "it raised nothing")

    @contextmanager
    def unchanged(self, module: nn.Module, what: str, *, by: str = "", buffers: bool = True) -> Iterator[None]:
        """Expect that what happens inside leaves mode, parameters, gradients, `requires_grad` and hooks as they were.

        Args:
            what: the module, in the words of the promise.
            by: the method of the plugin that promises it, where there are several.
            buffers: False lets buffers move: a plain forward pass in training mode moves batch norm's.
        """
        before = _state(module, buffers)
        yield
        after = _state(module, buffers)
        for aspect, was in before.items():
            names = sorted({*was, *after[aspect]})
            moved = [
                name
                for name in names
                if name not in was or name not in after[aspect] or not _same(was[name], after[aspect][name])
            ]
            found = f"{moved[0] or 'the network'} differs" if moved else ""
            self.expect(not moved, left_alone(aspect, what, by), found)


@contextmanager
def judged(kind: str, plugin: object) -> Iterator[Judge]:
    """Hold a plugin to its promises inside; tell all that it broke afterwards.

    Raises:
        ConformanceError: a broken promise.
    """
    verdict = judge(plugin, MEANINGS[kind])
    with verdict.apart():
        yield verdict
    if broken := list(verdict.broken.values()):
        raise ConformanceError(verdict.plugin, broken, list(verdict.tried)) from broken[0].cause


def judge(plugin: object, meanings: Mapping[str, str]) -> Judge:
    """The judge of one plugin, named as its class is."""
    return Judge(plugin.__name__ if isinstance(plugin, type) else type(plugin).__name__, meanings)


def made(plugin: Any, verdict: Judge) -> Any:
    """The plugin itself; a class is made into one with its default options."""
    if not isinstance(plugin, type):
        return plugin
    with verdict.promised("is made with default options"):
        return plugin()


def check_norms(norms: Sequence[str], verdict: Judge) -> None:
    """Require that the kit is asked for norms that there are."""
    verdict.require(bool(norms) and set(norms) <= set(NORMS), "is checked for norms that there are", f"norms={norms!r}")


def check_suited(plugin: Any, shape: tuple[int, ...], classes: int, threat: ThreatModel, verdict: Judge) -> None:
    """Require that `check` (`robustnas.contracts.Suited`), where there is one, lets pass what the kit tries."""
    if check_of(plugin) is None:
        return
    where = f"images {tuple(shape)}, {classes} classes and {threat}"
    with verdict.promised("check lets pass what the kit tries it on", where):
        found = plugin.check(tuple(shape), classes, threat)
    verdict.expect(found is None, "check returns nothing, and refuses by raising OptionError", repr(found))


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
        reseed(seed)
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
