"""The discrete network that a supernet holds: its own weights, on the edges of a genotype alone.

It is in search form (batch norms without scale and shift, poolings followed by one), and its output is the
supernet's under mixing weights that are one-hot: 1 for the genotype's operation on each kept edge, 1 for
`none` on every other.  What discretising costs before any training is the difference to the supernet's own
output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas import contracts
from robustnas.genotype import Genotype
from robustnas.nn.cells import edge_index
from robustnas_plugins.search_spaces.network import DiscreteNetwork
from robustnas_plugins.search_spaces.ops import SEARCH, checked
from robustnas_plugins.search_spaces.supernet import DartsSupernet
from support.edge_by_edge import per_edge


def subnetwork(supernet: DartsSupernet, data: contracts.Genotype) -> DiscreteNetwork:
    """A copy of the supernet's weights for the genotype, of the supernet's depth, channels, dtype, device and mode."""
    genotype = checked(data, SEARCH)
    with torch.device("meta"):  # draws no random numbers: all weights are the supernet's
        network = DiscreteNetwork(
            genotype,
            SEARCH,
            supernet.in_channels,
            supernet.classes,
            cells=len(supernet.cells),
            channels=supernet.channels,
            affine=False,
        )
    state = per_edge(supernet, supernet.state_dict())
    network.load_state_dict(
        {name: _inherited(name, state, supernet, genotype) for name in network.state_dict()}, assign=True
    )
    return network.train(supernet.training)


def _inherited(name: str, state: dict[str, Tensor], supernet: DartsSupernet, genotype: Genotype) -> Tensor:
    """The supernet's tensor for the network's `name`: `cells.I.ops.P.*` is a candidate of an edge."""
    parts = name.split(".")
    if parts[0] == "cells" and parts[2] == "ops":
        cell, position = int(parts[1]), int(parts[3])
        op, source = genotype.cell(supernet.places[cell].reduction)[0][position]
        edge = edge_index(source, position // 2 + 2)
        name = ".".join(["cells", parts[1], "edges", str(edge), "candidates", op, *parts[4:]])
    return state[name].clone()
