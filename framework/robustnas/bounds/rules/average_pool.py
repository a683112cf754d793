"""Average pooling: linear with coefficients that are not negative, so a radius passes as a value does."""

from __future__ import annotations

from typing import Any

from robustnas.bounds.refusals import expect_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.streams import propagate
from robustnas.bounds.value import Function, Value, refuse

DIMENSIONS = {f"{kind}avg_pool{size}d": size + 2 for kind in ("", "adaptive_") for size in (1, 2, 3)}


@rule(*(function for name in DIMENSIONS for function in spellings(name)), scaled=True)
def average_pool(function: Function, value: Value, *args: Any, **kwargs: Any) -> Value:
    only_first(function, value, args, kwargs)
    expect_dimensions(function, value, DIMENSIONS[function.__name__])
    divisor = kwargs.get("divisor_override", args[5] if len(args) > 5 else None)
    if divisor is not None and divisor <= 0:
        refuse(function, value, f"divisor_override {divisor}: the rule holds for positive divisors")
    return propagate(value, lambda x: function(x, *args, **kwargs), lambda radius: function(radius, *args, **kwargs))
