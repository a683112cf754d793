"""Grouped 1x1 convolutions on CPUs, as matrix products on channels-last memory; tensors without a graph.

    output[:, e] = rows[:, e] @ matrices[e]         rows are pixels, e a group

For the few channels of a supernet torch's own grouped convolution takes up to twice as long, its gradients three
times.  Every product writes into its columns of the output, so nothing is joined afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.nn.fast import switch

DENSE = 8
"""Up to so many channels a group, one product with a block-diagonal matrix beats a product for each group."""

NARROW = 16
"""Fewer columns than that, but more than DENSE, make a product slower than torch's own convolution."""

ROWS = 4096
"""Pixels of one product: more leave the cache (measured with 16 to 64 channels)."""


def fast(ins: int, outs: int) -> bool:
    """Whether products from so many channels a group to so many are the way."""
    return switch.is_on("pointwise") and (max(ins, outs) <= DENSE or outs >= NARROW)


def pixels(x: Tensor, groups: int) -> Tensor:
    """(N, E * C, H, W) -> (N * H * W, E, C): a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, groups, x.shape[1] // groups)


def image(rows: Tensor, like: Tensor) -> Tensor:
    """(N * H * W, ...) -> (N, channels, H, W) in channels-last memory; N, H and W are those of `like`."""
    return rows.reshape(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


def multiply(rows: Tensor, matrices: Tensor) -> Tensor:
    """rows[:, e] @ matrices[e]: (L, E, C), (E, C, C') -> (L, E, C')."""
    groups, ins, outs = matrices.shape
    out = rows.new_empty(rows.shape[0], groups, outs)
    if groups > 1 and max(ins, outs) <= DENSE:
        blocks = matrices.new_zeros(groups, ins, groups, outs)
        blocks.diagonal(dim1=0, dim2=2).copy_(matrices.permute(1, 2, 0))
        torch.mm(rows.flatten(1), blocks.view(groups * ins, groups * outs), out=out.flatten(1))
        return out
    for first in range(0, rows.shape[0], ROWS):
        part = slice(first, first + ROWS)
        torch.bmm(rows[part].transpose(0, 1), matrices, out=out[part].transpose(0, 1))
    return out


def correlate(slopes: Tensor, rows: Tensor) -> Tensor:
    """The gradient of the matrices, transposed: sum over pixels of slopes (L, E, C'), rows (L, E, C) -> (E, C', C)."""
    groups, outs, ins = *slopes.shape[1:], rows.shape[2]
    if groups > 1 and max(ins, outs) <= DENSE:
        blocks = torch.mm(slopes.flatten(1).t(), rows.flatten(1)).view(groups, outs, groups, ins)
        return blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    return torch.bmm(slopes.permute(1, 2, 0), rows.transpose(0, 1))
