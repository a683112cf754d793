"""The three maps on tensors without a graph: the convolution, its gradient in the image, its gradient in the weight.

Each is computed in the fastest way known for the device and the shape; all ways agree to rounding.  Torch's own is
the rule (cuDNN and kernels of its own on CUDA, oneDNN on CPUs).  The exceptions were measured on CPUs:

    image    with stride 1, by the convolution with the weight turned round: up to 10 times as fast with dilation
    weight   of depthwise convolutions, by parts that oneDNN has fast code for: up to 20 times as fast
    all      of depthwise convolutions without the weight's edges that see nothing but padding, for which oneDNN has
             slow code: up to 80 times as fast; in float64 entry by entry of the weight (`taps`)
    all      of 1x1 convolutions on channels-last memory, by matrix products (`pointwise`): up to 3 times as fast
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution import depthwise, pointwise, taps
from robustnas.nn.fast.convolution.geometry import Geometry


def convolve(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (N, C, H, W), weight (C', C / groups, K, L) -> (N, C', H', W')."""
    if x.device.type == "cpu":
        x = in_rows(x)
        if geometry.depthwise:
            geometry, weight = geometry.trimmed, _trimmed(geometry, weight)
            if taps.better(x):
                return taps.convolve(geometry, x, weight, bias)
        elif geometry.pointwise and pointwise.fast(*geometry.widths) and _can_write(x, weight):
            products = pointwise.multiply(pointwise.pixels(x, geometry.groups), _matrices(geometry, weight).mT)
            y = pointwise.image(products, x)
            return y if bias is None else y.add_(bias.view(1, -1, 1, 1))
    return F.conv2d(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)


def image_gradient(geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
    """The transpose: weight, y (N, C', H', W') -> (N, C, H, W)."""
    if y.device.type == "cpu":
        y = in_rows(y)
        if geometry.depthwise:
            geometry, weight = geometry.trimmed, _trimmed(geometry, weight)
            if taps.better(y):
                return taps.image_gradient(geometry, weight, y)
            inner = depthwise.inner(geometry) if switch.is_on("depthwise") else None
            if inner is not None:
                return depthwise.scattered(geometry, _turned(inner, weight, y))
        elif geometry.pointwise and pointwise.fast(*geometry.widths[::-1]) and _can_write(y, weight):
            products = pointwise.multiply(pointwise.pixels(y, geometry.groups), _matrices(geometry, weight))
            return pointwise.image(products, y)
        if _can_turn(geometry):
            return _turned(geometry, weight, y)
    # only the shape of the image matters
    layout = torch.channels_last if _channels_last(y) else torch.contiguous_format
    shape = (y.shape[0], geometry.channels[0], *geometry.size)
    x = torch.empty(shape, dtype=y.dtype, device=y.device, memory_format=layout)
    return _torch_s_own(geometry, x, weight, y, (True, False))[0]


def weight_gradient(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    """x, y (N, C', H', W') -> (C', C / groups, K, L)."""
    if x.device.type == "cpu":
        x, y = in_rows(x), in_rows(y)
        if geometry.depthwise:
            return _with_edges(geometry, _depthwise_weight_gradient(geometry.trimmed, x, y))
        if geometry.pointwise and switch.is_on("pointwise") and _can_write(x, y):
            slopes, rows = pointwise.pixels(y, geometry.groups), pointwise.pixels(x, geometry.groups)
            return pointwise.correlate(slopes, rows).reshape(geometry.weight)
    return _torch_s_own(geometry, x, x.new_empty(geometry.weight), y, (False, True))[1]


def both_gradients(geometry: Geometry, x: Tensor, weight: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The last two; in one call where torch's own is the way for both."""
    if x.device.type == "cpu" and (geometry.depthwise or geometry.pointwise or _can_turn(geometry)):
        return image_gradient(geometry, weight, y), weight_gradient(geometry, x, y)
    return _torch_s_own(geometry, x, weight, y, (True, True))


def _torch_s_own(
    geometry: Geometry, x: Tensor, weight: Tensor, y: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients in image and weight; only those that are wanted are tensors."""
    found = torch.ops.aten.convolution_backward(
        y, x, weight, None, geometry.stride, geometry.padding, geometry.dilation, False, (0, 0), geometry.groups,
        (*wanted, False),
    )  # fmt: skip
    return found[0], found[1]


def _depthwise_weight_gradient(geometry: Geometry, x: Tensor, y: Tensor) -> Tensor:
    if taps.better(x):
        return taps.weight_gradient(geometry, x, y)
    if switch.is_on("depthwise") and depthwise.has_weight_gradient(geometry, x):
        return depthwise.weight_gradient(geometry, x, y)
    return _torch_s_own(geometry, x, x.new_empty(geometry.weight), y, (False, True))[1]


def _can_turn(geometry: Geometry) -> bool:
    """Whether the image's gradient is a convolution of y with the weight turned round, and better be it."""
    (above, left), reach = geometry.padding, geometry.reach
    simple = geometry.kernel == (1, 1) and not geometry.depthwise
    return geometry.stride == (1, 1) and not simple and above <= reach[0] and left <= reach[1]


def _turned(geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
    """The image's gradient for stride 1: y convolved with the weight turned round, from its outputs to its inputs."""
    groups, (into, out) = geometry.groups, geometry.channels
    padding = (geometry.reach[0] - geometry.padding[0], geometry.reach[1] - geometry.padding[1])
    if not geometry.depthwise:
        parts = weight.unflatten(0, (groups, out // groups)).transpose(1, 2)
        weight = parts.reshape(into, out // groups, *geometry.kernel)
    turned = weight.flip(2, 3) if geometry.kernel != (1, 1) else weight
    return F.conv2d(y, turned, None, 1, padding, geometry.dilation, groups)


def _trimmed(geometry: Geometry, weight: Tensor) -> Tensor:
    rows, columns = geometry.edges
    if rows == columns == 0:
        return weight
    return weight[:, :, rows : geometry.kernel[0] - rows, columns : geometry.kernel[1] - columns]


def _with_edges(geometry: Geometry, weight: Tensor) -> Tensor:
    rows, columns = geometry.edges
    return weight if rows == columns == 0 else F.pad(weight, (columns, columns, rows, rows))


def _matrices(geometry: Geometry, weight: Tensor) -> Tensor:
    """(C', C / groups, 1, 1) -> (groups, C' / groups, C / groups)."""
    return weight.reshape(geometry.groups, -1, weight.shape[1])


def in_rows(x: Tensor) -> Tensor:
    """The image with pixels as rows of memory, in which everything here is at least as fast."""
    return x.contiguous(memory_format=torch.channels_last) if _channels_last(x) is False else x


def _can_write(first: Tensor, second: Tensor) -> bool:
    """Whether products of these can be written where they belong, which neither graphs nor batched tensors allow."""
    return not batched(first, second) and not torch._C._are_functorch_transforms_active()


def batched(first: Tensor, second: Tensor) -> bool:
    """Whether one is a tensor by which torch batches a backward pass (`is_grads_batched`, `torch.vmap`)."""
    return _channels_last(first) is None or _channels_last(second) is None


def _channels_last(tensor: Tensor) -> bool | None:
    """None of a batched tensor: they refuse to tell their layout."""
    try:
        return tensor.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:
        return None
