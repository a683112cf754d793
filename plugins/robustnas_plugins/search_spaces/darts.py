"""The cell space of DARTS: eight operations, a normal and a reduction cell, four nodes with two inputs each.

Source: Liu et al. 2019, arXiv:1806.09055.  Any number of image channels and classes and any image size will
do; an odd number of rows or columns halves upwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

from robustnas.errors import InputError
from robustnas.genotype import Genotype
from robustnas.genotype.reference import Reference
from robustnas.nn.cells import decided_inputs, drawn_inputs, input_decisions, one_hot_inputs, strongest_inputs
from robustnas_plugins.search_spaces import ops, published, sizes
from robustnas_plugins.search_spaces.network import DiscreteNetwork
from robustnas_plugins.search_spaces.supernet import KINDS, DartsSupernet

if TYPE_CHECKING:
    from robustnas import contracts

NODES = 4
OUTPUT = tuple(range(2, NODES + 2))
"""All nodes make a cell's output."""


@frozen
class Darts(sizes.Sized):
    """The full DARTS cell space."""

    cells: int = sizes.cells()
    channels: int = sizes.channels()
    network_cells: int = sizes.network_cells()
    network_channels: int = sizes.network_channels()
    form: str = sizes.form()
    none: str = sizes.none()

    @property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """The operations of each table of alpha that chooses one, of the cells that the supernet has."""
        return {kind: tuple(ops.SEARCH) for kind in KINDS[: 1 if self.cells == 1 else 2]}

    @property
    def published(self) -> Mapping[str, contracts.Genotype]:
        """Cells of the literature by name; `published.json` has the source of each."""
        return published.cells()

    @property
    def references(self) -> Mapping[str, Reference]:
        """Where each of `published` comes from."""
        return published.references()

    def supernet(self, shape: contracts.Shape, classes: int) -> DartsSupernet:
        """Build a supernet; alpha is `normal` and `reduce`, (14, 8) each.

        With `cells` 1 there is no reduction cell, and `reduce` has no part in the output.
        """
        return DartsSupernet(ops.SEARCH, shape[0], classes, self.cells, self.channels, NODES)

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Apply the DARTS rule to `supernet.mixing()`; all four nodes make a cell's output."""
        names = tuple(ops.SEARCH)
        kept = {
            kind: strongest_inputs(mixing, names, NODES, none_competes=self.none == "competes")
            for kind, mixing in supernet.mixing().items()
        }
        return Genotype(kept["normal"], OUTPUT, kept["reduce"], OUTPUT).to_data()

    def path(self, genotype: contracts.Genotype) -> dict[str, Tensor]:
        """The mixing weights of the genotype in the supernet: one-hot on what it keeps, and on `none` elsewhere.

        Raises:
            InputError: not a genotype, or one of no supernet: with other operations, another number of nodes, two
                operations on one edge, or a cell's output that is not all nodes.
        """
        return one_hot(ops.checked(genotype, ops.SEARCH), tuple(ops.SEARCH))

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype uniformly from all that a search can find; all four nodes make a cell's output.

        Both cells alike: each node's two states uniformly without replacement, each operation uniformly from the
        candidates without `none`.  Genotypes count as written: those of one network by another name count apart.
        """
        names = tuple(ops.SEARCH)
        normal, reduce = drawn_inputs(names, NODES, generator), drawn_inputs(names, NODES, generator)
        return Genotype(normal, OUTPUT, reduce, OUTPUT).to_data()

    @property
    def decisions(self) -> tuple[int, ...]:
        """Three a node of the normal cell, then of the reduction cell: its two states, and the operation on each."""
        return 2 * input_decisions(tuple(ops.SEARCH), NODES)

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype of one option a decision; all four nodes make a cell's output.

        Raises:
            InputError: an option that there is not.
        """
        names, half = tuple(ops.SEARCH), len(options) // 2
        normal, reduce = (decided_inputs(part, names) for part in (options[:half], options[half:]))
        return Genotype(normal, OUTPUT, reduce, OUTPUT).to_data()

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> DiscreteNetwork:
        """Build a discrete network.  Cells with any number of nodes will do (the NASNet space has five).

        Raises:
            InputError: not a genotype, or one with an operation that is not of this space.
        """
        return DiscreteNetwork(
            ops.checked(genotype, ops.DISCRETE),
            ops.DISCRETE,
            shape[0],
            classes,
            self.network_cells,
            self.network_channels,
            self.form,
            auxiliary,
        )


def one_hot(genotype: Genotype, names: Sequence[str]) -> dict[str, Tensor]:
    """The mixing weights of a genotype in a supernet with these operations, `none` among them.

    Raises:
        InputError: no supernet has it: see `Darts.path`.
    """
    if genotype.all_edges:
        raise InputError("genotype: found cells with all edges; those of a supernet's path have two a node")
    for concat in (genotype.normal_concat, genotype.reduce_concat):
        if concat != OUTPUT:
            raise InputError(f"genotype: nodes {[*concat]} make a cell's output; in a supernet {[*OUTPUT]} do")
    return {
        "normal": one_hot_inputs(genotype.normal, names, NODES),
        "reduce": one_hot_inputs(genotype.reduce, names, NODES),
    }
