"""Bounds interpolation to another size, which copies entries or weights them with coefficients that are not negative.

A radius then passes as a value does.  The mode `bicubic` is refused, because its weights have both signs.
"""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from robustnas.bounds.refusals import only_first
from robustnas.bounds.registration import rule
from robustnas.bounds.streams import move_entries, propagate
from robustnas.bounds.value import Function, Value, refuse

COPYING = ("nearest", "nearest-exact")
AVERAGING = ("linear", "bilinear", "trilinear", "area")


@rule(F.interpolate, scaled=True)
def interpolate(
    function: Function,
    value: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    *options: Any,
    **named: Any,
) -> Value:
    """Resize (N, C, ...) to a size or by a factor."""
    only_first(function, value, (size, scale_factor, *options), named)
    if mode not in (*COPYING, *AVERAGING):
        known = ", ".join((*COPYING, *AVERAGING))
        refuse(function, value, f"mode {mode!r} has weights of both signs; the rule knows {known}")

    def resize(x: Any) -> Any:
        return function(x, size, scale_factor, mode, *options, **named)

    return move_entries(value, resize) if mode in COPYING else propagate(value, resize, resize)
