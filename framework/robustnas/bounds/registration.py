"""How a bound rule is added: for a linear function, for an activation, or for anything else.

    @linear_rule(torch.nn.functional.conv_transpose2d)
    def magnitude(radius, weight, bias=None, *args, **kwargs):
        return F.conv_transpose2d(radius, weight.abs(), None, *args, **kwargs)

    @activation_rule(torch.nn.functional.softplus)
    def softplus_lines(lower, upper, function):
        return Lines(lower_slope, lower_offset, upper_slope, upper_offset)

`rule` is the general form.  A rule added twice replaces the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from attrs import frozen
from torch import Tensor

from robustnas.bounds.relaxation import relax_entrywise
from robustnas.bounds.value import RULES, Ball, Function, Handler, Value, refuse, values_in
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


HOMES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch._C._nn, torch.functional)


def spellings(*names: str) -> tuple[Function, ...]:
    """Every torch function of these names: `torch.relu`, `torch.Tensor.relu`, `torch.nn.functional.relu`,
    ..."""
    found = {getattr(home, name) for home in HOMES for name in names if callable(getattr(home, name, None))}
    if not found:
        raise InputError(f"torch has no function called {' or '.join(names)}")
    return tuple(found)


def rule(*functions: Function) -> Callable[[H], H]:
    """Register a rule for torch functions, in the general form.

    The decorated function is called as `handler(function, *args, **kwargs)` with the arguments of the
    network, some of them Values, and returns a Value (or a tuple of them) whose `centre` and `radius`
    enclose every value that the function takes on the region, and whose `plain` is the value at the clean
    images, relaxed by `relaxation.relax` where the function is not linear.  Images must not mix.
    """

    def register(handler: H) -> H:
        for function in functions:
            RULES[function] = handler
        return handler

    return register


def linear_rule(*functions: Function) -> Callable[[H], H]:
    """Register functions that are affine in their first argument and leave the first dimension alone.

    The decorated function says how a radius passes: `magnitude(radius, *rest, **kwargs)` applies the
        absolute values
    of the coefficients, without the constant.  A backward rule is not needed: autograd transposes the
    function.
    """

    def register(magnitude: H) -> H:
        def handler(function: Function, value: Value, *rest: Any, **kwargs: Any) -> Value:
            only_first(function, value, rest, kwargs)
            return propagate(value, lambda x: function(x, *rest, **kwargs), lambda r: magnitude(r, *rest, **kwargs))

        rule(*functions)(handler)
        return magnitude

    return register


def activation_rule(
    *functions: Function, matters: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Callable[[H], H]:
    """Register nondecreasing functions of one entry.

    The decorated function is called as `lines(lower, upper, function)`, where `function` has the network's
    other arguments filled in, and returns Lines that enclose it on [lower, upper]; lower may equal upper.

    Args:
        matters: (lower, upper) -> bool tensor, where a tighter interval would give tighter lines (everywhere,
            if not given); spares method `crown` work.
    """

    def register(lines: H) -> H:
        def handler(function: Function, value: Value, *rest: Any, **kwargs: Any) -> Value:
            only_first(function, value, rest, kwargs)
            kwargs.pop("inplace", None)
            pure = _not_in_place(function)
            return enclose(value, lambda x: pure(x, *rest, **kwargs), lines, matters)

        rule(*functions)(handler)
        return lines

    return register


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
) -> Value:
    """A nondecreasing function of each entry: its interval from the ends, its lines attached to the clean
    value."""
    walk = value.walk
    lower, upper = walk.interval(value, matters)
    with walk.intervals():
        at_lower, at_upper = function(lower), function(upper)
        centre, radius = (at_lower + at_upper) / 2, (at_upper - at_lower) / 2
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
    return Value(walk, plain, centre, radius)


def propagate(
    value: Value,
    function: Callable[[Tensor], Tensor],
    magnitude: Callable[[Tensor], Tensor],
    entrywise: Callable[[Tensor], Tensor] | None = None,
    squared: Callable[[Tensor], Tensor] | None = None,
) -> Value:
    """An affine function of a value.

    Args:
        function: the affine function, for centre and clean value.
        magnitude: its absolute linear part, for the radius.
        entrywise: set where the function scales or moves entries and does not mix them: how it acts on a
            ball's scale.
        squared: set where it mixes them: (N, ...) squares of entries -> sums weighted by squared
            coefficients; gives the dual norm that a still unmixed l_2 ball needs.
    """
    walk = value.walk
    plain = None if value.plain is None else function(value.plain)
    with walk.intervals():
        centre, radius = function(value.centre), magnitude(value.radius)
        ball = None
        if value.ball is not None and entrywise is not None:
            ball = Ball(function(value.ball.clean), entrywise(value.ball.scale))
        elif value.ball is not None and squared is not None:
            length = root(squared(value.ball.scale.square()))
            reach = walk.region.epsilon.view(-1, *[1] * (length.dim() - 1)) * length
            clean = function(value.ball.clean)
            lower = torch.maximum(centre - radius, clean - reach)
            upper = torch.minimum(centre + radius, clean + reach)
            # where both intervals are a point, rounding may let the ends cross
            centre, radius = (lower + upper) / 2, ((upper - lower) / 2).clamp_min(0.0)
    return Value(walk, plain, centre, radius, ball)


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


__all__ = ["Handler", "Lines", "activation_rule", "enclose", "linear_rule", "only_first", "propagate", "rule"]
