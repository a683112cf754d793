"""The textbook's cell, edge by edge: the oracle of `SharedCell`, whose tensors have names there, too."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from robustnas.nn.cells import FactorizedReduce, OpTable, SharedCell, edge_index, edges, preprocessing
from robustnas.nn.cells.partial_channels import acting, parted, passed_by
from robustnas.nn.cells.separable_ops import SeparableOps
from robustnas.nn.cells.shared_cell import LeavingEdges
from robustnas_plugins.search_spaces.supernet import DartsSupernet


class MixedOp(nn.Module):
    """sum_o weights[o] * op_o(x) over the candidates of a table; those that are zero are left out."""

    def __init__(self, table: OpTable, channels: int, stride: int, partial: int = 1):
        super().__init__()
        self.stride, self.partial = stride, partial
        built = {name: make(acting(channels, partial), stride) for name, make in table.items()}
        self.candidates = nn.ModuleDict({name: op for name, op in built.items() if op is not None})
        self.columns = tuple(column for column, name in enumerate(table) if name in self.candidates)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (N, C, H, W), weights (O,) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        acted, others = (x, None) if self.partial == 1 else parted(x, self.partial)
        mixed = sum(
            weights[column] * op(acted) for column, op in zip(self.columns, self.candidates.values(), strict=True)
        )
        if others is None:
            return mixed
        joined = torch.cat([mixed, passed_by(others, self.stride)], dim=1)
        groups = joined.reshape(joined.shape[0], self.partial, -1, *joined.shape[2:])
        return groups.transpose(1, 2).flatten(1, 2)


class SearchCell(nn.Module):
    """A cell of a supernet with a module of its own for every edge; takes and gives what `SharedCell` does."""

    def __init__(
        self,
        table: OpTable,
        in_channels: Sequence[int],
        channels: int,
        nodes: int = 4,
        *,
        reduction: bool = False,
        halve_first: bool = False,
        partial: int = 1,
    ):
        super().__init__()
        self.nodes = nodes
        self.preprocess0 = preprocessing(in_channels[0], channels, halve=halve_first, affine=False)
        self.preprocess1 = preprocessing(in_channels[1], channels, halve=False, affine=False)
        self.edges = nn.ModuleList(
            MixedOp(table, channels, 2 if reduction and source < 2 else 1, partial) for source, _ in edges(nodes)
        )

    def forward(self, first: Tensor, second: Tensor, weights: Tensor, edge_weights: Tensor | None = None) -> Tensor:
        """Outputs of the two cells before, weights (E, O), edge weights (E,) -> (N, nodes * channels, H', W')."""
        factors = torch.ones_like(weights[:, 0]) if edge_weights is None else edge_weights
        rows = zip(self.edges, factors, weights, strict=True)
        states = [self.preprocess0(first), self.preprocess1(second)]
        for _ in range(self.nodes):
            terms = [(state, *next(rows)) for state in states]
            states.append(sum(factor * edge(state, row) for state, edge, factor, row in terms))
        return torch.cat(states[2:], dim=1)


def search_cell(shared: SharedCell, table: OpTable) -> SearchCell:
    """The textbook's cell with the tensors of a shared cell, in its mode."""
    first, second = (
        layer.even if isinstance(layer, FactorizedReduce) else layer.conv
        for layer in (shared.preprocess0, shared.preprocess1)
    )
    cell = SearchCell(
        table,
        (first.in_channels, second.in_channels),
        second.out_channels,
        shared.nodes,
        reduction=shared.strides[0] == 2,
        halve_first=isinstance(shared.preprocess0, FactorizedReduce),
        partial=shared.partial,
    ).to(second.weight)
    cell.load_state_dict(per_edge(shared, shared.state_dict()))
    return cell.train(shared.training)


def textbook(supernet: DartsSupernet, table: OpTable) -> DartsSupernet:
    """A copy of a supernet whose cells go edge by edge."""
    naive = copy.deepcopy(supernet)
    naive.cells = nn.ModuleList(search_cell(cell, table) for cell in supernet.cells)
    return naive


def per_edge(network: DartsSupernet | SharedCell, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors (or gradients) of a supernet or a shared cell by name -> by their names edge by edge, as views."""
    cells = {"": network} if isinstance(network, SharedCell) else dict(network.cells._modules)
    found = {}
    for name, tensor in tensors.items():
        prefix, own = ("", name)
        if not isinstance(network, SharedCell) and name.startswith("cells."):
            _, index, own = name.split(".", 2)
            prefix = f"cells.{index}."
        if not own.startswith("leaving."):
            found[name] = tensor
            continue
        _, source, own = own.split(".", 2)
        cell = cells[prefix.removeprefix("cells.").removesuffix(".")]
        for edge, target in enumerate(cell.targets[int(source)]):
            for candidate, part in _of_edge(cell.leaving[int(source)], edge, own, tensor):
                found[f"{prefix}edges.{edge_index(int(source), target)}.candidates.{candidate}"] = part
    return found


def _of_edge(leaving: LeavingEdges, edge: int, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What one tensor of all edges that leave a state holds of one of them, by candidate."""
    kind, op, *rest = name.split(".")
    if kind == "separable":
        yield from _of_stack(leaving.separable, edge, [op, *rest], tensor)
    elif kind != "single" or rest.pop(0) == str(edge):
        own = tensor.chunk(leaving.edges)[edge] if kind == "grouped" and tensor.dim() else tensor
        yield ".".join([op, *rest]), own


def _of_stack(ops: SeparableOps, edge: int, name: Sequence[str], tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same for the stages of depthwise-separable operations, whose channels are (operation, edge, channel)."""
    _, depth, part, *rest = name
    owners = ops.reaching[int(depth)]
    if part == "depthwise":
        owners = [owners[int(rest[0])]]
    rest = rest if part == "norm" else ["weight"]
    for index, owner in enumerate(owners):
        own = tensor.chunk(len(owners))[index].chunk(ops.edges)[edge] if tensor.dim() else tensor
        yield ".".join([owner, *([depth] if owner in ops.nested else []), part, *rest]), own


def assert_same(shared: DartsSupernet | SharedCell, naive: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Both give the same outputs, gradients and statistics, to rounding in float64; returns the gradients by name."""
    outputs, slopes = [], []
    for network in (shared, naive):
        outputs.append(network(*inputs))
        mask = torch.linspace(-1, 1, outputs[0].numel(), dtype=torch.float64).view(outputs[0].shape)
        (outputs[-1] * mask).sum().backward()
        slopes.append([x.grad for x in inputs if x.requires_grad])
        for x in inputs:
            x.grad = None
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-11)
    gradients = per_edge(shared, {name: parameter.grad for name, parameter in shared.named_parameters()})
    expected = {name: parameter.grad for name, parameter in naive.named_parameters()}
    assert gradients
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(per_edge(shared, shared.state_dict()), dict(naive.state_dict()), rtol=0, atol=1e-12)
    return gradients
