"""A cell of a supernet, computed state by state: what all edges that leave a state share is done once.

Equal to `SearchCell`, edge by edge, in outputs, gradients and batch norm statistics; `per_edge` gives its
tensors by the names they have there.  How an operation is computed follows from its entry in the table:

    has `for_edges`      one module for all edges of a state (grouped convolutions)
    has no parameters    once for all edges: its output depends on the state alone (no random draws)
    anything else        a module for every edge
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.cells.graph import edge_index
from robustnas.cells.layers import preprocessing
from robustnas.cells.mixed_op import OpTable, nothing_computes, total


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
        for name, make in table.items():
            if isinstance(make, ForEdges):
                self.grouped[name] = make.for_edges(channels, stride, edges)
                continue
            built = [op for op in (make(channels, stride) for _ in range(edges)) if op is not None]
            if any(True for op in built for _ in op.parameters()):
                self.single[name] = nn.ModuleList(built)
            elif built:
                self.common[name] = built[0]
        if not (self.grouped or self.common or self.single):
            raise nothing_computes(table)

    def forward(self, state: Tensor, weights: Tensor) -> list[Tensor]:
        """state (N, C, H, W), weights (edges, O) -> what each edge adds to the node it enters."""
        terms: list[list[Tensor]] = [[] for _ in range(self.edges)]
        if self.grouped:
            for edge, part in enumerate(torch.split(self._grouped(state, weights), self.channels, dim=1)):
                terms[edge].append(part)
        for name, op in self.common.items():
            output = op(state)
            for edge, share in enumerate(weights[:, self.columns[name]].unbind()):
                terms[edge].append(share * output)
        for name, ops in self.single.items():
            shares = weights[:, self.columns[name]].unbind()
            for edge, (op, share) in enumerate(zip(ops.children(), shares, strict=True)):
                terms[edge].append(share * op(state))
        return [total(edge) for edge in terms]

    def _grouped(self, state: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the grouped operations, (N, edges * C, H', W')."""
        repeated = torch.cat([F.relu(state)] * self.edges, dim=1)
        outputs = []
        for name, op in self.grouped.items():
            share = weights[:, self.columns[name]].repeat_interleave(self.channels)
            outputs.append(share.view(1, -1, 1, 1) * op(repeated))
        return total(outputs)

    def per_edge(self, edge: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This module's tensors (or gradients) by name -> those of one edge, as `MixedOp` names them."""
        found = {}
        for name, tensor in tensors.items():
            kind, op, *rest = name.split(".")
            if kind == "single" and rest.pop(0) != str(edge):
                continue
            if kind == "grouped" and tensor.dim():
                tensor = tensor.chunk(self.edges)[edge]
            found[".".join(["candidates", op, *rest])] = tensor
        return found


class SharedCell(nn.Module):
    """Two inputs, `nodes` nodes, a mixed operation on every edge; takes and gives what `SearchCell` does."""

    def __init__(
        self,
        table: OpTable,
        in_channels: Sequence[int],
        channels: int,
        nodes: int = 4,
        reduction: bool = False,
        halve_first: bool = False,
    ):
        super().__init__()
        self.nodes = nodes
        self.preprocess0 = preprocessing(in_channels[0], channels, halve_first, affine=False)
        self.preprocess1 = preprocessing(in_channels[1], channels, False, affine=False)
        self.targets = [range(max(2, source + 1), nodes + 2) for source in range(nodes + 1)]
        self.leaving = nn.ModuleList(
            LeavingEdges(table, channels, 2 if reduction and source < 2 else 1, len(targets))
            for source, targets in enumerate(self.targets)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Outputs of the two cells before, weights (E, O) -> (N, nodes * channels, H', W')."""
        inputs = [self.preprocess0(first), self.preprocess1(second)]
        terms: list[list[Tensor]] = [[] for _ in range(self.nodes)]
        nodes: list[Tensor] = []
        for source, (leaving, targets) in enumerate(zip(self.leaving, self.targets, strict=True)):
            if source >= 2:
                nodes.append(total(terms[source - 2]))
            rows = torch.stack([weights[edge_index(source, target)] for target in targets])
            for target, term in zip(targets, leaving((inputs + nodes)[source], rows), strict=True):
                terms[target - 2].append(term)
        nodes.append(total(terms[-1]))
        return torch.cat(nodes, dim=1)

    def per_edge(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This cell's tensors (or gradients) by name -> by the names they have in `SearchCell`, views."""
        found = {name: tensor for name, tensor in tensors.items() if not name.startswith("leaving.")}
        for source, targets in enumerate(self.targets):
            prefix = f"leaving.{source}."
            own = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
            leaving = self.leaving[source]
            assert isinstance(leaving, LeavingEdges)
            for position, target in enumerate(targets):
                edge = f"edges.{edge_index(source, target)}."
                parts = leaving.per_edge(position, own)
                found.update({edge + name: tensor for name, tensor in parts.items()})
        return found
