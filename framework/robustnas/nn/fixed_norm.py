"""Batch norm with fixed statistics as what it is: a factor and a summand a channel."""

from __future__ import annotations

from torch import Tensor


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
