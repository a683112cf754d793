"""ReLU and leaky ReLU: the chord above, one of the two rays below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustnas.bounds.registration import Lines, activation_rule, enclose, only_first, rule, spellings
from robustnas.bounds.value import Function, Value, refuse


def unstable(lower: Tensor, upper: Tensor) -> Tensor:
    """Entries whose interval has the kink inside."""
    return (lower < 0) & (upper > 0)


def rectifier_lines(lower: Tensor, upper: Tensor, negative: float) -> Lines:
    """Lines around x -> max(x, negative * x) with 0 <= negative <= 1; source: CROWN, arXiv:1811.00866.

    Below, of the two rays the one that leaves the smaller area: the identity where upper > -lower.  Above,
        the
    chord.  Both are the function itself where the interval does not contain the kink.
    """
    kinked = unstable(lower, upper)
    # the width is 1 where it is not used: no 0/0 in the value nor, through `where`, in the gradient
    width = torch.where(kinked, upper - lower, 1.0)
    # neither holds for a NaN interval (an overflow), which must not pass for a stable one
    stable = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, negative, torch.nan))
    chord = torch.where(kinked, (upper - negative * lower) / width, stable)
    offset = torch.where(kinked, (negative - chord) * lower, 0.0)
    ray = torch.where(upper > -lower, 1.0, negative).to(lower)
    return Lines(ray, None, chord, offset)


@activation_rule(*spellings("relu", "relu_"), matters=unstable)
def relu_lines(lower: Tensor, upper: Tensor, function: Callable[[Tensor], Tensor]) -> Lines:
    return rectifier_lines(lower, upper, 0.0)


@rule(*spellings("leaky_relu", "leaky_relu_"))
def leaky_relu(
    function: Function, value: Value, negative_slope: float = 0.01, inplace: bool = False, **kwargs: Any
) -> Value:
    """As ReLU, with a ray of `negative_slope` on the left."""
    only_first(function, value, (negative_slope,), kwargs)
    if not 0 <= negative_slope <= 1:
        refuse(function, value, f"negative_slope {negative_slope:g}: the lines hold for slopes in [0, 1]")
    return enclose(
        value,
        lambda x: torch.nn.functional.leaky_relu(x, negative_slope),
        lambda lower, upper, _: rectifier_lines(lower, upper, negative_slope),
        unstable,
    )
