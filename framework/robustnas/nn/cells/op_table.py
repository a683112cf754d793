"""The candidate operations of a supernet's edges, as a space hands them to its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import nn

OpTable = Mapping[str, Callable[[int, int], nn.Module | None]]
"""Candidate operations by name, in the order of alpha's columns: (channels, stride) -> module.

The module maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)).  None stands for the operation
that outputs zero.
"""


@runtime_checkable
class ForEdges(Protocol):
    """An entry of an operation table that can also build one module for several edges at once."""

    def for_edges(self, channels: int, stride: int, edges: int) -> nn.Module:
        """The operation on `edges` edges that leave one state.

        The module maps (N, edges * channels, H, W), the state after relu, repeated for every edge, to
        (N, edges * channels, ceil(H / stride), ceil(W / stride)).  Every parameter and buffer of it with
        dimensions is that of the single operation, edge after edge along the first dimension, and its
        submodules have the single operation's names.
        """
