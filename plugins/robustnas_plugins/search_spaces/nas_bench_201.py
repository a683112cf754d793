"""The cell space of NAS-Bench-201: five operations on the six edges of a cell of four nodes, 15,625 genotypes.

Tables of their accuracy, clean and attacked, are published: NAS-Bench-201 and NATS-Bench, NAS-RobBench-201, and that
of Jung et al. 2023 (arXiv:2306.06712).  A genotype is `{"cell": text}`, the text that these write
(`robustnas.genotype.cell_string`); its index in them is its place in `genotypes()`.

Unlike in the DARTS spaces, a search may keep `none`.  A cell without a path from input to output makes a network that
answers all images alike, and training moves its answer; such cells are part of the space and of the tables, and scores
of robustness favour them: nothing is more robust than a constant.

Source: Dong and Yang 2020, arXiv:2001.00326.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from reprlib import repr as shortened
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.validators import instance_of
from torch import Tensor

from robustnas.errors import InputError
from robustnas.genotype import cell_string
from robustnas.genotype.reference import Reference
from robustnas.options import option
from robustnas.runtime.suggest import did_you_mean
from robustnas_plugins.search_spaces.nas_bench_201_networks import (
    EDGES,
    SEARCH,
    NasBench201Network,
    NasBench201Supernet,
)
from robustnas_plugins.search_spaces.sizes import Sized, at_least

if TYPE_CHECKING:
    from robustnas import contracts

OPS = tuple(SEARCH)

MOST_CELLS = 33
"""Of a stage: as many in all as the DARTS spaces may have."""

BASELINES = {
    "ResNet": "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|",
    "AllConv3x3": cell_string.write(["nor_conv_3x3"] * len(EDGES)),
    "AllConv1x1": cell_string.write(["nor_conv_1x1"] * len(EDGES)),
    "AllIdentity": cell_string.write(["skip_connect"] * len(EDGES)),
}
"""The cells that the benchmark's own code names (D-X-Y/AutoDL-Projects, `genotypes.py`)."""


@frozen
class NasBench201(Sized):
    """The cell space of NAS-Bench-201."""

    cells: int = option(5, "cells of each of the supernet's three stages", at_least(1, MOST_CELLS), stage="search")
    channels: int = option(
        16, "channels of the supernet's first stage; each stage doubles them", at_least(1), stage="search"
    )
    keep_none: bool = option(
        True,
        "whether a bilevel search may keep none on an edge, as published; if not, the strongest other operation stays",
        instance_of(bool),
        stage="search",
    )
    network_cells: int = option(
        5, "cells of each of the discrete network's three stages", at_least(1, MOST_CELLS), stage="train"
    )
    network_channels: int = option(16, "channels of the discrete network's first stage", at_least(1), stage="train")

    @property
    def published(self) -> Mapping[str, contracts.Genotype]:
        """The baselines that the benchmark names."""
        return {name: {"cell": cell} for name, cell in BASELINES.items()}

    @property
    def references(self) -> Mapping[str, Reference]:
        """Where each of `published` comes from."""
        return dict.fromkeys(BASELINES, Reference("Dong & Yang ICLR 2020 (arXiv 2001.00326)", sought="none: by hand"))

    @property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """The operations that alpha chooses among."""
        return {"cell": OPS}

    def supernet(self, shape: contracts.Shape, classes: int) -> NasBench201Supernet:
        """Build a supernet; alpha is `cell`, (6, 5)."""
        return NasBench201Supernet(shape[0], classes, self.cells, self.channels)

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Keep the strongest operation of each edge, `none` as `keep_none` has it; among equals the earlier one."""
        candidates = OPS if self.keep_none else OPS[1:]
        rows = supernet.mixing()["cell"][:, len(OPS) - len(candidates) :].tolist()
        return {"cell": cell_string.write([candidates[row.index(max(row))] for row in rows])}

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> NasBench201Network:
        """Build a discrete network.

        Raises:
            InputError: not a genotype of this space; or an auxiliary head is asked for, and there is none.
        """
        if auxiliary:
            raise InputError("networks of nas-bench-201 have no auxiliary head")
        return NasBench201Network(read(genotype), shape[0], classes, self.network_cells, self.network_channels)

    def path(self, genotype: contracts.Genotype) -> dict[str, Tensor]:
        """The mixing weights of the genotype in the supernet: one-hot on each edge's operation, `none` too.

        Raises:
            InputError: not a genotype of this space.
        """
        columns = torch.tensor([OPS.index(op) for op in read(genotype)])
        return {"cell": F.one_hot(columns, len(OPS)).float()}

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype uniformly from all 15,625: each edge's operation uniformly from the five, `none` too."""
        drawn = torch.randint(len(OPS), (len(EDGES),), generator=generator, device=generator.device)
        return {"cell": cell_string.write([OPS[number] for number in drawn.tolist()])}

    @property
    def decisions(self) -> tuple[int, ...]:
        """The operation of each edge."""
        return len(EDGES) * (len(OPS),)

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype with these operations on the edges, by their numbers."""
        return {"cell": cell_string.write([OPS[number] for number in options])}

    def genotypes(self) -> Iterator[contracts.Genotype]:
        """List all 15,625 genotypes by their index in the published tables."""
        return ({"cell": cell} for cell in ordered())

    def canonical(self, genotype: contracts.Genotype) -> str:
        """A text that isomorphic genotypes share; there are 6,466 of them, as the benchmark counts.

        The sum of a node's edges, as an expression in the cell's input, sorted: `skip_connect` is what it passes on,
        and an edge is zero that is `none` or leaves node 1 where that is zero.
        """
        ops, nodes = iter(read(genotype)), ["0"]
        for node in range(1, 1 + max(node for _, node in EDGES)):
            terms = [_term(next(ops), nodes[source]) for source in range(node)]
            nodes.append("+".join(sorted(terms)))
        return nodes[-1]


def _term(op: str, state: str) -> str:
    """What an edge adds, as an expression, `#` for zero."""
    if op == "none" or state == "#":
        return "#"
    return state if op == "skip_connect" else f"({state})@{op}"


def read(genotype: contracts.Genotype) -> tuple[str, ...]:
    """The operations of the six edges.

    Raises:
        InputError: not a genotype of this space.
    """
    cell = genotype.get("cell")
    if not isinstance(cell, str):
        found = ", ".join(str(key)[:30] for key in list(genotype)[:12]) or "nothing"
        raise InputError(f"genotype: found {found}; a text of a cell would do, such as cell: '{BASELINES['ResNet']}'")
    ops = cell_string.read(cell)
    if len(ops) != len(EDGES):
        raise InputError(f"genotype: cell has {len(ops)} edges; {len(EDGES)}, of three nodes, would do")
    for edge, op in zip(EDGES, ops, strict=True):
        if op not in OPS:
            raise InputError(
                f"genotype: cell: node {edge[1]} has {shortened(op)} from state {edge[0]}, which is no operation of "
                f"this space{did_you_mean(op, OPS)}\n  operations: {', '.join(OPS)}"
            )
    return ops


@cache
def ordered() -> tuple[str, ...]:
    """All cells in the order of the benchmark, which shuffles them with Python's generator and this seed."""
    cells = [cell_string.write(ops) for ops in product(OPS, repeat=len(EDGES))]
    random.Random(88).shuffle(cells)
    return tuple(cells)
