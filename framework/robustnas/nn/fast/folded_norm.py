"""Batch norm as part of what stands next to it, so that it costs no pass over memory of its own.

With fixed statistics it is a factor and a summand a channel, which the convolution in front of it takes over:

    norm(conv(x))  =  conv'(x)       weight' = weight * scale,  bias' = bias * scale + shift

Both sides are equal to rounding.  The right one also spares the second derivative, which torch computes for batch
norm in many passes.  With the statistics of its batch it takes over the mixing weights behind it, as its scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import has_torch_function

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution import conv2d


def scale_and_shift(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """norm(x) = x * scale + shift, a channel at a time: (C,) each; gradients pass to all that is given.

    Args:
        mean: statistics, (C,).
        variance: likewise.
        weight: the layer's own scale (C,), if it has one.
        bias: the layer's own shift (C,), if it has one.
        eps: added to the variance.
    """
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def of_layer(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """`scale_and_shift` of a layer with fixed statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return scale_and_shift(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def is_fixed(norm: _BatchNorm) -> bool:
    """Whether the layer is a factor and a summand a channel now, and may be treated as such."""
    fixed = not norm.training and norm.running_mean is not None and norm.running_var is not None
    return fixed and switch.is_on("folded norm")


def is_folded(norm: _BatchNorm, x: Tensor) -> bool:
    """Whether a convolution takes the layer over: it is fixed, and a pass over x has something to gain from it."""
    return is_fixed(norm) and (torch.is_grad_enabled() or has_torch_function((x,)))


def convolve_and_norm(conv: nn.Conv2d, norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(conv(x)), in one convolution where the norm is folded.

    Whoever hangs a hook on the convolution sees it called; then nothing is folded.
    """
    if not is_folded(norm, x) or conv._forward_hooks or conv._forward_pre_hooks:
        normed: Tensor = norm(conv(x))
        return normed
    return convolve_scaled(conv, *of_layer(norm), x)


def convolve_scaled(conv: nn.Conv2d, scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """The convolution times scale plus shift, (C',) each.  Zeros are padded."""
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
    assert not isinstance(conv.padding, str)
    return conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """norm(x), as one multiplication and addition where the norm is folded."""
    if has_torch_function((x,)) or not is_folded(norm, x):
        normed: Tensor = norm(x)
        return normed
    scale, shift = (part.view(1, -1, 1, 1) for part in of_layer(norm))
    return torch.addcmul(shift, x, scale)


def normalise_channels(norm: _BatchNorm, x: Tensor, channels: slice) -> Tensor:
    """norm(x) of an x that has these of the layer's channels alone; what the layer holds for the others stays as it is.

    The layer itself is called, with a part of its tensors, so what hangs on it takes part.
    """
    parameters: dict[str, Any] = dict(norm._parameters)
    buffers: dict[str, Any] = dict(norm._buffers)
    narrow = {key: one[channels] if one is not None and one.dim() else one for key, one in buffers.items()}
    try:
        norm._parameters.update({key: None if one is None else one[channels] for key, one in parameters.items()})
        norm._buffers.update(narrow)
        normed: Tensor = norm(x)
        for key, now in norm._buffers.items():
            if now is not narrow[key] and now is not None:
                # a hook has put another tensor there; not written in place, as autograd may have saved the old one
                whole = buffers[key].clone()
                whole[channels] = now
                buffers[key] = whole
        return normed
    finally:
        norm._parameters.update(parameters)
        norm._buffers.update(buffers)


class JoinedNorm(nn.BatchNorm2d):
    """Batch norm of an image whose channels may come in parts of one width, joined or not; the same either way."""

    @classmethod
    def of(cls, norms: Sequence[nn.BatchNorm2d]) -> JoinedNorm:
        """The layers side by side, new but for their scale and shift; all have the first one's settings."""
        first, features = norms[0], sum(norm.num_features for norm in norms)
        joined = cls(features, first.eps, first.momentum, first.affine, first.track_running_stats)
        if first.affine:
            joined.weight = nn.Parameter(torch.cat([norm.weight.detach() for norm in norms]))
            joined.bias = nn.Parameter(torch.cat([norm.bias.detach() for norm in norms]))
        return joined

    def forward(self, first: Tensor, *others: Tensor) -> Any:
        """(N, C, H, W) -> the same; or parts of C / m channels each -> a list of as many."""
        if not others:
            return super().forward(first)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        noting = not self.training or self.track_running_stats
        mean, variance = (self.running_mean, self.running_var) if noting else (None, None)
        training = self.training or mean is None or variance is None
        parts = (first, *others)
        pieces = [_pieces(tensor, len(parts)) for tensor in (mean, variance, self.weight, self.bias)]
        return [
            F.batch_norm(part, m, v, weight, bias, training, momentum, self.eps)
            for part, m, v, weight, bias in zip(parts, *pieces, strict=True)
        ]


def _pieces(tensor: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if tensor is None else tensor.chunk(count)


def scaled(norm: _BatchNorm, factors: Tensor, *parts: Tensor) -> Any:
    """norm(*parts) times a factor a channel (C,), at no cost: the factors stand in for its scale while it runs.

    The layer itself is called, so what hangs on it (hooks, scratch statistics, sums over processes) takes part.
    """
    if not switch.is_on("scaled norm"):
        outputs, rows = norm(*parts), factors.view(1, -1, 1, 1)
        if len(parts) == 1:
            return outputs * rows
        return [output * row for output, row in zip(outputs, rows.chunk(len(parts), dim=1), strict=True)]
    weight, bias = norm.weight, norm.bias
    parameters: dict[str, Any] = norm._parameters
    try:
        parameters["weight"] = factors if weight is None else weight * factors
        parameters["bias"] = None if bias is None else bias * factors
        return norm(*parts)
    finally:
        parameters["weight"], parameters["bias"] = weight, bias
