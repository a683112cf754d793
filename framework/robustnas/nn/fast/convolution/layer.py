"""The function and the layer that stand for torch's, and what they leave to torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import has_torch_function

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution.derivatives import convolution, gradient_in_image
from robustnas.nn.fast.convolution.geometry import geometry_of

Size = int | tuple[int, ...]

NARROW = 8
"""Fewer input channels than that make oneDNN overrun: see `_overruns`."""


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, differentiable any number of times in the same time.

    Torch does itself what it does well (one group), what is no plain tensor (the bounded values of
    `robustnas.bounds` find their rule under torch's name), and what is compiled, traced or transformed (`torch.func`).

    Args:
        x: (N, C, H, W); without N torch's own function is used.
        weight: (C', C / groups, rows, columns).
        bias: (C',).
    """
    if _overruns(x, weight, stride, padding, groups):
        (rows, columns), (down, right) = pair(padding), pair(stride)  # type: ignore[arg-type]
        padded = F.pad(x, (columns, columns, rows, rows)) if rows or columns else x
        x, stride, padding = padded[:, :, ::down, ::right], 1, 0
    if (
        groups == 1
        or not switch.is_on("convolutions")
        or isinstance(padding, str)
        or x.dim() != 4
        or has_torch_function((x, weight, bias))
        or torch._C._are_functorch_transforms_active()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    ):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x, weight, bias = (_cast(tensor, kind) for tensor in (x, weight, bias))
    geometry = geometry_of(tuple(x.shape[1:]), tuple(weight.shape), pair(stride), pair(padding), pair(dilation), groups)
    if geometry is None or not x.shape[0] or x.dtype != weight.dtype or x.device != weight.device:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return convolution(geometry, x, weight, bias)


def image_gradient(
    y: Tensor,
    weight: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv2d` in its image, differentiable as that is.

    Args:
        y: (N, C', H', W') of the output's shape.
        weight: (C', C / groups, rows, columns).
        size: rows and columns of the image.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: no convolution has an output of this shape.
    """
    image = (weight.shape[1] * groups, *size)
    geometry = geometry_of(image, tuple(weight.shape), stride, padding, dilation, groups)
    if geometry is None or y.shape[1:] != (weight.shape[0], *geometry.output):
        raise ValueError(f"no convolution of {image} by {tuple(weight.shape)} has the output {tuple(y.shape)}")
    return gradient_in_image(geometry, weight, y)


def _overruns(x: Tensor, weight: Tensor, stride: Size, padding: Size | str, groups: int) -> bool:
    """Whether torch's own gradient of the weight would write past its end.

    On CPUs without AVX-512, oneDNN (seen in torch 2.14) does so for 1x1 convolutions with a stride on channels-last
    memory, where they have few input channels.  The pixels that the stride leaves are taken first for these.
    """
    return (
        not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # sizes are no numbers then
        and tuple(weight.shape[2:]) == (1, 1)
        and pair(stride) != (1, 1)
        and not isinstance(padding, str)
        and groups == 1
        and x.dim() == 4
        and x.shape[1] < NARROW
        and x.device.type == "cpu"
        and not has_torch_function((x, weight))
    )


def pair(size: Size) -> tuple[int, int]:
    """Return a size in both directions, of one number or of two."""
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _cast(tensor: Any, kind: str) -> Any:
    """What autocast does to the arguments of a convolution."""
    eligible = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(torch.get_autocast_dtype(kind)) if eligible else tensor


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that computes with `conv2d`; parameters, their initial values and state_dict are the same."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # where there is nothing to fill, filling would be most of what a network costs
            super().reset_parameters()

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            padded: Tensor = super()._conv_forward(input, weight, bias)
            return padded
        return conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
