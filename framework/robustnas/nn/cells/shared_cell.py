"""A cell of a supernet, computed state by state: what all edges that leave a state share is done once.

Outputs, gradients and batch norm statistics are those of a cell with a module of its own for every edge.  How an
operation is computed follows from its entry in the table:

    has `for_edges`      one module for all edges of a state (grouped convolutions); those that are stacks of
                         depthwise-separable layers are one module together (`separable_ops`)
    has no parameters    once for all edges: its output depends on the state alone (no random draws)
    anything else        a module for every edge

With partial channels, the channels that pass by the operations are the same for all edges that leave a state:
they are pooled once, and joined and shuffled once a node, after its edges are added (both are linear).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import has_torch_function

from robustnas.errors import InputError
from robustnas.nn.cells.columns import Columns, columns_of, summed
from robustnas.nn.cells.graph import edge_index
from robustnas.nn.cells.layers import preprocessing
from robustnas.nn.cells.op_table import ForEdges, OpTable
from robustnas.nn.cells.own_edges import OwnEdges
from robustnas.nn.cells.partial_channels import acting, parted, passed_by, shuffled
from robustnas.nn.cells.separable_ops import SeparableOps, Stack


class LeavingEdges(nn.Module):
    """The mixed operations of all edges that leave one state.

    Args:
        table: the candidates.
        channels: channels of the state and of every output.
        stride: 1, or 2 to halve rows and columns.
        edges: number of edges.

    Raises:
        InputError: no candidate computes anything.
    """

    def __init__(self, table: OpTable, channels: int, stride: int, edges: int):
        super().__init__()
        self.channels, self.edges = channels, edges
        self.columns = {name: column for column, name in enumerate(table)}
        self.grouped, self.common, self.single = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        stacks: dict[str, Stack] = {}
        for name, make in table.items():
            if isinstance(make, ForEdges):
                op = make.for_edges(channels, stride, edges)
                stack = Stack.of(op)
                if stack is not None and all(stack.joins(other) for other in stacks.values()):
                    stacks[name] = stack
                else:
                    self.grouped[name] = op
                continue
            built = [op for op in (make(channels, stride) for _ in range(edges)) if op is not None]
            if any(True for op in built for _ in op.parameters()):
                self.single[name] = nn.ModuleList(built)
            elif built:
                self.common[name] = built[0]
        self.separable = SeparableOps(stacks, edges) if stacks else None
        if not (self.grouped or self.common or self.single or self.separable):
            names = ", ".join(table) or "(none given)"
            raise InputError(f"the operations {names} all output zero; add one that computes")

    def forward(self, state: Tensor, weights: Tensor) -> list[Tensor]:
        """state (N, C, H, W), weights (edges, O) -> what each edge adds to the node it enters."""
        terms: list[list[Tensor]] = [[] for _ in range(self.edges)]
        of_all_edges = self._of_all_edges(state, weights)
        if of_all_edges:
            for edge, part in enumerate(reduce(add, of_all_edges).chunk(self.edges, dim=1)):
                terms[edge].append(part)
        if self.common:
            shares = weights[:, [self.columns[name] for name in self.common]]
            for edge, part in enumerate(_mixtures(shares, [op(state) for op in self.common.values()])):
                terms[edge].append(part)
        for name, ops in self.single.items():
            column = weights[:, self.columns[name]].unbind()
            for edge, (op, share) in enumerate(zip(ops.children(), column, strict=True)):
                terms[edge].append(share * op(state))
        return [reduce(add, edge) for edge in terms]

    def added(self, state: Tensor, weights: Tensor | Columns, rows: Sequence[int]) -> Sequence[Tensor | None]:
        """What each edge adds to the node it enters, given the weights of all edges of a cell, (E, O).

        Or given, for weights of zeros and ones, the columns of the ones: then each edge's operations are computed
        alone; None where they output zero.

        Args:
            rows: the places of these edges among all.
        """
        if isinstance(weights, Tensor):
            return self(state, torch.stack([weights[row] for row in rows]))  # type: ignore[no-any-return]
        names = list(self.columns)
        return [
            summed(self._alone(state, names[column], edge) for column in columns_of(weights[row]))
            for edge, row in enumerate(rows)
        ]

    def _alone(self, state: Tensor, name: str, edge: int) -> Tensor | None:
        """One operation on one edge."""
        if self.separable is not None and name in self.separable.names:
            return self.separable.alone(state, name, edge)
        if name in self.grouped:
            outputs: Tensor = self.grouped[name](torch.cat([F.relu(state)] * self.edges, dim=1))
            return outputs.chunk(self.edges, dim=1)[edge]
        if name in self.common or name in self.single:
            op = self.common[name] if name in self.common else [*self.single[name].children()][edge]
            output: Tensor = op(state)
            return output
        return None

    def _of_all_edges(self, state: Tensor, weights: Tensor) -> list[Tensor]:
        """The terms that are computed for all edges at once, (N, edges * C, H', W') each."""
        shares = {name: weights[:, column] for name, column in self.columns.items()}
        terms = [] if self.separable is None else [self.separable(state, shares)]
        if self.grouped:
            repeated = torch.cat([F.relu(state)] * self.edges, dim=1)
            for name, op in self.grouped.items():
                share = shares[name].repeat_interleave(self.channels)
                terms.append(share.view(1, -1, 1, 1) * op(repeated))
        return terms


def _mixtures(shares: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """sum_k shares[e, k] * outputs[k] for every e: shares (E, K), K tensors of one shape -> E of that shape."""
    if has_torch_function(tuple(outputs)):
        # bounded values: each torch function costs them several passes, and one of many entries less than many
        return torch.einsum("ek,nkchw->nechw", shares, torch.stack(list(outputs), dim=1)).unbind(dim=1)
    return [reduce(add, [share * output for share, output in zip(row, outputs, strict=True)]) for row in shares]


class SharedCell(nn.Module):
    """Two inputs, `nodes` nodes, a mixed operation on every edge; the output joins all nodes.

    Args:
        table: the candidate operations of every edge, or for every edge those of its own (as many, in columns alike).
        in_channels: channels of the two inputs.
        channels: channels of a node; the output has nodes * channels.
        nodes: number of nodes.
        reduction: the edges that leave the inputs have stride 2.
        halve_first: the first input has twice the rows and columns of the second (the cell before was a reduction).
        partial: the operations act on one in so many channels (see `partial_channels`); 1 for all.

    Raises:
        InputError: no operation computes anything, or `partial` does not divide the channels.
    """

    def __init__(
        self,
        table: OpTable | Sequence[OpTable],
        in_channels: Sequence[int],
        channels: int,
        nodes: int = 4,
        *,
        reduction: bool = False,
        halve_first: bool = False,
        partial: int = 1,
    ):
        super().__init__()
        self.nodes, self.partial = nodes, partial
        self.preprocess0 = preprocessing(in_channels[0], channels, halve=halve_first, affine=False)
        self.preprocess1 = preprocessing(in_channels[1], channels, halve=False, affine=False)
        self.targets = [range(max(2, source + 1), nodes + 2) for source in range(nodes + 1)]
        self.strides = [2 if reduction and source < 2 else 1 for source in range(nodes + 1)]
        inner = acting(channels, partial)
        self.leaving = nn.ModuleList(
            LeavingEdges(table, inner, stride, len(targets))
            if isinstance(table, Mapping)
            else OwnEdges([table[edge_index(source, target)] for target in targets], inner, stride)
            for source, (stride, targets) in enumerate(zip(self.strides, self.targets, strict=True))
        )

    def forward(
        self, first: Tensor, second: Tensor, weights: Tensor | Columns, edge_weights: Tensor | None = None
    ) -> Tensor:
        """Outputs of the two cells before, weights (E, O) -> (N, nodes * channels, H', W').

        Where weights are zeros and ones the columns of the ones will do, of E edges: then nothing else is computed.
        Each edge's output is multiplied by its entry of `edge_weights` (E,), if they are given beside weights.
        """
        if edge_weights is not None:
            assert isinstance(weights, Tensor)
            weights = weights * edge_weights.unsqueeze(1)
        inputs = [self.preprocess0(first), self.preprocess1(second)]
        acted = inputs[0]
        terms: list[list[Tensor]] = [[] for _ in range(self.nodes)]
        passing: list[Tensor] = []
        nodes: list[Tensor] = []
        for source, (leaving, targets) in enumerate(zip(self.leaving, self.targets, strict=True)):
            if source >= 2:
                nodes.append(self._node(source, terms[source - 2] or [self._zero(acted)], passing, edge_weights))
            state = (inputs + nodes)[source]
            if self.partial > 1:
                state, others = parted(state, self.partial)
                passing.append(passed_by(others, self.strides[source]))
            acted = state if source == 0 else acted
            assert isinstance(leaving, (LeavingEdges, OwnEdges))
            added = leaving.added(state, weights, [edge_index(source, target) for target in targets])
            for target, term in zip(targets, added, strict=True):
                if term is not None:
                    terms[target - 2].append(term)
        nodes.append(self._node(self.nodes + 1, terms[-1] or [self._zero(acted)], passing, edge_weights))
        return torch.cat(nodes, dim=1)

    def _zero(self, state: Tensor) -> Tensor:
        """What edges add to a node together if none of them adds anything; of the cell's first state."""
        stride = self.strides[0]
        return state[:, :, ::stride, ::stride] * 0.0

    def _node(
        self, node: int, terms: Sequence[Tensor], passing: Sequence[Tensor], edge_weights: Tensor | None
    ) -> Tensor:
        """The state that edges enter: what their operations add, and what passes by those."""
        mixed = reduce(add, terms)
        if self.partial == 1:
            return mixed
        if edge_weights is not None:
            edges = edge_weights[edge_index(0, node) : edge_index(0, node + 1)].unbind()
            passing = [share * others for share, others in zip(edges, passing, strict=True)]
        return shuffled([mixed, *reduce(add, passing).chunk(self.partial - 1, dim=1)])
