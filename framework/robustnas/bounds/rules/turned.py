"""Values whose first dimension is for a while not that of the images, as in sequence-first attention: (T, N, E).

A `Turned` is such a view of a value.  It may go through a short list of functions: arithmetic and activations entry by
entry, layers over the last dimension, attention, sums over and selections from other dimensions, and being turned back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules import activations
from robustnas.bounds.rules.shape import DROPOUTS, join, move
from robustnas.bounds.value import METADATA, Function, Value, refuse, values_in
from robustnas.runtime.strangers import first_line

TURNS = (
    vars(torch._C.TensorBase)["T"].__get__,
    *spellings("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t"),
)
ENTRYWISE = spellings(
    *("add", "sub", "mul", "div", "true_divide", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__"),
    *("__truediv__", "neg", "__neg__", "relu", "leaky_relu", "gelu", "clamp", "elu", "abs", "clone", "contiguous"),
    *("to", "float", "type_as", *DROPOUTS, *activations.WITHOUT_ARGUMENTS),
)
LAST = (F.linear, F.layer_norm, F.rms_norm, *spellings("layer_norm", "rms_norm"))
REDUCTIONS = spellings("mean", "sum", "amax", "amin", "select")
JOINS = (torch.cat, torch.concat, torch.concatenate)


class Turned(torch.Tensor):
    """A value seen with its images at another dimension than the first.

    Args:
        held: (N, ...) the value.
        at: the dimension of the images, at least 1; the other dimensions are in the order of `held`.
    """

    held: Value
    at: int  # type: ignore[assignment]
    precedes_values = True

    @staticmethod
    def __new__(cls, inner: Value, at: int) -> Turned:
        shape = inner.centre.movedim(0, at).shape
        turned: Turned = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, shape, dtype=inner.centre.dtype, device=inner.centre.device
        )
        turned.held, turned.at = inner, at
        return turned

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: torch wants wrappers to set everything in `__new__`."""

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Turned({self.held!r}, {self.at})"

    @classmethod
    def __torch_function__(cls, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = next(each for each in _flat((*args, *kwargs.values())) if isinstance(each, Turned))
        if func in METADATA:
            return func(first.held.centre.movedim(0, first.at), *args[1:], **kwargs)
        try:
            return HANDLED[func](first, func, *args, **kwargs) if func in HANDLED else first.refused(func)
        except (RuntimeError, TypeError, IndexError) as fault:
            reason = f"images are dimension {first.at} of {tuple(first.shape)} here: {first_line(fault)}"
            refuse(func, first.held, reason, "keep the images the first dimension (batch_first=True)")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Refuse what is reached only where a function slipped past the table."""
        return next(each for each in _flat((*args, *(kwargs or {}).values())) if isinstance(each, Turned)).refused(func)

    def refused(self, function: Function) -> Any:
        """Refuse a function that has no rule for turned values."""
        reason = f"the images are dimension {self.at} here, where few functions have a rule"
        refuse(function, self.held, reason, "keep the images the first dimension (batch_first=True)")

    def inside(self, dim: int) -> int:
        """Find the dimension of `held` that a dimension of this view is."""
        dim = dim % self.dim()
        return 0 if dim == self.at else dim + (dim < self.at)


def turned(inner: Value, at: int) -> Any:
    """View a value with its images at a dimension; at 0 it is the value itself."""
    return inner if at == 0 else Turned(inner, at)


def images_first(tensor: Any, at: int) -> Any:
    """Turn a value, or a constant that is combined with one, so that its images come first."""
    if isinstance(tensor, Turned) and tensor.at == at:
        return tensor.held
    if isinstance(tensor, Turned | Value):
        value = tensor.held if isinstance(tensor, Turned) else tensor
        refuse("attention or cat", value, "images stand at unequal dimensions", "bring them to one dimension")
    return tensor.movedim(at, 0)


def _flat(items: Any) -> Any:
    for item in items:
        if isinstance(item, tuple | list):
            yield from _flat(item)
        else:
            yield item


def _order(function: Function, dimensions: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """List, for each dimension of the result, which dimension of the argument it is."""
    with torch.no_grad():
        sizes = function(torch.empty(*range(2, dimensions + 2), device="meta"), *args, **kwargs).shape
    return [size - 2 for size in sizes]


@rule(*TURNS, scaled=True)
def turn(function: Function, value: Value, *args: Any, **kwargs: Any) -> Any:
    """Put the dimensions in another order; the images may leave the first place."""
    order = _order(function, value.centre.dim(), args, kwargs)
    return move(function, value, *args, **kwargs) if order[0] == 0 else _in_order(value, order)


def _in_order(value: Value, order: list[int]) -> Any:
    others = [index for index in order if index != 0]
    return turned(move(torch.permute, value, (0, *others)), order.index(0))


@rule(torch.stack, scaled=True)
def stack(function: Function, tensors: Any, dim: int = 0) -> Any:
    """Stack along a new dimension; where that comes first, the images become the second."""
    first = next(values_in(tensors))
    return join(function, tensors, dim) if dim % (first.centre.dim() + 1) else turned(join(function, tensors, 1), 1)


def _turn_again(first: Turned, function: Function, value: Turned, *args: Any, **kwargs: Any) -> Any:
    return _in_order(value.held, [value.inside(index) for index in _order(function, value.dim(), args, kwargs)])


def _entrywise(first: Turned, function: Function, *args: Any, **kwargs: Any) -> Any:
    def own(item: Any) -> Any:
        if isinstance(item, Turned):
            return item.held if item.at == first.at and item.dim() == first.dim() else item.refused(function)
        if not isinstance(item, Tensor) or item.dim() == 0:
            return item
        if item.dim() > first.dim() or isinstance(item, Value):
            return first.refused(function)
        return item.reshape(*[1] * (first.dim() - item.dim()), *item.shape).movedim(first.at, 0)

    return Turned(function(*map(own, args), **{name: own(item) for name, item in kwargs.items()}), first.at)


def _last(first: Turned, function: Function, value: Any, *args: Any, **kwargs: Any) -> Any:
    shape = kwargs.get("normalized_shape", args[0] if args else ())
    count = 1 if function is F.linear else len(shape)
    if not isinstance(value, Turned) or first.at >= first.dim() - count:
        return first.refused(function)
    return Turned(function(value.held, *args, **kwargs), first.at)


def _reduced(first: Turned, function: Function, value: Turned, dim: Any = None, *rest: Any, **kwargs: Any) -> Any:
    kept = kwargs.get("keepdim", rest[0] if rest and function.__name__ != "select" else False)
    if not isinstance(dim, int) or dim % value.dim() == value.at:
        return first.refused(function)
    inner = function(value.held, value.inside(dim), *rest, **kwargs)
    return turned(inner, value.at - (not kept and dim % value.dim() < value.at))


def _indexed(first: Turned, function: Function, value: Turned, index: Any) -> Any:
    if not isinstance(index, int):
        return first.refused(function)
    return _reduced(first, torch.select, value, 0, index)


def _unbound(first: Turned, function: Function, value: Turned, dim: int = 0) -> Any:
    return tuple(_reduced(first, torch.select, value, dim, index) for index in range(value.shape[dim]))


def _joined(first: Turned, function: Function, tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    if kwargs or dim % first.dim() == first.at:
        return first.refused(function)
    parts = [images_first(tensor, first.at) for tensor in tensors]
    return Turned(function(parts, first.inside(dim)), first.at)


FAMILIES: tuple[tuple[tuple[Any, ...], Callable[..., Any]], ...] = (
    (TURNS, _turn_again),
    (ENTRYWISE, _entrywise),
    (LAST, _last),
    (REDUCTIONS, _reduced),
    (JOINS, _joined),
    (spellings("unbind"), _unbound),
    ((torch.Tensor.__getitem__,), _indexed),
)
HANDLED: dict[Function, Callable[..., Any]] = {
    function: handler for functions, handler in FAMILIES for function in functions
}
"""Torch function -> handler(first turned argument, function, *args, **kwargs)."""
