"""A cell of a supernet, computed state by state: what all edges that leave a state share is done once.

Equal to `SearchCell`, edge by edge, in outputs, gradients and batch norm statistics; `per_edge` gives its
tensors by the names they have there.  How an operation is computed follows from its entry in the table:

    has `for_edges`      one module for all edges of a state (grouped convolutions); those that are stacks of
                         depthwise-separable layers are one module together (`separable_ops`)
    has no parameters    once for all edges: its output depends on the state alone (no random draws)
    anything else        a module for every edge

With partial channels, the channels that pass by the operations are the same for all edges that leave a state:
they are pooled once, and joined and shuffled once a node, after its edges are added (both are linear).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import has_torch_function

from robustnas.nn.cells.graph import edge_index
from robustnas.nn.cells.layers import preprocessing
from robustnas.nn.cells.mixed_op import OpTable, nothing_computes, total
from robustnas.nn.cells.partial_channels import acting, parted, passed_by, shuffled
from robustnas.nn.cells.separable_ops import SeparableOps, Stack
from robustnas.nn.fast.separable_stage import by_hand


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
            raise nothing_computes(table)

    def forward(self, state: Tensor, weights: Tensor) -> list[Tensor]:
        """state (N, C, H, W), weights (edges, O) -> what each edge adds to the node it enters."""
        terms: list[list[Tensor]] = [[] for _ in range(self.edges)]
        joined = self._joined(state, weights)
        if joined:
            for edge, own in enumerate(total(joined).chunk(self.edges, dim=1)):
                terms[edge].append(own)
        if self.common:
            several = weights[:, [self.columns[name] for name in self.common]]
            for edge, part in enumerate(mixtures(several, [op(state) for op in self.common.values()])):
                terms[edge].append(part)
        for name, ops in self.single.items():
            shares = weights[:, self.columns[name]].unbind()
            for edge, (op, share) in enumerate(zip(ops.children(), shares, strict=True)):
                terms[edge].append(share * op(state))
        return [total(edge) for edge in terms]

    def _joined(self, state: Tensor, weights: Tensor) -> list[Tensor]:
        """The terms that are computed for all edges at once, (N, edges * C, H', W') each."""
        shares = {name: weights[:, column] for name, column in self.columns.items()}
        joined = [] if self.separable is None else [self.separable(state, shares)]
        if self.grouped:
            repeated = torch.cat([F.relu(state)] * self.edges, dim=1)
            for name, op in self.grouped.items():
                share = shares[name].repeat_interleave(self.channels)
                joined.append(share.view(1, -1, 1, 1) * op(repeated))
        return joined

    def per_edge(self, edge: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This module's tensors (or gradients) by name -> those of one edge, as `MixedOp` names them."""
        found = {}
        for name, tensor in tensors.items():
            kind, op, *rest = name.split(".")
            if kind == "separable" or (kind == "single" and rest.pop(0) != str(edge)):
                continue
            if kind == "grouped" and tensor.dim():
                tensor = tensor.chunk(self.edges)[edge]
            found[".".join([op, *rest])] = tensor
        if self.separable is not None:
            found.update(self.separable.per_edge(edge, _below("separable.", tensors)))
        return {f"candidates.{name}": tensor for name, tensor in found.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}


def mixtures(shares: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """sum_k shares[e, k] * outputs[k] for every e: shares (E, K), K tensors of one shape -> E of that shape."""
    if has_torch_function(tuple(outputs)):  # bounded values: few functions of several entries, for what each costs
        return list(torch.einsum("ek,nkchw->nechw", shares, torch.stack(list(outputs), dim=1)).unbind(dim=1))
    if not by_hand(shares, *outputs):
        return [total([share * one for share, one in zip(row.unbind(), outputs, strict=True)]) for row in shares]
    # one product over all entries; in the order they have in channels-last memory
    stacked = torch.stack([one.permute(0, 2, 3, 1) for one in outputs])
    mixed = (shares @ stacked.flatten(1)).unflatten(1, stacked.shape[1:])
    return [one.permute(0, 3, 1, 2) for one in mixed.unbind()]


class SharedCell(nn.Module):
    """Two inputs, `nodes` nodes, a mixed operation on every edge; takes and gives what `SearchCell` does.

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
        self.nodes, self.partial = nodes, partial
        self.preprocess0 = preprocessing(in_channels[0], channels, halve_first, affine=False)
        self.preprocess1 = preprocessing(in_channels[1], channels, False, affine=False)
        self.targets = [range(max(2, source + 1), nodes + 2) for source in range(nodes + 1)]
        self.strides = [2 if reduction and source < 2 else 1 for source in range(nodes + 1)]
        self.leaving = nn.ModuleList(
            LeavingEdges(table, acting(channels, partial), stride, len(targets))
            for stride, targets in zip(self.strides, self.targets, strict=True)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor, edge_weights: Tensor | None = None) -> Tensor:
        """Outputs of the two cells before, weights (E, O) -> (N, nodes * channels, H', W').

        Each edge's output is multiplied by its entry of `edge_weights` (E,), if they are given.
        """
        if edge_weights is not None:
            weights = weights * edge_weights.unsqueeze(1)
        inputs = [self.preprocess0(first), self.preprocess1(second)]
        terms: list[list[Tensor]] = [[] for _ in range(self.nodes)]
        passing: list[Tensor] = []
        nodes: list[Tensor] = []
        for source, (leaving, targets) in enumerate(zip(self.leaving, self.targets, strict=True)):
            if source >= 2:
                nodes.append(self._node(source, terms[source - 2], passing, edge_weights))
            state = (inputs + nodes)[source]
            if self.partial > 1:
                state, others = parted(state, self.partial)
                passing.append(passed_by(others, self.strides[source]))
            rows = torch.stack([weights[edge_index(source, target)] for target in targets])
            for target, term in zip(targets, leaving(state, rows), strict=True):
                terms[target - 2].append(term)
        nodes.append(self._node(self.nodes + 1, terms[-1], passing, edge_weights))
        return torch.cat(nodes, dim=1)

    def _node(
        self, node: int, terms: Sequence[Tensor], passing: Sequence[Tensor], edge_weights: Tensor | None
    ) -> Tensor:
        """The state that edges enter: what their operations add, and what passes by those."""
        mixed = total(terms)
        if self.partial == 1:
            return mixed
        if edge_weights is not None:
            edges = edge_weights[edge_index(0, node) : edge_index(0, node + 1)].unbind()
            passing = [share * others for share, others in zip(edges, passing, strict=True)]
        return shuffled([mixed, *total(passing).chunk(self.partial - 1, dim=1)])

    def per_edge(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This cell's tensors (or gradients) by name -> by the names they have in `SearchCell`, views."""
        found = {name: tensor for name, tensor in tensors.items() if not name.startswith("leaving.")}
        for source, targets in enumerate(self.targets):
            prefix = f"leaving.{source}."
            own = _below(prefix, tensors)
            leaving = self.leaving[source]
            assert isinstance(leaving, LeavingEdges)
            for position, target in enumerate(targets):
                edge = f"edges.{edge_index(source, target)}."
                parts = leaving.per_edge(position, own)
                found.update({edge + name: tensor for name, tensor in parts.items()})
        return found
