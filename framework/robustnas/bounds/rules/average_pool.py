"""Average pooling: linear with coefficients that are not negative, so a radius passes as a value does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustnas.bounds.refusals import expect_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.steps.layers import Repeated
from robustnas.bounds.steps.pools import Average
from robustnas.bounds.streams import propagate
from robustnas.bounds.tape import Step
from robustnas.bounds.value import Function, Value, refuse
from robustnas.nn.fast import pair

DIMENSIONS = {f"{kind}avg_pool{size}d": size + 2 for kind in ("", "adaptive_") for size in (1, 2, 3)}


@rule(*(function for name in DIMENSIONS for function in spellings(name)), scaled=True)
def average_pool(function: Function, value: Value, *args: Any, **kwargs: Any) -> Value:
    only_first(function, value, args, kwargs)
    expect_dimensions(function, value, DIMENSIONS[function.__name__])
    divisor = kwargs.get("divisor_override", args[5] if len(args) > 5 else None)
    if divisor is not None and divisor <= 0:
        refuse(function, value, f"divisor_override {divisor}: the rule holds for positive divisors")

    def pool(x: Tensor) -> Tensor:
        pooled: Tensor = function(x, *args, **kwargs)
        return pooled

    def step() -> Step:
        if function.__name__ != "avg_pool2d":
            return Repeated(pool, value.centre.shape)
        named = dict(zip(("kernel_size", "stride", "padding"), args, strict=False)) | kwargs
        kernel = named["kernel_size"]
        steps = named.get("stride") or kernel
        windows = (pair(kernel), pair(steps), pair(named.get("padding", 0)))
        return Average(pool, value.centre.shape, *windows)

    return propagate(value, pool, pool, step=step)
