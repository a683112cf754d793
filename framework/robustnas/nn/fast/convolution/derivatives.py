"""What autograd is told about a convolution: three maps, each made of the other two when it is differentiated.

Everything follows from one trilinear form in image x, weight w and a tensor y of the output's shape,

    T(x, w, y) = < conv(x, w), y >

    convolution        T's gradient in y       takes x, w
    image gradient     T's gradient in x       takes w, y
    weight gradient    T's gradient in w       takes x, y

A backward pass through any of the three puts the cotangent in the place of the argument that the map is the gradient
in, and takes T's gradient in one of the others.  So derivatives of every order are convolutions of groups again.

A gradient that the pass under way does not use is not computed (that of w, where alpha alone is asked for).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from robustnas.nn.fast.convolution import kernels
from robustnas.nn.fast.convolution.geometry import Geometry

Gradients = tuple[Tensor | None, ...]
Result = TypeVar("Result")


def convolution(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution with its derivatives; all of one number format."""
    if not _records(x, weight):
        return _exactly(x, kernels.convolve, geometry, x, weight, bias)
    result: Tensor = _Convolution.apply(geometry, x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def image_gradient(geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
    """T's gradient in x, with its derivatives."""
    if not _records(weight, y):
        return _exactly(y, kernels.image_gradient, geometry, weight, y)
    result: Tensor = _ImageGradient.apply(geometry, weight, y)  # type: ignore[no-untyped-call]
    return result


def weight_gradient(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """T's gradient in w, with its derivatives."""
    if not _records(x, y):
        return _exactly(x, kernels.weight_gradient, geometry, x, y)
    result: Tensor = _WeightGradient.apply(geometry, x, y)  # type: ignore[no-untyped-call]
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _keep(ctx, geometry, x, weight)
        return _exactly(x, kernels.convolve, geometry, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        (y,) = cotangents
        if y is None:
            return None, None, None, None
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = _wanted(ctx, 0), _wanted(ctx, 1)
        bias = y.sum((0, 2, 3)) if ctx.needs_input_grad[3] and _wanted(ctx, 2) else None
        if wants_x and wants_weight and not torch.is_grad_enabled():
            return None, *_exactly(x, kernels.both_gradients, ctx.geometry, x, weight, y), bias
        return (
            None,
            image_gradient(ctx.geometry, weight, y) if wants_x else None,
            weight_gradient(ctx.geometry, x, y) if wants_weight else None,
            bias,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """Forward mode, for this and the other two: linear in either argument."""
        _, by_x, by_weight, by_bias = tangents
        moved = _linear(ctx, convolution, by_x, by_weight)
        return moved if by_bias is None else moved + by_bias.view(1, -1, 1, 1)


class _ImageGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
        _keep(ctx, geometry, weight, y)
        return _exactly(y, kernels.image_gradient, geometry, weight, y)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        (x,) = cotangents
        if x is None:
            return None, None, None
        weight, y = ctx.saved_tensors
        return (
            None,
            weight_gradient(ctx.geometry, x, y) if _wanted(ctx, 0) else None,
            convolution(ctx.geometry, x, weight) if _wanted(ctx, 1) else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _linear(ctx, image_gradient, *tangents[1:])


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
        _keep(ctx, geometry, x, y)
        return _exactly(x, kernels.weight_gradient, geometry, x, y)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        (weight,) = cotangents
        if weight is None:
            return None, None, None
        x, y = ctx.saved_tensors
        return (
            None,
            image_gradient(ctx.geometry, weight, y) if _wanted(ctx, 0) else None,
            convolution(ctx.geometry, x, weight) if _wanted(ctx, 1) else None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _linear(ctx, weight_gradient, *tangents[1:])


def _keep(ctx: Any, geometry: Geometry, first: Tensor, second: Tensor) -> None:
    """Each tensor for the other's gradient only."""
    ctx.geometry = geometry
    # where nothing arrives there is nothing to compute, with zeros or otherwise
    ctx.set_materialize_grads(False)
    _, by_first, by_second, *_ = ctx.needs_input_grad
    ctx.save_for_backward(first if by_second else None, second if by_first else None)
    ctx.save_for_forward(first, second)


def _wanted(ctx: Any, index: int) -> bool:
    """Whether the backward pass under way uses the gradient of the tensor of this number.

    `ctx.needs_input_grad` says whether any pass could, so autograd is asked whether it goes on there.
    """
    node = ctx.next_functions[index][0]
    if node is None:
        return False
    try:
        goes_on: bool = torch._C._will_engine_execute_node(node)
    except RuntimeError:
        # it refuses to answer for a leaf that autograd.grad was asked for: that one is wanted
        return True
    return goes_on


def _linear(ctx: Any, function: Callable[..., Tensor], by_first: Tensor | None, by_second: Tensor | None) -> Tensor:
    first, second = ctx.saved_tensors
    left = None if by_first is None else function(ctx.geometry, by_first, second)
    right = None if by_second is None else function(ctx.geometry, first, by_second)
    if left is None or right is None:
        one = left if right is None else right
        return torch.zeros_like(function(ctx.geometry, first, second)) if one is None else one
    return left + right


def _records(first: Tensor, second: Tensor) -> bool:
    """Whether a graph is made of these functions.

    Not while torch batches tensors or transforms functions: then it is made of what the kernels are made of.
    """
    return (
        torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not kernels.batched(first, second)
    )


def _exactly(like: Tensor, kernel: Callable[..., Result], *arguments: Any) -> Result:
    """The kernel without autocast: a backward pass may run inside one that the pass before it did not see."""
    kind = like.device.type
    with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
        return kernel(*arguments)
