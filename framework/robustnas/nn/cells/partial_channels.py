"""Partial channels: operations act on one in so many channels of a state, the other channels pass by.

With partial = k and C channels, the operations of an edge see the first C / k.  The others pass unchanged, or
through a 2x2 max pool where the edge halves the size (half, rounded up, like every operation).  Both parts are
joined and their channels shuffled, so that the next state's operations see some of each: position i of group g
of the k groups becomes channel i * k + g.

The others are the same for all edges that leave a state; joining and shuffling are linear, so that a node may
add its edges first and join once.  `SharedCell` does both.

Source: Xu et al. 2020 (PC-DARTS), arXiv:1907.05737, sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.errors import InputError


def acting(channels: int, partial: int) -> int:
    """How many of a state's channels the operations act on.

    Raises:
        InputError: the channels are not `partial` equal parts.
    """
    if partial < 1 or channels % partial:
        raise InputError(
            f"partial is {partial}: operations cannot act on one in {partial} of {channels} channels; a number that "
            f"divides {channels} would do"
        )
    return channels // partial


def parted(state: Tensor, partial: int) -> tuple[Tensor, Tensor]:
    """The channels that operations act on, and the others: (N, C / partial, H, W), (N, C - C / partial, H, W)."""
    first = state.shape[1] // partial
    # one split, not two slices: the gradient of a slice is a tensor of the whole size, mostly zeros
    seen, others = torch.split(state, [first, state.shape[1] - first], dim=1)
    return seen, others


def passed_by(others: Tensor, stride: int) -> Tensor:
    """What the other channels add to a node: (N, C', H, W) -> (N, C', ceil(H / stride), ceil(W / stride))."""
    return others if stride == 1 else F.max_pool2d(others, 2, 2, ceil_mode=True)


def shuffled(parts: Sequence[Tensor]) -> Tensor:
    """k parts of equal channels (N, C / k, H, W) -> (N, C, H, W), one channel of each part in turn.

    Joins and shuffles in one pass over memory, and keeps the layout of the parts.
    """
    if parts[0].stride(1) == 1:  # channels last
        return torch.stack([part.permute(0, 2, 3, 1) for part in parts], dim=4).flatten(3).permute(0, 3, 1, 2)
    return torch.stack(list(parts), dim=2).flatten(1, 2)
