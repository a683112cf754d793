"""The value a network's own forward runs on: the clean value of every entry, and an interval that holds it.

A `Value` is a tensor to the network, which may ask for its shape, dtype and device; to the engine it is three tensors.
Each torch function that is called on a value is looked up in a table of rules; a function without a rule is refused by
name, with the place in the network, so no operation is ever bounded by accident.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NoReturn, TypeVar

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.overrides import resolve_name

from robustnas.bounds.ball import Ball
from robustnas.bounds.carried import moved
from robustnas.bounds.propagation import Propagation
from robustnas.bounds.steps.layers import Scale
from robustnas.errors import UnsupportedOpError
from robustnas.runtime.strangers import first_line

Function = Callable[..., Any]
Handler = Callable[..., Any]

RULES: dict[Function, Handler] = {}
"""Torch function -> rule: called as rule(function, *args, **kwargs) with the arguments the network gave."""

WHY_NOT: dict[Function, tuple[str, str]] = {}
"""Functions that no rule can cover, each with the reason and with what to use instead."""

SCALED: set[Function] = set()
"""Torch functions whose rules take values with an exponent; other rules are given values with exponent 0."""

_PROPERTIES = (
    *("shape", "ndim", "dtype", "device", "is_cuda", "is_mps", "layout", "requires_grad", "itemsize"),
    *("is_nested",),
)
_METHODS = (
    *("size", "dim", "numel", "nelement", "ndimension", "stride", "is_contiguous", "is_floating_point"),
    *("is_complex", "element_size", "get_device", "__len__"),
    *("new_tensor", "new_zeros", "new_ones", "new_full", "new_empty"),
)
METADATA: set[Function] = {
    *(getattr(torch.Tensor, name).__get__ for name in _PROPERTIES),
    *(getattr(torch.Tensor, name) for name in _METHODS),
    *(torch.numel, torch.is_floating_point, torch.is_complex),
}
"""Functions that ask for a tensor's shape or kind and not for its entries: the clean value answers them."""

ADVICE = (
    "replace the operation, or add a rule (linear_rule, activation_rule or rule of robustnas.bounds; "
    "docs/bounds.md shows how)"
)


@frozen(eq=False)
class Features:
    """The input, weight and bias of a linear layer, so that a function of its output can be folded into the layer."""

    value: Value
    weight: Tensor
    bias: Tensor | None


@frozen(eq=False)
class Softmaxed:
    """The input of a softmax over the classes, or of its logarithm, so that margins can be taken in front of it."""

    value: Value
    logarithm: bool


class Memory:
    """Stands for the storage of a plain tensor, and lists the values that would share it as views."""

    def __init__(self) -> None:
        self._sharers: list[weakref.ref[Value]] = []

    def add(self, value: Value) -> None:
        """Note that `value` is a view of this storage."""
        self._sharers = [sharer for sharer in self._sharers if sharer() is not None]
        self._sharers.append(weakref.ref(value))
        value.memory = self

    def shared(self) -> bool:
        """Whether more than one living value uses this storage."""
        return sum(sharer() is not None for sharer in self._sharers) > 1


T = TypeVar("T")


class OfStreams(Generic[T]):
    """An attribute that describes a value's streams; it reads as None once a rule has exchanged the streams."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.slot = f"_{name}"

    def __set__(self, value: Value, item: T | None) -> None:
        value.__dict__[self.slot] = item, value.centre

    def __get__(self, value: Value, owner: type | None = None) -> T | None:
        item, centre = value.__dict__[self.slot]
        return item if centre is value.centre else None


def midpoint(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and radius of intervals, from their ends."""
    return (lower + upper) / 2, (upper - lower) / 2


class Value(torch.Tensor):
    """One tensor of the network, for every image of the region at once.  First dimension: images.

    Attributes:
        propagation: the pass that the value belongs to.
        clean: (N, ...) value at the clean images; None where the method does not need it.
        centre, radius: (N, ...) interval centre - radius <= x <= centre + radius, entry by entry.
        ball: not None while the value is still an unmixed l_2 or l_1 ball of images (`ball.py`): the first layer that
            mixes pixels then takes its interval from the ball as well as from the box.  A new value has none; only
            functions of this package that know which pixel stands where pass one on.
        features: set on the output of a linear layer.
        softmaxed: set on the output of a softmax.
        rectified: what ReLU made of the value, for the next one that is called on it.
        exponent: (N,) centre and radius hold the value divided by 2**exponent (`scale.py`), the clean value is whole;
            None is 0.
        tightened: whether the interval already comes from a backward pass (method `crown`).
        bounded: (N, ...) bool, the entries of which that is true, where others of them may still be bounded.
        memory: stands for the storage that an in-place function would write into.
    """

    propagation: Propagation
    clean: Tensor | None
    centre: Tensor
    radius: Tensor
    ball = OfStreams[Ball]()
    features = OfStreams[Features]()
    softmaxed = OfStreams[Softmaxed]()
    rectified: OfStreams[Value] = OfStreams()
    exponent: Tensor | None
    bounded = OfStreams[Tensor]()
    tightened: bool
    memory: Memory

    @staticmethod
    def __new__(
        cls,
        propagation: Propagation,
        clean: Tensor | None,
        centre: Tensor,
        radius: Tensor,
        exponent: Tensor | None = None,
    ) -> Value:
        value: Value = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, centre.shape, strides=centre.stride(), dtype=centre.dtype, device=centre.device
        )
        value.propagation, value.clean, value.centre, value.radius = propagation, clean, centre, radius
        value.ball, value.features, value.softmaxed, value.bounded, value.rectified = None, None, None, None, None
        value.exponent, value.tightened = exponent, False
        Memory().add(value)
        propagation.widest = max(propagation.widest, centre.numel() // max(propagation.images, 1))
        return value

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: torch wants wrappers to set everything in `__new__`."""

    @property
    def lower(self) -> Tensor:
        """The interval's lower end (N, ...); whether it has a graph is up to the caller (`Propagation.intervals`)."""
        return self.centre - self.radius

    @property
    def upper(self) -> Tensor:
        """The interval's upper end (N, ...), with or without a graph as `lower` is."""
        return self.centre + self.radius

    def like(self, clean: Tensor | None, centre: Tensor, radius: Tensor) -> Value:
        """Make a value of other streams that belongs to this value's pass and has its exponent."""
        return Value(self.propagation, clean, centre, radius, exponent=self.exponent)

    def copy(self) -> Value:
        """Keep the present streams: the network may later write into the value, and the pass may tighten it."""
        kept = self.like(self.clean, self.centre, self.radius)
        kept.features, kept.ball, kept.tightened = self.features, self.ball, self.tightened
        return kept

    def unscaled(self) -> Value:
        """Multiply the exponent into the interval, which may overflow."""
        if self.exponent is None:
            return self
        factor = torch.exp2(self.exponent).view(-1, *[1] * (self.centre.dim() - 1))
        clean = self.clean
        if clean is not None and self.propagation.backward:
            clean = moved(self.propagation.mode, clean, factor)
        with self.propagation.intervals():
            value = Value(self.propagation, clean, self.centre * factor, self.radius * factor)
        if clean is not None and self.clean is not None:
            made, of = clean, self.clean
            self.propagation.note(made, (of,), lambda: Scale(lambda x: x * factor, of))
        value.tightened = self.tightened
        return value

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Value({tuple(self.centre.shape)}, {self.centre.dtype})"

    @classmethod
    def __torch_function__(
        cls,
        func: Function,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(getattr(kind, "precedes_values", False) for kind in types):
            return NotImplemented
        kwargs = dict(kwargs or {})
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        # nearly always the first argument; the network's forward is thousands of these calls
        leads = bool(args) and isinstance(args[0], Value)
        first: Value = args[0] if leads else next(values_in((args, tuple(kwargs.values()))))
        if func in METADATA:
            asked = first.centre if first.clean is None else first.clean
            return func(asked, *args[1:], **kwargs)
        rule = RULES.get(func)
        if rule is None:
            refuse(func, first, *WHY_NOT.get(func, ("no bound rule covers this function", ADVICE)))
        if kwargs.pop("out", None) is not None:
            refuse(func, first, "out= is not supported on bounded values")
        if first.propagation.backward and not torch.is_grad_enabled():
            refuse(func, first, "the network switches gradients off here, and linear bounds are made of gradients")
        target = args[0] if args else None
        if func not in SCALED:
            args, kwargs = _unscaled(args), {name: _unscaled(value) for name, value in kwargs.items()}
        try:
            result = rule(func, *args, **kwargs)
        except TypeError as fault:
            if not _takes(rule, func, args, kwargs):
                options = sorted(kwargs)
                refuse(func, first, f"its rule knows no call with {len(args)} arguments and options {options}")
            _fails(func, first, fault)
        except (RuntimeError, AttributeError, ValueError, IndexError) as fault:
            if isinstance(fault, torch.OutOfMemoryError):
                raise
            _fails(func, first, fault)
        for value in values_in((result,)):
            _check_kind(func, value, first)
        return _write(func, target, result) if _writes(func, kwargs) else result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Refuse what is reached only where a function slipped past the table (compiled code, a disabled torch
        function)."""
        first = next(values_in((args, tuple((kwargs or {}).values()))))
        refuse(func, first, "this call does not go through torch functions (compiled or scripted code)")


def _check_kind(function: Function, result: Value, argument: Value) -> None:
    """Refuse a result whose images or number format are not those of the pass."""
    region = argument.propagation.region
    images = len(region.images)
    if result.centre.dim() < 1 or result.centre.shape[0] != images:
        shape = tuple(result.centre.shape)
        refuse(function, argument, f"result of shape {shape}: dimension 0 must stay the {images} images")
    if result.centre.dtype != region.images.dtype:
        formats = f"{result.centre.dtype} of {region.images.dtype}"
        reason = f"gives {formats}: bounds in another number format would be bounds of another network"
        refuse(function, argument, reason, "take autocast and changes of the format out of the forward pass")


def values_in(items: Iterable[Any]) -> Iterator[Value]:
    """Yield every Value in nested tuples and lists, first to last."""
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, (tuple, list)):
            yield from values_in(item)


def _unscaled(item: Any) -> Any:
    """Unscale every Value in an argument of a function."""
    if isinstance(item, Value):
        return item.unscaled()
    if isinstance(item, (tuple, list)) and any(True for _ in values_in(item)):
        return type(item)(_unscaled(part) for part in item)
    return item


def function_name(function: Function) -> str:
    """Write a function as the user would: `torch.nn.functional.gelu`."""
    name: str = resolve_name(function) or getattr(function, "__name__", repr(function))
    return name


def refuse(function: Function | str, value: Value, reason: str, advice: str = ADVICE) -> NoReturn:
    """Raise UnsupportedOpError, which names the function and its place in the network, and says why and what to do."""
    name = function if isinstance(function, str) else function_name(function)
    raise UnsupportedOpError(f"{name} in {_place(value.propagation.network)}: {reason}; {advice}")


def _fails(function: Function, value: Value, fault: Exception) -> NoReturn:
    """Refuse a call that its rule cannot bound: shapes do not fit, or the rule was not made for such arguments."""
    name, shape = function_name(function), tuple(value.centre.shape)
    raise UnsupportedOpError(
        f"{name} in {_place(value.propagation.network)}: its rule fails for these arguments, the bounded one of shape "
        f"{shape} and {value.centre.dtype}: {first_line(fault)}; {ADVICE}"
    ) from fault


def _place(network: Any) -> str:
    """Find the path of the innermost running module on the call stack, so that the network needs no hooks."""
    if not isinstance(network, nn.Module):
        return "the network"
    paths = {id(module): path for path, module in network.named_modules()}
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and id(module) in paths:
            path = paths[id(module)]
            return f"{path} ({type(module).__name__})" if path else f"the network itself ({type(module).__name__})"
        frame = frame.f_back  # type: ignore[assignment]
    return "the network"


def _takes(rule: Handler, *call: Any) -> bool:
    """Whether the call fits the rule's signature."""
    function, args, kwargs = call
    try:
        inspect.signature(rule).bind(function, *args, **kwargs)
    except TypeError:
        return False
    return True


def _writes(function: Function, kwargs: Mapping[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or (name.startswith("__i") and name.endswith("__")) or bool(kwargs.get("inplace"))


def _write(function: Function, target: Any, result: Value) -> Value:
    """Give `target` the result's streams, as the plain function would write into its memory."""
    if not isinstance(target, Value):
        reason, advice = "writes a bounded value into a plain tensor", "write `a = a + b` instead of `a += b`"
        refuse(function, result, reason, advice)
    advice = "use the form that is not in place"
    if target.memory.shared():
        refuse(function, target, "writes in place into memory that a view shares", advice)
    if target.centre.shape != result.centre.shape:
        refuse(function, target, "an in-place result of another shape", advice)
    if result is not target:
        target.clean, target.centre, target.radius = result.clean, result.centre, result.radius
        target.ball, target.features, target.tightened = result.ball, result.features, result.tightened
        target.softmaxed, target.exponent = result.softmaxed, result.exponent
    return target
