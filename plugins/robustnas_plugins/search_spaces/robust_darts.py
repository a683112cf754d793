"""The four sub-spaces of RobustDARTS, in which DARTS fails: its cells with two or three candidates an edge.

    darts-s1   two an edge, another pair on each: what an earlier search left of all eight
    darts-s2   skip_connect, sep_conv_3x3
    darts-s3   none, skip_connect, sep_conv_3x3
    darts-s4   noise, sep_conv_3x3

Genotypes and discrete networks are those of DARTS with these operations.  Where `none` is no candidate (all but S3) a
supernet holds no discrete network: an edge that a genotype leaves out has no weights that leave it out.  Of `noise`:
`robustnas_plugins.search_spaces.noise`.

Source: Zela et al. 2020, arXiv:1909.09656, sec. 3; the pairs of S1 are those of its repository,
github.com/automl/RobustDARTS, src/spaces.py, commit 07f54ba.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from torch import Tensor

from robustnas.genotype import Gene, Genotype
from robustnas.genotype.reference import Reference
from robustnas.nn.cells import (
    OpTable,
    decided_inputs,
    drawn_inputs,
    edge_index,
    edges,
    input_decisions,
    strongest_inputs,
)
from robustnas_plugins.search_spaces import ops, published, sizes
from robustnas_plugins.search_spaces.darts import NODES, OUTPUT, one_hot
from robustnas_plugins.search_spaces.network import DiscreteNetwork
from robustnas_plugins.search_spaces.noise import NoiseOperation
from robustnas_plugins.search_spaces.supernet import KINDS, DartsSupernet

if TYPE_CHECKING:
    from robustnas import contracts

EdgeOps = Mapping[str, tuple[tuple[str, ...], ...]]
"""The candidates of every edge by the kind of cell, in the order of alpha's columns."""

SEARCH: OpTable = {**ops.SEARCH, "noise": NoiseOperation()}
DISCRETE: OpTable = {**ops.DISCRETE, "noise": NoiseOperation()}

SHORT = {
    "skip": "skip_connect",
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "sep3": "sep_conv_3x3",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}


def _pairs(*nodes: str) -> tuple[tuple[str, ...], ...]:
    """The candidates of S1's edges, a text a node, from the short names."""
    return tuple(tuple(SHORT[op] for op in edge.split("|")) for node in nodes for edge in node.split())


def _all_alike(*names: str) -> EdgeOps:
    return dict.fromkeys(KINDS, len(edges(NODES)) * (names,))


S1: EdgeOps = {
    "normal": _pairs(
        "skip|dil3 skip|dil5",
        "skip|dil5 skip|sep3 skip|dil3",
        "max|skip skip|sep3 skip|sep3 skip|dil3",
        "skip|sep3 max|skip skip|dil3 dil3|dil5 dil3|dil5",
    ),
    "reduce": _pairs(
        "max|avg max|dil3",
        "max|avg max|avg skip|dil5",
        "max|avg max|sep3 skip|dil3 skip|dil5",
        "max|avg max|avg skip|dil5 skip|dil5 skip|dil5",
    ),
}


@frozen
class SubSpace(sizes.Sized):
    """What the four have in common."""

    cells: int = sizes.cells()
    channels: int = sizes.channels()
    network_cells: int = sizes.network_cells()
    network_channels: int = sizes.network_channels()
    form: str = sizes.form()

    named: ClassVar[str]
    """As the table of published cells calls the space."""
    edge_ops: ClassVar[EdgeOps]

    @property
    def columns(self) -> tuple[str, ...]:
        """What alpha's columns are called: by their operation where all edges have it, else by their number."""
        every = [edge for kind in KINDS for edge in self.edge_ops[kind]]
        return tuple(
            names[0] if len(set(names)) == 1 else str(column) for column, names in enumerate(zip(*every, strict=True))
        )

    @property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """The operations of each table of alpha, of the cells that the supernet has; none where edges differ."""
        alike = len({edge for kind in KINDS for edge in self.edge_ops[kind]}) == 1
        return dict.fromkeys(KINDS[: 1 if self.cells == 1 else 2], self.columns) if alike else {}

    @property
    def published(self) -> Mapping[str, contracts.Genotype]:
        """Cells of the literature that were searched for in this space, by name."""
        return published.cells(self.named)

    @property
    def references(self) -> Mapping[str, Reference]:
        """Where each of `published` comes from."""
        return published.references(self.named)

    def supernet(self, shape: contracts.Shape, classes: int) -> DartsSupernet:
        """Build a supernet; alpha is `normal` and `reduce`, (14, 2) each, in `darts-s3` (14, 3).

        With `cells` 1 there is no reduction cell, and `reduce` has no part in the output.
        """
        normal, reduce = (
            [{op: SEARCH[op] for op in edge} for edge in self.edge_ops[kind]] if not self.candidates else self._table
            for kind in KINDS
        )
        return DartsSupernet(normal, shape[0], classes, self.cells, self.channels, NODES, reduce_table=reduce)

    @property
    def _table(self) -> OpTable:
        return {op: SEARCH[op] for op in self.columns}

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Apply the DARTS rule to `supernet.mixing()`; all four nodes make a cell's output."""
        mixing = supernet.mixing()
        return self._written({kind: strongest_inputs(mixing[kind], self.columns, NODES) for kind in KINDS})

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype uniformly from all that a search can find, as `darts` does from its own."""
        return self._written({kind: drawn_inputs(self.columns, NODES, generator) for kind in KINDS})

    @property
    def decisions(self) -> tuple[int, ...]:
        """Three a node of the normal cell, then of the reduction cell: its two states, and the operation on each."""
        return 2 * input_decisions(self.columns, NODES)

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype of one option a decision; all four nodes make a cell's output.

        Raises:
            InputError: an option that there is not.
        """
        half = len(options) // 2
        parts = zip(KINDS, (options[:half], options[half:]), strict=True)
        return self._written({kind: decided_inputs(part, self.columns) for kind, part in parts})

    def _written(self, cells: Mapping[str, Sequence[Gene]]) -> contracts.Genotype:
        """The genotype of cells whose operations are called as the columns are."""
        normal, reduce = (
            tuple(
                (self.edge_ops[kind][edge_index(source, place // 2 + 2)][self.columns.index(column)], source)
                for place, (column, source) in enumerate(cells[kind])
            )
            for kind in KINDS
        )
        return Genotype(normal, OUTPUT, reduce, OUTPUT).to_data()

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> DiscreteNetwork:
        """Build a discrete network, that of `darts`, from any cells of this space's operations.

        Raises:
            InputError: not a genotype, or one with an operation that is not of this space.
        """
        table = {op: DISCRETE[op] for op in dict.fromkeys(self._operations())}
        return DiscreteNetwork(
            ops.checked(genotype, table),
            table,
            shape[0],
            classes,
            self.network_cells,
            self.network_channels,
            self.form,
            auxiliary,
        )

    def _operations(self) -> list[str]:
        return [op for kind in KINDS for edge in self.edge_ops[kind] for op in edge]


@frozen
class DartsS1(SubSpace):
    """RobustDARTS's S1 (Zela et al. 2020, arXiv:1909.09656): on each edge two candidates of its own."""

    named = "RobustDARTS S1"
    edge_ops = S1


@frozen
class DartsS2(SubSpace):
    """RobustDARTS's S2 (Zela et al. 2020, arXiv:1909.09656): skip_connect or sep_conv_3x3."""

    named = "RobustDARTS S2"
    edge_ops = _all_alike("skip_connect", "sep_conv_3x3")


@frozen
class DartsS3(SubSpace):
    """RobustDARTS's S3 (Zela et al. 2020, arXiv:1909.09656): none, skip_connect or sep_conv_3x3."""

    named = "RobustDARTS S3"
    edge_ops = _all_alike("none", "skip_connect", "sep_conv_3x3")

    def path(self, genotype: contracts.Genotype) -> dict[str, Tensor]:
        """The mixing weights of the genotype in the supernet: one-hot on what it keeps, and on `none` elsewhere.

        Raises:
            InputError: not a genotype, or one of no supernet, as `darts` has it.
        """
        return one_hot(ops.checked(genotype, self._table), self.columns)


@frozen
class DartsS4(SubSpace):
    """RobustDARTS's S4 (Zela et al. 2020, arXiv:1909.09656): noise, which is zero in eval mode, or sep_conv_3x3."""

    named = "RobustDARTS S4"
    edge_ops = _all_alike("noise", "sep_conv_3x3")
