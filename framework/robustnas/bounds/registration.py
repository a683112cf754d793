"""How a bound rule is added: for a linear function, for an activation, or for anything else.

    @linear_rule(torch.nn.functional.conv_transpose2d)
    def magnitude(radius, weight, bias=None, *args, **kwargs):
        return F.conv_transpose2d(radius, weight.abs(), None, *args, **kwargs)

    @activation_rule(torch.nn.functional.softplus)
    def softplus_lines(lower, upper, function):
        return Lines(lower_slope, lower_offset, upper_slope, upper_offset)

`rule` is the general form.  A second rule for a function replaces the first.  Rules for functions that are not torch's
can be added after `boundable` has wrapped them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch.overrides import handle_torch_function

from robustnas.bounds.passes import Matters
from robustnas.bounds.refusals import only_first
from robustnas.bounds.streams import Span, enclose, propagate
from robustnas.bounds.value import RULES, SCALED, Function, Value, values_in
from robustnas.errors import InputError

H = TypeVar("H", bound=Callable[..., Any])

HOMES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.functional)


def spellings(*names: str) -> tuple[Function, ...]:
    """List every torch function of these names: `torch.relu`, `torch.Tensor.relu`, `torch.nn.functional.relu`, ..."""
    functions = {getattr(home, name) for home in HOMES for name in names if callable(getattr(home, name, None))}
    if not functions:
        raise InputError(f"torch has no function called {' or '.join(names)}")
    return tuple(functions)


def rule(*functions: Function, scaled: bool = False) -> Callable[[H], H]:
    """Register a rule for torch functions, in the general form.

    The decorated function is called as `handler(function, *args, **kwargs)` with the arguments of the
    network, some of them Values, and returns a Value (or a tuple of them) whose `centre` and `radius`
    enclose every value that the function takes on the region, and whose `clean` is the value at the clean
    images, relaxed by `relaxation.relax` where the function is not linear.  Images must not mix.

    Args:
        scaled: the rule can be given values with an exponent (`scale.py`), and passes it on.
    """

    def register(handler: H) -> H:
        for function in functions:
            RULES[function] = handler
            (SCALED.add if scaled else SCALED.discard)(function)
        return handler

    return register


def linear_rule(*functions: Function) -> Callable[[H], H]:
    """Register functions that are affine in their first argument and leave the first dimension alone.

    The decorated function says how a radius passes: `magnitude(radius, *rest, **kwargs)` applies the absolute values
    of the coefficients, without the constant.  A backward rule is not needed: autograd transposes the function.
    """

    def register(magnitude: H) -> H:
        def handler(function: Function, value: Value, *rest: Any, **kwargs: Any) -> Value:
            only_first(function, value, rest, kwargs)
            return propagate(value, lambda x: function(x, *rest, **kwargs), lambda r: magnitude(r, *rest, **kwargs))

        rule(*functions)(handler)
        return magnitude

    return register


def activation_rule(
    *functions: Function,
    matters: Matters | None = None,
    span: Span | None = None,
) -> Callable[[H], H]:
    """Register functions of one entry, nondecreasing ones if no `span` is given.

    The decorated function is called as `lines(lower, upper, function)`, where `function` has the network's
    other arguments filled in, and returns Lines that enclose it on [lower, upper]; lower may equal upper.

    Args:
        matters: (lower, upper) -> bool tensor, where a tighter interval would give tighter lines (everywhere,
            if not given); spares method `crown` work.
        span: (lower, upper, function) -> least and largest value on [lower, upper]; the values at the ends, if
            not given.
    """

    def register(lines: H) -> H:
        def handler(function: Function, value: Value, *rest: Any, **kwargs: Any) -> Value:
            only_first(function, value, rest, kwargs)
            kwargs.pop("inplace", None)
            pure = _not_in_place(function)
            return enclose(value, lambda x: pure(x, *rest, **kwargs), lines, matters, span)

        rule(*functions)(handler)
        return lines

    return register


def boundable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a Python function or a torch.autograd.Function so that bound rules can be registered for it.

    ::

        @boundable
        def soft_sign(x):
            return x / (1 + x.abs())

    Called with a bounded value, the wrapped function looks up its rule as a torch function does, and is refused by name
    where there is none; called with tensors, it does what it did.  Register rules for the wrapped function.  Under a
    linear rule, the backward pass of an autograd.Function must be its true transpose.
    """
    call = function.apply if isinstance(function, type) and issubclass(function, torch.autograd.Function) else function

    @wraps(function, updated=())
    def dispatching(*args: Any, **kwargs: Any) -> Any:
        values = tuple(values_in((*args, *kwargs.values())))
        if values:
            return handle_torch_function(dispatching, values, *args, **kwargs)
        return call(*args, **kwargs)

    return dispatching


def _not_in_place(function: Function) -> Function:
    """Find `relu` for `relu_`: the streams are shared with other values and must not be written into."""
    name = function.__name__
    if not name.endswith("_"):
        return function
    pure: Function = next(getattr(home, name[:-1]) for home in HOMES if callable(getattr(home, name[:-1], None)))
    return pure
