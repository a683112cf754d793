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
from robustnas.nn.fast.convolution.layer import pair
from robustnas.nn.fast.folded_norm import scale_and_shift

Function = Callable[..., Any]
aten = torch.ops.aten


def double_backward() -> TorchFunctionMode:
    """The context in which a network runs whose gradients are to be differentiated."""
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


class _Piecewise(torch.autograd.Function):
    """A function that is linear between its kinks, with a backward pass that is linear and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, compute: Function, transposed: Function) -> Tensor:
        y, *kept = compute(x)
        ctx.transposed = transposed
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept)
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, None, None]:
        if slopes[0] is None:
            return None, None, None
        # detached: the second derivative is zero, and is not to be sent back as zeros
        return ctx.transposed(slopes[0], *(tensor.detach() for tensor in ctx.saved_tensors)), None, None


def _piecewise(x: Tensor, compute: Function, transposed: Function) -> Any:
    """The first tensor of compute(x); the gradient is transposed(slopes, *the other tensors)."""
    return _Piecewise.apply(x, compute, transposed)  # type: ignore[no-untyped-call]


def _relu(function: Function, input: Tensor, inplace: bool = False) -> Any:
    if inplace:
        return function(input, inplace=True)
    return _piecewise(input, lambda x: [torch.relu(x)] * 2, lambda slopes, y: aten.threshold_backward(slopes, y, 0))


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
    window = (pair(kernel_size), _stride(stride, kernel_size), pair(padding), pair(dilation), ceil_mode)
    return _piecewise(
        input,
        lambda x: [*aten.max_pool2d_with_indices(x, *window), x],
        lambda slopes, places, x: aten.max_pool2d_with_indices_backward(slopes, x, *window, places),
    )


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
    sizes = (pair(kernel_size), _stride(stride, kernel_size), pair(padding))
    window = (*sizes, ceil_mode, count_include_pad, divisor_override)
    return _piecewise(
        input,
        lambda x: [aten.avg_pool2d(x, *window), x],
        lambda slopes, x: aten.avg_pool2d_backward(slopes, x, *window),
    )


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


def _stride(stride: Any, kernel_size: Any) -> tuple[int, int]:
    return pair(kernel_size if stride is None or stride in ((), []) else stride)


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
