"""Batch norm of several operations' outputs as one layer, times a factor a channel that costs no pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class JoinedNorm(nn.BatchNorm2d):
    """Batch norm of an image whose channels may come in parts of one width, joined or not; the same either way."""

    @classmethod
    def of(cls, norms: Sequence[nn.BatchNorm2d]) -> JoinedNorm:
        """The layers side by side, new but for their scale and shift; all have the first one's settings."""
        first = norms[0]
        joined = cls(
            sum(norm.num_features for norm in norms),
            first.eps,
            first.momentum,
            first.affine,
            first.track_running_stats,
        )
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
    weight, bias = norm.weight, norm.bias
    parameters: dict[str, Any] = norm._parameters
    try:
        parameters["weight"] = factors if weight is None else weight * factors
        parameters["bias"] = None if bias is None else bias * factors
        return norm(*parts)
    finally:
        parameters["weight"], parameters["bias"] = weight, bias
