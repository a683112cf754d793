"""How a bound rule is added: for a linear function, for an activation, or for anything else.

    @linear_rule(torch.nn.functional.conv_transpose2d)
    def magnitude(radius, weight, bias=None, *args, **kwargs):
        return F.conv_transpose2d(radius, weight.abs(), None, *args, **kwargs)

    @activation_rule(torch.nn.functional.softplus)
    def softplus_lines(lower, upper, function):
        return Lines(lower_slope, lower_offset, upper_slope, upper_offset)

`rule` is the general form.  A rule added twice replaces the first one.  `boundable` makes a function that is not
torch's one that rules can be added for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar

import torch
from attrs import frozen
from torch import Tensor
from torch.overrides import handle_torch_function

from robustnas.bounds.relaxation import relax_entrywise
from robustnas.bounds.scale import portion
from robustnas.bounds.value import RULES, SCALED, Function, Handler, Value, refuse, values_in
from robustnas.errors import InputError

H = TypeVar("H", bound=Callable[..., Any])


@frozen(eq=False)
class Lines:
    """Two lines that enclose an activation on [lower, upper], entry by entry: slope * x + offset, (N, ...)
    each."""

    lower_slope: Tensor
    lower_offset: Tensor | None
    upper_slope: Tensor
    upper_offset: Tensor | None


Span = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]
"""(lower, upper, function) -> the least and the largest value of the function on [lower, upper]."""

HOMES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.functional)


def spellings(*names: str) -> tuple[Function, ...]:
    """Every torch function of these names: `torch.relu`, `torch.Tensor.relu`, `torch.nn.functional.relu`,
    ..."""
    found = {getattr(home, name) for home in HOMES for name in names if callable(getattr(home, name, None))}
    if not found:
        raise InputError(f"torch has no function called {' or '.join(names)}")
    return tuple(found)


def rule(*functions: Function, scaled: bool = False) -> Callable[[H], H]:
    """Register a rule for torch functions, in the general form.

    The decorated function is called as `handler(function, *args, **kwargs)` with the arguments of the
    network, some of them Values, and returns a Value (or a tuple of them) whose `centre` and `radius`
    enclose every value that the function takes on the region, and whose `plain` is the value at the clean
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
    matters: Callable[[Tensor, Tensor], Tensor] | None = None,
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
    """Make an operation one that rules can be registered for: a Python function or a torch.autograd.Function.

    ::

        @boundable
        def soft_sign(x):
            return x / (1 + x.abs())

    Called with a bounded value it then asks for its rule, as a torch function does, and is refused by name where there
    is none; otherwise nothing changes.  Rules are registered for what this returns.  A linear rule needs the backward
    pass of an autograd.Function to be its true transpose.
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
    """`relu` for `relu_`: the streams are shared with other values and must not be written into."""
    name = function.__name__
    if not name.endswith("_"):
        return function
    homes = [home for home in HOMES if callable(getattr(home, name[:-1], None))]
    pure: Function = getattr(homes[0], name[:-1])
    return pure


def enclose(
    value: Value,
    function: Callable[[Tensor], Tensor],
    lines: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Lines],
    matters: Callable[[Tensor, Tensor], Tensor] | None = None,
    span: Span | None = None,
) -> Value:
    """A function of each entry: its interval from `span` (for nondecreasing functions, from the ends), its lines
    attached to the clean value."""
    walk = value.walk
    lower, upper = walk.interval(value, matters)
    with walk.intervals():
        lowest, highest = (function(lower), function(upper)) if span is None else span(lower, upper, function)
        centre, radius = (lowest + highest) / 2, (highest - lowest) / 2
    plain = None
    if value.plain is not None:
        plain = function(value.plain)
        if walk.backward:
            with walk.intervals():
                drawn = lines(lower, upper, function)
            plain = relax_entrywise(
                walk, plain, value.plain,
                drawn.lower_slope, drawn.lower_offset, drawn.upper_slope, drawn.upper_offset,
            )  # fmt: skip
    return value.like(plain, centre, radius)


def propagate(
    value: Value,
    function: Callable[[Tensor], Tensor],
    magnitude: Callable[[Tensor], Tensor],
    length: Callable[[Tensor], Tensor] | None = None,
    constant: Tensor | None = None,
) -> Value:
    """An affine function of a value.

    Args:
        function: the linear part, for centre and clean value; with the constant in it, if that is not given.
        magnitude: its absolute linear part, for the radius.
        length: of entries that are pixels of an l_2 or l_1 ball, each with a scale (N, ...): the dual norm of every
            output's coefficients times these scales.
        constant: what is added, (1, ...) or (N, ...): in the units of a value with an exponent.
    """
    walk = value.walk

    def affine(x: Tensor) -> Tensor:
        return function(x) if share is None else function(x) + share

    share = None if constant is None else portion(constant, value)
    plain = None if value.plain is None else affine(value.plain)
    with walk.intervals():
        centre, radius = affine(value.centre), magnitude(value.radius)
        if value.ball is not None and length is not None:
            reaches = length(value.ball.reach(walk.region.norm))
            reach = walk.region.epsilon.view(-1, *[1] * (reaches.dim() - 1)) * reaches
            clean = affine(value.ball.clean)
            lower = torch.maximum(centre - radius, clean - reach)
            upper = torch.minimum(centre + radius, clean + reach)
            # where both intervals are a point, rounding may let the ends cross
            centre, radius = (lower + upper) / 2, ((upper - lower) / 2).clamp_min(0.0)
    return value.like(plain, centre, radius)


def scale_entries(value: Value, affine: Callable[[Tensor], Tensor], size: Callable[[Tensor], Tensor]) -> Value:
    """Arithmetic with constants, entry by entry, broadcasting as torch does: `affine`, and its factor without the sign
    and the constant, `size`."""
    result = propagate(value, affine, size)
    if value.ball is not None:
        with value.walk.intervals():
            result.ball = value.ball.scaled(affine, size)
    return result


def move_entries(
    value: Value, function: Callable[[Tensor], Tensor], blank: Callable[[Tensor], Tensor] | None = None
) -> Value:
    """A function that moves, selects or copies entries, or puts constants beside them (`blank`: zeros in their
    place)."""
    result = propagate(value, function, blank or function)
    if value.ball is not None:
        with value.walk.intervals():
            result.ball = value.ball.moved(function, blank)
    return result


def root(squares: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0, not infinite."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)


def only_first(function: Function, value: Any, rest: Iterable[Any], kwargs: dict[str, Any]) -> None:
    """Refuse a call in which something besides the first argument depends on the images."""
    others = list(values_in((*rest, *kwargs.values())))
    if others:
        refuse(function, others[0], "an argument besides the first depends on the images")
    assert isinstance(value, Value)


__all__ = [
    "Handler",
    "Lines",
    "activation_rule",
    "boundable",
    "enclose",
    "linear_rule",
    "move_entries",
    "only_first",
    "propagate",
    "rule",
    "scale_entries",
]
