"""Batch norm in eval mode, a factor and a summand a channel, taken over by the convolution in front.

    norm(conv(x))  =  conv'(x)       weight' = weight * scale,  bias' = bias * scale + shift

Both sides are equal to rounding.  The right one spares a pass over memory in every pass over the network, and the
second derivative, which torch computes for batch norm in many passes.  In training mode, and where gradients are off
and nothing is to be gained, modules are called as they stand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import has_torch_function

from robustnas.nn import fixed_norm
from robustnas.nn.fast.convolution import conv2d


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(C,) both: the layer in eval mode is x * scale + shift.  Gradients pass to the statistics if they have any."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return fixed_norm.scale_and_shift(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def is_constant(norm: _BatchNorm) -> bool:
    """Whether the layer is a factor and a summand a channel now."""
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


def is_frozen(norm: _BatchNorm, x: Tensor) -> bool:
    """Whether the layer is a factor and a summand now, and a pass gains from it."""
    return is_constant(norm) and (torch.is_grad_enabled() or has_torch_function((x,)))


def convolve_and_norm(conv: nn.Conv2d, norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(conv(x)), in one convolution where the norm is frozen.

    Whoever hangs a hook on the convolution sees it called; then there is nothing to take over.
    """
    if not is_frozen(norm, x) or conv._forward_hooks or conv._forward_pre_hooks:
        normed: Tensor = norm(conv(x))
        return normed
    return convolve_with(conv, *scale_and_shift(norm), x)


def convolve_with(conv: nn.Conv2d, scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """The convolution times scale plus shift, (C',) each.  Zeros are padded."""
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
    assert not isinstance(conv.padding, str)
    return conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(x), as one multiplication and addition where the norm is frozen."""
    if has_torch_function((x,)) or not is_frozen(norm, x):
        normed: Tensor = norm(x)
        return normed
    scale, shift = (part.view(1, -1, 1, 1) for part in scale_and_shift(norm))
    return torch.addcmul(shift, x, scale)
