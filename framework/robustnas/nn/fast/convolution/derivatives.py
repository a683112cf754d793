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
from functools import reduce
from operator import add
from typing import Any, TypeVar

import torch
from torch import Tensor

from robustnas.nn.fast.convolution import kernels
from robustnas.nn.fast.convolution.geometry import Geometry
from robustnas.nn.fast.rows import has_rows, of_rows

X, W, Y = 0, 1, 2
"""The places of the trilinear form's arguments.  A map has the number of the place that it is the gradient in."""

Gradients = tuple[Tensor | None, ...]
Result = TypeVar("Result")


def convolution(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution with its derivatives; all of one number format."""
    return _gradient_in(Y, geometry, x, weight, bias)


def gradient_in_image(geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
    """The convolution's transpose with its derivatives."""
    return _gradient_in(X, geometry, weight, y)


def _gradient_in(place: int, geometry: Geometry, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """The form's gradient in one place, from what stands in the two others, in order; only y's has a bias."""
    if _records(first, second):
        result: Tensor = _Map.apply(place, geometry, first, second, bias)  # type: ignore[no-untyped-call]
        return result
    return _computed(place, geometry, first, second, bias)


def _computed(place: int, geometry: Geometry, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
    """The same without derivatives."""
    if place == Y:
        return _exactly(first, kernels.convolve, geometry, first, second, bias)
    return _exactly(first, kernels.image_gradient if place == X else kernels.weight_gradient, geometry, first, second)


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, place: int, geometry: Geometry, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        ctx.place, ctx.geometry = place, geometry
        # where nothing arrives there is nothing to compute, with zeros or otherwise
        ctx.set_materialize_grads(False)
        _, _, by_first, by_second, _ = ctx.needs_input_grad
        # each tensor is kept for the other's gradient only
        ctx.save_for_backward(first if by_second else None, second if by_first else None)
        ctx.save_for_forward(first, second)
        return _computed(place, geometry, first, second, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Gradients:
        (cotangent,) = cotangents
        if cotangent is None:
            return None, None, None, None, None
        place, geometry = ctx.place, ctx.geometry
        others = [other for other in (X, W, Y) if other != place]
        known = dict(zip(others, ctx.saved_tensors, strict=True)) | {place: cotangent}
        needed, by_bias = [wanted(ctx, 0), wanted(ctx, 1)], ctx.needs_input_grad[4] and wanted(ctx, 2)
        if place == Y and needed == [True, False] and not by_bias and has_rows(cotangent) and not has_rows(known[W]):
            return None, None, _of_rows(geometry, known[W], cotangent), None, None
        bias = cotangent.sum((0, 2, 3)) if by_bias else None
        if place == Y and all(needed) and not torch.is_grad_enabled():
            return None, None, *_exactly(cotangent, kernels.both_gradients, geometry, *known.values()), bias
        gradients = (
            _gradient_in(other, geometry, *(known[rest] for rest in (X, W, Y) if rest != other)) if need else None
            for other, need in zip(others, needed, strict=True)
        )
        return None, None, *gradients, bias

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """Forward mode: linear in either argument."""
        _, _, by_first, by_second, by_bias = tangents
        first, second = ctx.saved_tensors
        moves = []
        if by_first is not None:
            moves.append(_gradient_in(ctx.place, ctx.geometry, by_first, second))
        if by_second is not None:
            moves.append(_gradient_in(ctx.place, ctx.geometry, first, by_second))
        moved = reduce(add, moves or [torch.zeros_like(_computed(ctx.place, ctx.geometry, first, second, None))])
        return moved if by_bias is None else moved + by_bias.view(1, -1, 1, 1)


def _of_rows(geometry: Geometry, weight: Tensor, cotangents: Tensor) -> Tensor:
    """The image's gradient for several rows of cotangents at once, which are so many more images."""

    def gradient(y: Tensor, weight: Tensor) -> Tensor:
        folded: Tensor = _gradient_in(X, geometry, weight, y.flatten(0, 1)).unflatten(0, y.shape[:2])
        return folded

    pulled: Tensor = of_rows(gradient, cotangents, weight)
    return pulled


def wanted(ctx: Any, index: int) -> bool:
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
