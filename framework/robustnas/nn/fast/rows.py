"""Takes a function out of a batched backward pass: it is given plain tensors whose first dimension are the rows.

A backward pass of several rows of cotangents at once is `torch.func.vmap` over one of a row.  Inside, tensors are
batched ones, to which torch applies rules of its own: functions with a backward pass of their own make no graph there,
grouped convolutions are torch's, and every step is an operation by itself.  `of_rows` steps out for one function:

    gradient = of_rows(compute, slope, weight)      compute is given slopes (S, N, ...), and the weight as it is

and what that makes is part of the graph of the pass, as it is where one row is pulled back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Outputs = Tensor | tuple[Tensor, ...]


def has_rows(*tensors: Tensor | None) -> bool:
    """Whether one of these is batched by the innermost transform of torch, and that is `vmap`."""
    batched = torch._C._functorch.is_batchedtensor
    return any(tensor is not None and batched(tensor) for tensor in tensors) and _innermost_is_vmap()


def of_rows(function: Callable[..., Outputs], *tensors: Tensor | None) -> Any:
    """function(*tensors) outside the batched pass that is under way; `has_rows` of them must be true.

    Args:
        function: is given those of the tensors that have rows with these first, the others as they are, and returns
            tensors with the rows first.
    """
    return _OutsideVmap.apply(function, *tensors)  # type: ignore[no-untyped-call]


def _innermost_is_vmap() -> bool:
    top = torch._C._functorch.peek_interpreter_stack()
    return top is not None and top.key() == torch._C._functorch.TransformType.Vmap


class _OutsideVmap(torch.autograd.Function):
    @staticmethod
    def forward(function: Callable[..., Outputs], *tensors: Tensor | None) -> Outputs:  # type: ignore[override]
        raise AssertionError("only called where a tensor has rows")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: autograd sees what `vmap` computes."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Callable[..., Outputs], *tensors: Tensor | None) -> Any:
        moved = [
            tensor if tensor is None or place is None else tensor.movedim(place, 0)
            for tensor, place in zip(tensors, in_dims[1:], strict=True)
        ]
        outputs = function(*moved)
        return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)
