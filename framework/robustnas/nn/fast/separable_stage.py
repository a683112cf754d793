"""Rectifier, depthwise and pointwise convolution of several operations on several edges, as one step of autograd.

    output_o,e  =  P_o,e  D_o,e  relu(input_o,e)           o an operation, e an edge; output joined over (o, e)

The input is one state that all of them read, or a state of its own for each (o, e).  `composed` says what is
computed; `stage` gives the same, and on CPUs in training it takes the backward pass in hand as well: gradients of
all operations and edges are added where they arise, nothing is repeated, split or joined that need not be, and
what autograd would spend on each of some twenty small operations is spent once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor
from torch.overrides import has_torch_function

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution import conv2d, kernels
from robustnas.nn.fast.convolution.derivatives import wanted
from robustnas.nn.fast.convolution.geometry import Geometry, geometry_of
from robustnas.nn.fast.convolution.pointwise import correlate, image, multiply, pixels

JOINED = 2**17
"""Up to so many entries, outputs are joined: fewer, larger computations.  More are not worth a copy."""

SIDE = 5
"""Up to this side, kernels of all operations are made one kernel's size, and convolved at once."""


@frozen
class StageShape:
    """What a stage computes besides its tensors.

    Args:
        edges: number of edges.
        stride: of the depthwise convolutions.
        dilations: of each operation's depthwise convolution.
        shared: all operations and edges read one state.
    """

    edges: int
    stride: int
    dilations: tuple[int, ...]
    shared: bool


def stage(
    shape: StageShape, inputs: Sequence[Tensor], depthwise: Sequence[Tensor], pointwise: Tensor
) -> tuple[Tensor, ...]:
    """The stage's outputs for M operations: M of (N, edges * C', H', W'), or those joined.

    Args:
        shape: of the stage.
        inputs: one state (N, C, H, W) if it is shared, else M of (N, edges * C, H, W), or those joined.
        depthwise: M weights (edges * C, 1, k, k).
        pointwise: (M * edges * C', C, 1, 1).
    """
    if switch.is_on("stages") and by_hand(*inputs, pointwise, *depthwise):
        outputs: tuple[Tensor, ...] = _FusedStage.apply(shape, pointwise, *depthwise, *inputs)
        return outputs
    return (composed(shape, inputs, depthwise, pointwise),)


def by_hand(*tensors: Tensor) -> bool:
    """Whether there is code of our own for these: plain tensors on a CPU, no autocast, nothing that traces."""
    return (
        all(tensor.device.type == "cpu" for tensor in tensors)
        and not has_torch_function(tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def composed(shape: StageShape, inputs: Sequence[Tensor], depthwise: Sequence[Tensor], pointwise: Tensor) -> Tensor:
    """`stage`, joined, by functions that every kind of tensor and every order of differentiation has."""
    inner = convolved(shape, inputs, depthwise)
    return conv2d(torch.cat(inner, dim=1), pointwise, groups=len(inner) * shape.edges)


def convolved(shape: StageShape, inputs: Sequence[Tensor], depthwise: Sequence[Tensor]) -> list[Tensor]:
    """Rectifier and depthwise convolutions alone, (N, edges * C, H', W') for each operation."""
    seen = [F.relu(x) for x in _arranged(inputs, len(depthwise), shape.shared)]
    if shape.shared:
        seen = [torch.cat(seen * shape.edges, dim=1)] * len(depthwise)
    return [
        conv2d(x, weight, None, shape.stride, dilation * (weight.shape[2] // 2), dilation, len(weight))
        for x, weight, dilation in zip(seen, depthwise, shape.dilations, strict=True)
    ]


class _FusedStage(torch.autograd.Function):
    # `forward` with `ctx`: the newer form, with setup_context, costs 0.1 ms a call

    @staticmethod
    def forward(ctx: Any, shape: StageShape, pointwise: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore
        count = len(shape.dilations)
        depthwise, inputs = tensors[:count], tensors[count:]
        joint = joined_kernel(shape, depthwise, inputs[0].shape)
        # joined, the M operations on E edges are one operation on M * E edges
        edges, weights, dilations = shape.edges, depthwise, shape.dilations
        if joint is not None:
            edges, weights, dilations = count * shape.edges, (joint,), (1,)
        seen = [F.relu(x) for x in _arranged(inputs, len(weights), shape.shared)]
        if shape.shared:
            seen = [repeated(seen[0], edges)]
        geometries = [
            depthwise_geometry(tuple(x.shape[1:]), weight, shape.stride, dilation)
            for x, weight, dilation in zip(seen * (len(weights) // len(seen)), weights, dilations, strict=True)
        ]
        inner = [
            kernels.convolve(geometry, x, weight)
            for geometry, x, weight in zip(geometries, seen * (len(weights) // len(seen)), weights, strict=True)
        ]
        products = [
            multiply(pixels(x, edges), matrices.mT).flatten(1)
            for x, matrices in zip(inner, _matrices(pointwise, len(weights), edges), strict=True)
        ]
        ctx.shape, ctx.geometries, ctx.edges, ctx.inputs = shape, geometries, edges, len(inputs)
        ctx.save_for_backward(pointwise, *tensors, *inner, *seen, *([] if joint is None else [joint]))
        if len(products) > 1 and sum(product.numel() for product in products) <= JOINED:
            products = [torch.cat(products, dim=1)]
        return tuple(image(product, inner[0]) for product in products)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            return _differentiable(ctx, slopes)
        shape, geometries, edges = ctx.shape, ctx.geometries, ctx.edges
        saved = iter(ctx.saved_tensors)
        pointwise, *depthwise = islice(saved, 1 + len(shape.dilations))
        inputs, inner = list(islice(saved, ctx.inputs)), list(islice(saved, len(geometries)))
        sources = 1 if shape.shared else len(geometries)
        seen = list(islice(saved, sources))
        weights = depthwise if len(geometries) == len(depthwise) else list(saved)
        wanted_pointwise, *asked = (need and wanted(ctx, place) for place, need in enumerate(ctx.needs_input_grad[1:]))
        wanted_depthwise, wanted_x = any(asked[: len(depthwise)]), any(asked[len(depthwise) :])
        slopes = tuple(map(kernels.in_rows, slopes))
        slopes = slopes if len(slopes) == len(weights) else slopes[0].chunk(len(weights), dim=1)
        matrices = _matrices(pointwise, len(weights), edges)
        grad_matrices: list[Tensor] = []
        grad_weights: list[Tensor] = []
        grads: list[Tensor] = []
        for index, (geometry, weight, x) in enumerate(zip(geometries, weights, inner, strict=True)):
            rows = pixels(slopes[index], edges)
            if wanted_pointwise:
                grad_matrices.append(correlate(rows, pixels(x, edges)))
            slope = image(multiply(rows, matrices[index]), x)
            if wanted_depthwise:
                grad_weights.append(kernels.weight_gradient(geometry, seen[index % sources], slope))
            if wanted_x:
                found = kernels.image_gradient(geometry, weight, slope)
                if len(grads) == sources:
                    grads[index % sources].add_(found)
                else:
                    grads.append(found)
        if shape.shared:
            grads = [folded(grad, edges) for grad in grads]
        if wanted_depthwise and len(weights) < len(depthwise):
            grad_weights = taken_apart(shape, depthwise, grad_weights[0])
        grads = [
            torch.ops.aten.threshold_backward(grad, x, 0)
            for grad, x in zip(_arranged(grads, len(inputs), shape.shared), inputs, strict=wanted_x)
        ]
        return (
            None,
            torch.cat(grad_matrices).view_as(pointwise) if wanted_pointwise else None,
            *_or_none(grad_weights, depthwise),
            *_or_none(grads, inputs),
        )


def _differentiable(ctx: Any, slopes: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The same gradients with a graph, for higher derivatives."""
    shape = ctx.shape
    count, edges = len(shape.dilations), shape.edges
    # an alias of each: the gradient is that of this place, also where two of them are one tensor
    pointwise, *tensors = (tensor.view_as(tensor) for tensor in ctx.saved_tensors[: 1 + count + ctx.inputs])
    # the depthwise convolutions once more, now with a graph; the pointwise ones are not needed
    inner = convolved(shape, tensors[count:], tensors[:count])
    rows = [pixels(slope, edges) for slope in _arranged(slopes, count, False)]
    matrices = _matrices(pointwise, count, edges)
    _, wanted_pointwise, *wanted = ctx.needs_input_grad
    grad_pointwise = None
    if wanted_pointwise:
        parts = [own.permute(1, 2, 0) @ pixels(x, edges).transpose(0, 1) for own, x in zip(rows, inner, strict=True)]
        grad_pointwise = torch.cat(parts).view_as(pointwise)
    places = [tensor for tensor, needed in zip(tensors, wanted, strict=True) if needed]
    if not places:
        return None, grad_pointwise, *([None] * len(tensors))
    slopes_inner = [
        image((own.transpose(0, 1) @ matrix).transpose(0, 1), x)
        for own, matrix, x in zip(rows, matrices, inner, strict=True)
    ]
    # an operation whose weight and input are constants has no graph
    graphs = [(x, slope) for x, slope in zip(inner, slopes_inner, strict=True) if x.requires_grad]
    outputs, weights = zip(*graphs, strict=True)
    found = iter(torch.autograd.grad(outputs, places, weights, create_graph=True))
    return None, grad_pointwise, *(next(found) if needed else None for needed in wanted)


def _or_none(gradients: Sequence[Tensor], of: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return gradients or [None] * len(of)


def joined_kernel(shape: StageShape, depthwise: Sequence[Tensor], size: Sequence[int]) -> Tensor | None:
    """All operations' kernels as one weight (M * edges * C, 1, side, side) without dilation, zeros in between.

    Entries that see nothing but padding are left out.  None if images of this size (N, C, H, W) are too large, or the
    side would be, for fewer computations to be worth more work.
    """
    side = 1 + 2 * max(
        dilation * min(weight.shape[3] // 2, (max(size[2:]) - 1) // dilation)
        for weight, dilation in zip(depthwise, shape.dilations, strict=True)
    )
    channels = sum(map(len, depthwise))
    if len(depthwise) == 1 or side > SIDE or size[0] * size[2] * size[3] * channels > JOINED:
        return None
    joined = depthwise[0].new_zeros(channels, 1, side, side)
    for part, weight, dilation in zip(joined.chunk(len(depthwise)), depthwise, shape.dilations, strict=True):
        there, here = _places(weight, dilation, side)
        part[..., there, there] = weight[..., here, here]
    return joined


def taken_apart(shape: StageShape, depthwise: Sequence[Tensor], joined: Tensor) -> list[Tensor]:
    """A gradient of the joined kernel -> those of the operations' kernels."""
    apart = []
    for part, weight, dilation in zip(joined.chunk(len(depthwise)), depthwise, shape.dilations, strict=True):
        there, here = _places(weight, dilation, joined.shape[3])
        gradient = torch.zeros_like(weight)
        gradient[..., here, here] = part[..., there, there]
        apart.append(gradient)
    return apart


def _places(weight: Tensor, dilation: int, side: int) -> tuple[slice, slice]:
    """Where the rows (and columns) of a weight are in a joined kernel, and which of them are there."""
    middle = weight.shape[3] // 2
    reach = min(middle, side // 2 // dilation)
    return (
        slice(side // 2 - reach * dilation, side // 2 + reach * dilation + 1, dilation),
        slice(middle - reach, middle + reach + 1),
    )


def _arranged(tensors: Sequence[Tensor], count: int, shared: bool) -> list[Tensor]:
    """Tensors of several operations as `count` tensors: joined, taken apart, or as they are."""
    if shared or len(tensors) == count or not tensors:
        return list(tensors)
    return list(tensors[0].chunk(count, dim=1)) if len(tensors) == 1 else [torch.cat(list(tensors), dim=1)]


def depthwise_geometry(size: tuple[int, ...], weight: Tensor, stride: int, dilation: int) -> Geometry:
    """The convolution of images of this size (C, H, W) by one operation's weight, padded to their size."""
    padding = dilation * (weight.shape[2] // 2)
    pairs = (stride, stride), (padding, padding), (dilation, dilation)
    found = geometry_of(size, tuple(weight.shape), *pairs, len(weight))
    assert found is not None
    return found


def _matrices(pointwise: Tensor, count: int, edges: int) -> Tensor:
    """(M * E * C', C, 1, 1) -> (M, E, C', C)."""
    return pointwise.view(count, edges, -1, pointwise.shape[1])


def repeated(x: Tensor, edges: int) -> Tensor:
    """(N, C, H, W) -> (N, edges * C, H, W) in channels-last memory."""
    if edges == 1:
        return x
    n, _, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).unsqueeze(3).expand(n, height, width, edges, -1)
    return rows.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def folded(x: Tensor, edges: int) -> Tensor:
    """The sum over edges: (N, edges * C, H, W) -> (N, C, H, W)."""
    if edges == 1:
        return x
    split: Tensor = x.permute(0, 2, 3, 1).unflatten(3, (edges, -1))
    return split.sum(3).permute(0, 3, 1, 2)
