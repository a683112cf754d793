"""Supernets of cells of mixed operations: a stem, the cells, global pooling, a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.nn.cells import Columns, OpTable, SharedCell, SinglePath, edges
from robustnas_plugins.search_spaces import alpha
from robustnas_plugins.search_spaces.places import places
from robustnas_plugins.search_spaces.stems import CifarStem

KINDS = ("normal", "reduce")


class CellSupernet(nn.Module):
    """Cells with every candidate on every edge, placed as DARTS's are; which weights mix in which is the subclass's.

    Args:
        table: the candidate operations of normal cells, or those of each edge.
        reduce_table: the same of reduction cells.
        shapes: the tables of alpha, (E, O) by name.
        in_channels: channels of an image.
        classes: number of classes.
        cells: number of cells.
        channels: channels of the first cell's nodes; a reduction cell doubles them.
        nodes: nodes of a cell.
        partial: the operations act on one in so many channels (`robustnas.nn.cells.partial_channels`).

    Raises:
        InputError: `partial` does not divide the channels.
    """

    alpha: Mapping[str, nn.Parameter]

    def __init__(
        self,
        table: OpTable | Sequence[OpTable],
        reduce_table: OpTable | Sequence[OpTable],
        shapes: Mapping[str, tuple[int, int]],
        in_channels: int,
        classes: int,
        cells: int,
        channels: int,
        nodes: int = 4,
        partial: int = 1,
    ):
        super().__init__()
        self.in_channels, self.classes, self.channels, self.nodes = in_channels, classes, channels, nodes
        self.partial = partial
        self.stem = CifarStem(in_channels, channels)
        self.places = places(self.stem, cells, channels, lambda reduction: nodes)
        self.cells = nn.ModuleList(
            SharedCell(
                reduce_table if place.reduction else table,
                place.in_channels,
                place.channels,
                nodes,
                reduction=place.reduction,
                halve_first=place.halve_first,
                partial=partial,
            )
            for place in self.places
        )
        self.classifier = last_layer = nn.Linear(self.places[-1].out_channels, classes)
        self.alpha = alpha.started(shapes, last_layer.weight.device)

    def mixing(self) -> dict[str, Tensor]:
        """softmax of the rows of every table of alpha; rows sum to 1."""
        return alpha.mixed(self.alpha)

    def logits(self, images: Tensor, mixed: Callable[[int], tuple[Tensor | Columns, Tensor | None]]) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.

        Args:
            mixed: number of a cell -> the weights of its operations and of its edges, as `SharedCell` takes them.
        """
        first, second = self.stem(images)
        for index, layer in enumerate(self.cells):
            first, second = second, layer(first, second, *mixed(index))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(second, 1).flatten(1))
        return logits


class DartsSupernet(CellSupernet):
    """All normal cells share an alpha, all reduction cells another.

    Keeps `robustnas.contracts.Supernet`.  The tables of alpha are `normal` and `reduce`, (E, O) each, a row an
    edge; with edge weights beta also `normal_beta_0` to `reduce_beta_3` for four nodes, (1, edges that enter the
    node) each.

    Args:
        table: the candidate operations; of each edge of a normal cell, where `reduce_table` has those of a reduction
            cell.
        beta: whether the edges that enter a node are weighted by a softmax of their own (PC-DARTS).
    """

    def __init__(
        self,
        table: OpTable | Sequence[OpTable],
        in_channels: int,
        classes: int,
        cells: int,
        channels: int,
        nodes: int = 4,
        partial: int = 1,
        beta: bool = False,
        reduce_table: OpTable | Sequence[OpTable] | None = None,
    ):
        columns = len(table) if isinstance(table, Mapping) else len(table[0])
        shapes = {kind: (len(edges(nodes)), columns) for kind in KINDS}
        if beta:
            shapes |= {name: (1, node + 2) for kind in KINDS for node, name in enumerate(beta_names(kind, nodes))}
        reduce_table = table if reduce_table is None else reduce_table
        super().__init__(table, reduce_table, shapes, in_channels, classes, cells, channels, nodes, partial)
        self.beta = beta

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.  With `mixing`, these weights stand in for softmax(alpha)."""
        weights = self.mixing() if mixing is None else mixing
        entering = {kind: edge_weights(weights, kind, self.nodes) if self.beta else None for kind in KINDS}
        choices = weights.columns if isinstance(weights, SinglePath) and not self.beta else weights
        kinds = [KINDS[place.reduction] for place in self.places]
        return self.logits(images, lambda index: (choices[kinds[index]], entering[kinds[index]]))


def beta_names(kind: str, nodes: int) -> list[str]:
    """The tables of beta of the `normal` or the `reduce` cell, node by node."""
    return [f"{kind}_beta_{node}" for node in range(nodes)]


def edge_weights(mixing: Mapping[str, Tensor], kind: str, nodes: int) -> Tensor:
    """The weights of all edges of a cell, (E,), from the tables of beta among the mixing weights."""
    # edges are numbered node by node
    return torch.cat([mixing[name][0] for name in beta_names(kind, nodes)])
