"""Widths as masks of channels: a supernet computes the widest layer, and a mixture of widths weighs its channels.

    output_c  ->  output_c * sum_w share_w [c < w]

One-hot shares leave the first w channels and make all others zero, so that the layer behind sees the narrow one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def masks(widths: Sequence[int]) -> Tensor:
    """Channels of each width, (W, C) of zeros and ones; C is the largest width."""
    return (torch.arange(max(widths), device="cpu") < torch.tensor(widths, device="cpu").unsqueeze(1)).float()


def weights(shares: Tensor, of_widths: Tensor) -> Tensor:
    """What each channel counts, (C,): the shares of the widths (W,) that have it, by their `masks` (W, C)."""
    return shares @ of_widths.to(shares)


def weighed(x: Tensor, channels: Tensor | None) -> Tensor:
    """x (N, C, H, W), each channel times what it counts, (C,); None: all of them count."""
    return x if channels is None else x * channels.view(1, -1, 1, 1)
