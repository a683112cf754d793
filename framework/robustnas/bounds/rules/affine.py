"""Layers with weights: convolution, linear layer, batch norm in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.refusals import expect_dimensions, only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.scale import portion
from robustnas.bounds.steps.layers import Convolution, Linear
from robustnas.bounds.streams import propagate, root, scale_entries
from robustnas.bounds.tape import Step
from robustnas.bounds.value import Features, Function, Value, refuse
from robustnas.nn.fast import conv2d, pair, scale_and_shift

DIMENSIONS = {"conv1d": 3, "conv2d": 4, "conv3d": 5}


@rule(*spellings(*DIMENSIONS), scaled=True)
def convolution(
    function: Function,
    value: Value,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Pass the centre through W, the radius through |W|, and a ball through the dual norm of each row of W."""
    geometry = (stride, padding, dilation, groups)
    only_first(function, value, (weight, bias, *geometry))
    expect_dimensions(function, value, DIMENSIONS[function.__name__])
    if function.__name__ == "conv2d":
        function = conv2d
    fused, constant = _fused(value, bias)

    def length(scale: Tensor) -> Tensor:
        if value.propagation.region.norm == "l2":
            return root(function(scale.square(), weight.square(), None, *geometry))
        # l_1 needs the largest weight times scale: at most a channel's largest weight times its largest scale, and
        # equal to it where the channel has one scale
        channel = scale.transpose(0, 1).flatten(1).amax(dim=1).view(groups, 1, -1)
        rows = weight.abs().flatten(2).amax(dim=2).view(groups, -1, weight.shape[1])
        return (rows * channel).amax(dim=2).view(1, -1, *[1] * (weight.dim() - 2))

    return propagate(
        value,
        lambda x: function(x, weight, fused, *geometry),
        lambda radius: function(radius, _magnitude(weight, groups), None, *geometry),
        length=length,
        constant=constant,
        step=_transposed(function, value, weight, geometry),
    )


def _magnitude(weight: Tensor, groups: int) -> Tensor:
    """Compute |W|, in memory as W is: of images of one channel that alone tells a convolution how its output shall lie,
    and what follows takes several times as long where centre and radius lie differently."""
    size = weight.abs()
    # a weight whose entries have gaps or share memory has strides that would read others of them
    plain = weight.is_contiguous() and weight.shape[1] == 1 == groups
    return size.as_strided(size.shape, weight.stride()) if plain else size


def _transposed(function: Function, value: Value, weight: Tensor, geometry: Any) -> Callable[[], Step] | None:
    """What the pass's tape is told of a convolution."""
    stride, padding, dilation, groups = geometry
    if function is not conv2d or isinstance(padding, str):
        return None
    size = value.centre.shape[2], value.centre.shape[3]
    steps = (pair(stride), pair(padding), pair(dilation))
    return lambda: Convolution(weight.detach(), size, *steps, groups)


def _fused(value: Value, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Split a bias into what the layer can add itself, and a constant that must first be divided by the exponent."""
    if value.exponent is None or bias is None:
        return bias, None
    return None, bias.view(1, -1, *[1] * (value.centre.dim() - 2))


@rule(*spellings("linear"), scaled=True)
def linear(function: Function, value: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    """Bound a linear layer; the output keeps its input, so that margins can be folded into the layer's weights."""
    only_first(function, value, (weight, bias))
    if value.centre.dim() < 2 or weight.dim() != 2:
        refuse(function, value, "a linear layer over the images would mix them")
    fused, constant = (bias, None) if value.exponent is None else (None, bias)

    def length(scale: Tensor) -> Tensor:
        if value.propagation.region.norm == "l2":
            return root(F.linear(scale.square(), weight.square()))
        largest = scale.flatten(0, -2).amax(dim=0)
        return (weight.abs() * largest).amax(dim=1).view(*[1] * (value.centre.dim() - 1), -1)

    out = propagate(
        value,
        lambda x: F.linear(x, weight, fused),
        lambda radius: F.linear(radius, weight.abs()),
        length=length,
        constant=constant,
        step=lambda: Linear(weight.detach()),
    )
    if value.centre.dim() == 2:
        # a copy, because the network may later write into its input in place
        kept = value.like(value.clean, value.centre, value.radius)
        kept.ball = value.ball
        out.features = Features(kept, weight, bias)
    return out


@rule(*spellings("batch_norm"), scaled=True)
def batch_norm(
    function: Function,
    value: Value,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    """Compute x * scale + shift, a channel at a time, with fixed statistics.

    Written as a multiplication and an addition rather than as torch's batch norm, so that statistics which
    carry a gradient (those of the current batch, frozen for a step) pass it on.
    """
    only_first(function, value, (running_mean, running_var, weight, bias))
    if training or running_mean is None or running_var is None:
        advice = "call network.eval() first, and build it with running statistics"
        refuse(function, value, "training-mode batch norm mixes the images of a batch", advice)
    scale, shift = scale_and_shift(running_mean, running_var, weight, bias, eps)
    shape = (1, -1, *[1] * (value.centre.dim() - 2))
    scale, shift = scale.view(shape), shift.view(shape)
    size = scale.abs()
    shares = portion(shift, value)
    return scale_entries(
        value,
        lambda x: torch.addcmul(shares, x, scale),
        lambda r: r * size,
        lambda x: torch.addcmul(shift, x, scale),
    )
