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
from robustnas.errors import InputError
from robustnas.genotype import Gene, Genotype
from robustnas.nn.cells import edge_index
from robustnas_plugins.search_spaces.network import DiscreteNetwork
from robustnas_plugins.search_spaces.ops import SEARCH, checked
from robustnas_plugins.search_spaces.supernet import DartsSupernet
from support.edge_by_edge import per_edge


def subnetwork(supernet: DartsSupernet, data: contracts.Genotype) -> DiscreteNetwork:
    """A copy of the supernet's weights for the genotype, of the supernet's depth, channels, dtype, device and
    mode.

    Raises:
        InputError: not a genotype of the supernet: another number of nodes, an operation it does not have, or
            one edge kept twice; or a supernet with partial channels or edge weights, which holds none.
    """
    if supernet.partial > 1 or supernet.beta:
        raise InputError(
            "a supernet with partial channels or edge weights holds no discrete network, whose operations act on "
            "all channels with weight 1; one of the space darts would do"
        )
    genotype = checked(data, SEARCH)
    for name, reduction in (("normal", False), ("reduce", True)):
        _fits(name, *genotype.cell(reduction), supernet.nodes)
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


def _fits(name: str, genes: tuple[Gene, ...], concat: tuple[int, ...], nodes: int) -> None:
    """Raise unless a supernet of `nodes` nodes holds the cell."""
    if len(genes) != 2 * nodes or concat != tuple(range(2, nodes + 2)):
        raise InputError(
            f"genotype: {name} has {len(genes) // 2} nodes and joins {list(concat)}; a cell of the supernet "
            f"has {nodes} nodes and joins them all"
        )
    for node in range(nodes):
        if genes[2 * node][1] == genes[2 * node + 1][1]:
            raise InputError(
                f"genotype: {name}: node {node + 2} reads state {genes[2 * node][1]} twice; a supernet "
                "has one edge there and keeps one operation"
            )


def _inherited(name: str, state: dict[str, Tensor], supernet: DartsSupernet, genotype: Genotype) -> Tensor:
    """The supernet's tensor for the network's `name`: `cells.I.ops.P.*` is a candidate of an edge."""
    parts = name.split(".")
    if parts[0] == "cells" and parts[2] == "ops":
        cell, position = int(parts[1]), int(parts[3])
        op, source = genotype.cell(cell in supernet.reductions)[0][position]
        edge = edge_index(source, position // 2 + 2)
        name = ".".join(["cells", parts[1], "edges", str(edge), "candidates", op, *parts[4:]])
    return state[name].clone()
