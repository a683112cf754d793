"""A network whose gradients are differentiated, without the passes that only move zeros.

    with double_backward():
        logits = network(images)
    (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)      # inside or outside
    torch.autograd.grad(slopes.norm(), parameters)

Rectifiers and poolings are linear between their kinks, so their second derivative is zero.  Torch computes with that
zero: it sends tensors of zeros back through the whole network, which costs as much as a backward pass.  Inside the
context such functions keep the kink's side as a constant.  Batch norm in eval mode becomes the multiplication and
addition that it is, and convolutions of groups those of `robustnas.nn.fast.convolution`.  Values and gradients of
every order are torch's, to rounding.

It acts on any network: on the torch functions it calls, with plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution import conv2d
from robustnas.nn.fast.folded_norm import scale_and_shift

Function = Callable[..., Any]


def double_backward() -> TorchFunctionMode:
    """The context."""
    return _Mode()


class _Mode(TorchFunctionMode):
    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        instead = INSTEAD.get(func)
        if instead is None or not switch.is_on("double backward") or not _worth_it(args, kwargs):
            return func(*args, **kwargs)
        return instead(func, *args, **kwargs)


def _worth_it(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a graph is made, and the first argument is part of it and nothing more than a tensor."""
    first = args[0] if args else kwargs.get("input")
    return (
        torch.is_grad_enabled()
        and type(first) is Tensor
        and first.requires_grad
        and first.is_floating_point()
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
    )


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.relu(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Tensor | None:
        if slopes[0] is None:
            return None
        (y,) = ctx.saved_tensors
        # detached: the second derivative is zero, and is not to be sent back as zeros
        found: Tensor = torch.ops.aten.threshold_backward(slopes[0], y.detach(), 0)
        return found


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        y, places = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.window = window
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, places)
        pooled: Tensor = y
        return pooled

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, None]:
        if slopes[0] is None:
            return None, None
        x, places = ctx.saved_tensors
        return torch.ops.aten.max_pool2d_with_indices_backward(slopes[0], x.detach(), *ctx.window, places), None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        ctx.window = window
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        pooled: Tensor = torch.ops.aten.avg_pool2d(x, *window)
        return pooled

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, None]:
        if slopes[0] is None:
            return None, None
        (x,) = ctx.saved_tensors
        return torch.ops.aten.avg_pool2d_backward(slopes[0], x.detach(), *ctx.window), None


def _relu(function: Function, input: Tensor, inplace: bool = False) -> Any:
    return function(input, inplace=True) if inplace else _Rectified.apply(input)  # type: ignore[no-untyped-call]


def _max_pool2d(
    function: Function,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices or input.dim() != 4:
        extra = {"return_indices": True} if return_indices else {}
        return function(input, kernel_size, stride, padding, dilation, ceil_mode, **extra)
    window = (_pair(kernel_size), _stride(stride, kernel_size), _pair(padding), _pair(dilation), ceil_mode)
    return _Largest.apply(input, window)  # type: ignore[no-untyped-call]


def _avg_pool2d(
    function: Function,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    window = (_pair(kernel_size), _stride(stride, kernel_size), _pair(padding), ceil_mode)
    return _Mean.apply(input, (*window, count_include_pad, divisor_override))  # type: ignore[no-untyped-call]


def _batch_norm(
    function: Function,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    half = input.dtype in (torch.float16, torch.bfloat16)
    if training or running_mean is None or running_var is None or half:
        return function(input, running_mean, running_var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (input.dim() - 2))
    scale, shift = scale_and_shift(running_mean, running_var, weight, bias, eps)
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


def _conv2d(function: Function, *args: Any, **kwargs: Any) -> Any:
    return conv2d(*args, **{"x" if name == "input" else name: value for name, value in kwargs.items()})


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _stride(stride: Any, kernel_size: Any) -> tuple[int, int]:
    return _pair(kernel_size if stride is None or stride in ((), []) else stride)


INSTEAD: dict[Function, Function] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.batch_norm: _batch_norm,
    F.conv2d: _conv2d,
}
"""Torch functions and what is called in their place, with the function and its arguments."""
