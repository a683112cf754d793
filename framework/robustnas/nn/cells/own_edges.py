"""The mixed operations of edges that have candidates of their own each: each edge has its modules, none is shared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from robustnas.errors import InputError
from robustnas.nn.cells.columns import Columns, columns_of, summed
from robustnas.nn.cells.op_table import OpTable


class OwnEdges(nn.Module):
    """All edges that leave one state, as `LeavingEdges`; what the columns of alpha mean is each edge's own matter.

    Args:
        tables: the candidates of each edge.
        channels: channels of the state and of every output.
        stride: 1, or 2 to halve rows and columns.

    Raises:
        InputError: an edge has no candidate that computes anything.
    """

    def __init__(self, tables: Sequence[OpTable], channels: int, stride: int):
        super().__init__()
        self.names = [tuple(table) for table in tables]
        built = [{name: make(channels, stride) for name, make in table.items()} for table in tables]
        self.ops = nn.ModuleList(
            nn.ModuleDict({name: op for name, op in ops.items() if op is not None}) for ops in built
        )
        if not all(len(ops) for ops in self.children_of_edges()):
            raise InputError("all operations of an edge output zero; add one that computes")

    def children_of_edges(self) -> list[nn.ModuleDict]:
        """The modules of each edge by the names of their operations."""
        found = list(self.ops)
        assert all(isinstance(ops, nn.ModuleDict) for ops in found)
        return found  # type: ignore[return-value]

    def forward(self, state: Tensor, weights: Tensor) -> list[Tensor]:
        """state (N, C, H, W), weights (edges, O) -> what each edge adds to the node it enters."""
        return [
            reduce(add, [shares[names.index(name)] * op(state) for name, op in ops.items()])
            for names, ops, shares in zip(self.names, self.children_of_edges(), weights, strict=True)
        ]

    def added(self, state: Tensor, weights: Tensor | Columns, rows: Sequence[int]) -> Sequence[Tensor | None]:
        """What each edge adds to the node it enters, given the weights of all edges of a cell, (E, O), or the columns.

        Args:
            rows: the places of these edges among all.
        """
        if isinstance(weights, Tensor):
            return self(state, torch.stack([weights[row] for row in rows]))  # type: ignore[no-any-return]
        chosen = (
            [names[column] for column in columns_of(weights[row])] for names, row in zip(self.names, rows, strict=True)
        )
        return [
            summed(ops[name](state) for name in kept if name in ops)
            for kept, ops in zip(chosen, self.children_of_edges(), strict=True)
        ]
