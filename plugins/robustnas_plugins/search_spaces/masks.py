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


def masked(x: Tensor, shares: Tensor, of_widths: Tensor) -> Tensor:
    """x (N, C, H, W), the shares of the widths (W,), `masks` (W, C) -> (N, C, H, W)."""
    return x * (shares @ of_widths.to(shares)).view(1, -1, 1, 1)
