"""The networks of NAS-Bench-201: a stem, three stages of cells with residual blocks between them, a linear layer.

    convolution 3x3, norm -> cells -> block -> cells -> block -> cells -> norm, ReLU, global pooling, linear

A block halves rows and columns (an odd number upwards) and doubles the channels.  A cell has an input, node 0, and
nodes 1 to 3, each with an edge from every node before it; a node is the sum of its edges, node 3 the cell's output.

Source: Dong and Yang 2020, arXiv:2001.00326, sec. 2.1 and fig. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from operator import add

import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.nn.cells import LeavingEdges, OpTable, ReluConvNorm, SinglePath
from robustnas_plugins.search_spaces import alpha
from robustnas_plugins.search_spaces.ops import avg_pool

NODES = 4
EDGES = tuple((source, node) for node in range(1, NODES) for source in range(node))
"""Every edge of a cell, as (node it leaves, node it enters), in the order of alpha's rows."""

STAGES = 3


def table(affine: bool) -> OpTable:
    """The five operations, in the order of alpha's columns.

    Args:
        affine: whether batch norm has a scale and a shift: in a discrete network, not in a supernet.
    """
    return {
        "none": lambda channels, stride: None,
        "skip_connect": lambda channels, stride: nn.Identity(),
        "nor_conv_1x1": lambda channels, stride: ReluConvNorm(channels, channels, 1, stride, affine=affine),
        "nor_conv_3x3": lambda channels, stride: ReluConvNorm(channels, channels, 3, stride, affine=affine),
        "avg_pool_3x3": lambda channels, stride: avg_pool(stride),
    }


SEARCH, DISCRETE = table(affine=False), table(affine=True)


class MixedCell(nn.Module):
    """A cell with every operation on every edge: (N, C, H, W) and weights (6, 5) -> (N, C, H, W).

    Where weights are one-hot the columns of the ones will do: then nothing else is computed.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.leaving = nn.ModuleList(
            LeavingEdges(SEARCH, channels, 1, NODES - 1 - source) for source in range(NODES - 1)
        )

    def forward(self, x: Tensor, weights: Tensor | Sequence[int]) -> Tensor:
        terms: list[list[Tensor]] = [[x], *([] for _ in range(1, NODES))]
        for source, leaving in enumerate(self.leaving):
            assert isinstance(leaving, LeavingEdges)
            entered = range(source + 1, NODES)
            added = leaving.added(_sum(terms[source], x), weights, [EDGES.index((source, node)) for node in entered])
            for node, term in zip(entered, added, strict=True):
                if term is not None:
                    terms[node].append(term)
        return _sum(terms[-1], x)


class ChosenCell(nn.Module):
    """A cell with one operation on each edge: (N, C, H, W) -> (N, C, H, W).

    A node that no edge enters is zero, and what leaves it is computed as published: a convolution of zeros counts.
    """

    def __init__(self, ops: Sequence[str], channels: int, candidates: OpTable):
        super().__init__()
        built = ((str(edge), candidates[op](channels, 1)) for edge, op in enumerate(ops))
        self.edges = nn.ModuleDict({edge: op for edge, op in built if op is not None})

    def forward(self, x: Tensor) -> Tensor:
        terms: list[list[Tensor]] = [[x], *([] for _ in range(1, NODES))]
        for number, (source, node) in enumerate(EDGES):
            if str(number) in self.edges:
                terms[node].append(self.edges[str(number)](_sum(terms[source], x)))
        return _sum(terms[-1], x)


def _sum(terms: Sequence[Tensor], x: Tensor) -> Tensor:
    """The sum of what enters a node; zeros like x where nothing does."""
    return reduce(add, terms) if terms else x * 0.0


class ResidualBlock(nn.Module):
    """Half the rows and columns, twice the channels: (N, C, H, W) -> (N, 2C, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = ReluConvNorm(channels, 2 * channels, 3, 2, affine=True)
        self.second = ReluConvNorm(2 * channels, 2 * channels, 3, affine=True)
        # rounded up, a window beyond an odd edge averages the pixels that are there
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True)
        self.project = nn.Conv2d(channels, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.project(self.pool(x)) + self.second(self.first(x))
        return halved


class Skeleton(nn.Module):
    """What supernet and discrete network share.

    Args:
        make: channels -> a cell.
        in_channels: channels of an image.
        classes: number of classes.
        cells: cells of each stage.
        channels: of the first stage.
    """

    def __init__(self, make: Callable[[int], nn.Module], in_channels: int, classes: int, cells: int, channels: int):
        super().__init__()
        widths = [channels << stage for stage in range(STAGES)]
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.cells = nn.ModuleList(make(width) for width in widths for _ in range(cells))
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths[:-1])
        self.norm = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)

    def logits(self, images: Tensor, *weights: Tensor | Sequence[int]) -> Tensor:
        """(N, C, H, W) -> (N, K); every cell is given the weights."""
        x = self.stem(images)
        each = len(self.cells) // STAGES
        for index, cell in enumerate(self.cells):
            if index and index % each == 0:
                x = self.blocks[index // each - 1](x)
            x = cell(x, *weights)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(F.relu(self.norm(x)), 1).flatten(1))
        return logits


class NasBench201Supernet(Skeleton):
    """Keeps `robustnas.contracts.Supernet`; alpha is one table `cell`, (6, 5), that all cells share."""

    alpha: Mapping[str, nn.Parameter]

    def __init__(self, in_channels: int, classes: int, cells: int, channels: int):
        super().__init__(MixedCell, in_channels, classes, cells, channels)
        self.alpha = alpha.started({"cell": (len(EDGES), len(SEARCH))}, self.classifier.weight.device)

    def mixing(self) -> dict[str, Tensor]:
        """softmax of the rows of alpha; rows sum to 1."""
        return alpha.mixed(self.alpha)

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.  With `mixing`, these weights stand in for softmax(alpha)."""
        weights = self.mixing() if mixing is None else mixing
        return self.logits(images, (weights.columns if isinstance(weights, SinglePath) else weights)["cell"])


class NasBench201Network(Skeleton):
    """The network of the operations of six edges: (N, C, H, W) -> (N, K) logits."""

    def __init__(
        self,
        ops: Sequence[str],
        in_channels: int,
        classes: int,
        cells: int,
        channels: int,
        candidates: OpTable = DISCRETE,
    ):
        make = partial(ChosenCell, ops, candidates=candidates)
        super().__init__(make, in_channels, classes, cells, channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)
