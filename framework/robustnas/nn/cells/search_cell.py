"""A cell of a supernet, computed edge by edge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustnas.nn.cells.graph import edges
from robustnas.nn.cells.layers import preprocessing
from robustnas.nn.cells.mixed_op import MixedOp, OpTable


class SearchCell(nn.Module):
    """Two inputs, `nodes` nodes, a mixed operation on every edge; the output joins all nodes.

    Args:
        table: the candidate operations of every edge.
        in_channels: channels of the two inputs.
        channels: channels of a node; the output has nodes * channels.
        nodes: number of nodes.
        reduction: the edges that leave the inputs have stride 2.
        halve_first: the first input has twice the rows and columns of the second (the cell before was a
        reduction).
        partial: the operations act on one in so many channels (see `partial_channels`); 1 for all.

    Raises:
        InputError: no operation computes anything, or `partial` does not divide the channels.
    """

    def __init__(
        self,
        table: OpTable,
        in_channels: Sequence[int],
        channels: int,
        nodes: int = 4,
        reduction: bool = False,
        halve_first: bool = False,
        partial: int = 1,
    ):
        super().__init__()
        self.nodes = nodes
        self.preprocess0 = preprocessing(in_channels[0], channels, halve_first, affine=False)
        self.preprocess1 = preprocessing(in_channels[1], channels, False, affine=False)
        self.edges = nn.ModuleList(
            MixedOp(table, channels, 2 if reduction and source < 2 else 1, partial) for source, _ in edges(nodes)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor, edge_weights: Tensor | None = None) -> Tensor:
        """Outputs of the two cells before, weights (E, O) -> (N, nodes * channels, H', W').

        Each edge's output is multiplied by its entry of `edge_weights` (E,), if they are given.
        """
        states = [self.preprocess0(first), self.preprocess1(second)]
        rows = iter(zip(self.edges, weights.unbind(), strict=True))
        factors = None if edge_weights is None else iter(edge_weights.unbind())
        for _ in range(self.nodes):
            total: Tensor | None = None
            for state in tuple(states):
                edge, row = next(rows)
                term = edge(state, row) if factors is None else next(factors) * edge(state, row)
                total = term if total is None else total + term
            states.append(total)
        return torch.cat(states[2:], dim=1)
