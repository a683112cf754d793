"""The networks of RobNet: cells with an edge between every two states, and two gates on each edge.

An open gate adds its operation, the identity or a 3x3 separable convolution:

    node_j = sum_i  g_ij conv_ij(state_i) + h_ij skip_ij(state_i)

In a supernet the gates are shares: an edge's row of alpha chooses among the four codes, and the convolution counts as
much as the codes that open it do together,

    g = p(01) + p(11),   h = p(10) + p(11)

so that one-hot mixing is the discrete network, and codes that open the same gate share its weights, as in the paper.

No batch norm has a scale and a shift, but for the stem's.  Stems and the cells' places are those of DARTS.
Source: Guo et al. 2020 (RobNet), arXiv:1911.10695, and its repository github.com/gmh14/RobNets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.genotype import gate_codes
from robustnas.nn.cells import OpTable, SinglePath, edge_index, edges, preprocessing
from robustnas.nn.cells.discrete_cell import Zero
from robustnas_plugins.search_spaces import ops
from robustnas_plugins.search_spaces.places import Place, places
from robustnas_plugins.search_spaces.stems import CifarStem, ImageNetStem
from robustnas_plugins.search_spaces.supernet import CellSupernet

NODES = 4
EDGES = len(edges(NODES))

CODES = tuple(gate_codes.OPS)
"""In the order of alpha's columns."""

TABLE: OpTable = {name: ops.SEARCH[name] for name in ("none", "sep_conv_3x3", "skip_connect")}

GATED = {"00": (0,), "01": (1,), "10": (2,), "11": (1, 2)}
"""The columns of `TABLE` that a code opens."""


class RobNetSupernet(CellSupernet):
    """Keeps `robustnas.contracts.Supernet`.

    The tables of alpha are `cell`, (14, 4), which all cells share, or `cell_0`, `cell_1` and so on, one a cell.
    """

    def __init__(self, in_channels: int, classes: int, cells: int, channels: int, tables: Sequence[str]):
        shapes = dict.fromkeys(tables, (EDGES, len(CODES)))
        super().__init__(TABLE, TABLE, shapes, in_channels, classes, cells, channels, NODES)
        self.tables = tuple(tables)
        opened = [[float(column in GATED[code]) for column in range(len(TABLE))] for code in CODES]
        self.register_buffer("gates", torch.tensor(opened), persistent=False)

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.  With `mixing`, these weights stand in for softmax(alpha)."""
        weights = self.mixing() if mixing is None else mixing
        if isinstance(weights, SinglePath):
            columns = [[GATED[CODES[place]] for place in weights.columns[name]] for name in self.tables]
            return self.logits(images, lambda index: (columns[index % len(columns)], None))
        gates = self.gates
        assert isinstance(gates, Tensor)
        shares = [weights[name] @ gates.to(weights[name]) for name in self.tables]
        return self.logits(images, lambda index: (shares[index % len(shares)], None))


class GatedCell(nn.Module):
    """Two inputs, nodes with an edge from every state before each; the output joins all nodes.

    Args:
        codes: of each edge.
        place: where the cell stands.
    """

    def __init__(self, codes: Sequence[str], place: Place):
        super().__init__()
        self.preprocess0 = preprocessing(place.in_channels[0], place.channels, halve=place.halve_first, affine=False)
        self.preprocess1 = preprocessing(place.in_channels[1], place.channels, halve=False, affine=False)
        names = list(TABLE)
        self.edges, self.zero = nn.ModuleDict(), Zero(2 if place.reduction else 1)
        for edge, (source, _) in enumerate(edges(NODES)):
            stride = 2 if place.reduction and source < 2 else 1
            built = (TABLE[names[column]](place.channels, stride) for column in GATED[codes[edge]])
            if found := [op for op in built if op is not None]:
                self.edges[str(edge)] = nn.ModuleList(found)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Outputs of the two cells before -> (N, nodes * channels, H', W')."""
        states = [self.preprocess0(first), self.preprocess1(second)]
        for node in range(2, NODES + 2):
            terms = list[Tensor]()
            for source, state in enumerate(states):
                edge = str(edge_index(source, node))
                if edge in self.edges:
                    gates = self.edges[edge]
                    assert isinstance(gates, nn.ModuleList)
                    terms += [op(state) for op in gates]
            states.append(reduce(add, terms) if terms else self.zero(states[0]))
        return torch.cat(states[2:], dim=1)


class RobNetNetwork(nn.Module):
    """The network of the codes of its cells: (N, C, H, W) -> (N, K) logits.

    Args:
        codes: of each cell.  A network of another depth gives a cell the codes that stand at its share of the depth:
            with one alone, all cells have them.
        in_channels: channels of an image.
        classes: number of classes.
        cells: number of cells.
        channels: channels of the first cell's nodes; a reduction cell doubles them.
        form: `cifar`, or `imagenet` with a stem that divides the size by eight.
    """

    def __init__(
        self,
        codes: Sequence[Sequence[str]],
        in_channels: int,
        classes: int,
        cells: int,
        channels: int,
        form: str = "cifar",
    ):
        super().__init__()
        self.stem = (ImageNetStem if form == "imagenet" else CifarStem)(in_channels, channels)
        found = places(self.stem, cells, channels, lambda reduction: NODES)
        self.cells = nn.ModuleList(
            GatedCell(codes[index * len(codes) // cells], place) for index, place in enumerate(found)
        )
        self.classifier = nn.Linear(found[-1].out_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.stem(images)
        for cell in self.cells:
            first, second = second, cell(first, second)
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(second, 1).flatten(1))
        return logits
