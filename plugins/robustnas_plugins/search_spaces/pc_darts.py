"""The cell space of PC-DARTS: that of DARTS, searched with partial channels and with weights beta of the edges.

In the supernet the operations of an edge act on one in `partial` channels, and a node adds its edges weighted,

    node_j = sum_i softmax(beta_j)_i f_ij(state_i),

which steadies the choice of edges: alpha alone fluctuates more with partial channels.  Beta is part of alpha: a
table of one row for each node.  What moves, freezes or disturbs alpha (warm-up, the metrics of SDARTS) therefore
does so to beta.

Genotypes and discrete networks are those of DARTS.  A discrete network's operations act on all channels: unlike
DARTS's, a supernet of this space holds no discrete network, whatever its alpha.

Source: Xu et al. 2020, arXiv:1907.05737.  There alpha and beta stand still for the first 15 of 50 epochs (key
`search.warmup_epochs`), and the first channels of a state are the ones acted on, not a random choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import Attribute, frozen

from robustnas.genotype import Genotype
from robustnas.genotype.reference import Reference
from robustnas.nn.cells import strongest_inputs
from robustnas.options import option
from robustnas_plugins.search_spaces import ops, published, sizes
from robustnas_plugins.search_spaces.darts import NODES, OUTPUT, Darts
from robustnas_plugins.search_spaces.network import DiscreteNetwork
from robustnas_plugins.search_spaces.supernet import KINDS, DartsSupernet, edge_weights

if TYPE_CHECKING:
    from robustnas import contracts


def _equal_parts(plugin: Any, attribute: Attribute[Any], value: Any) -> None:
    """Validate that a value is a multiple of the plugin's `partial`."""
    partial = plugin.partial
    # what `partial` may be is told by its own rule
    if isinstance(partial, int) and partial > 0 and value % partial:
        raise ValueError(f"{attribute.name} is {value!r}; a multiple of partial, which is {partial}, would do")


@frozen
class PcDarts(sizes.Sized):
    """The DARTS cell space, searched with partial channels and edge weights (PC-DARTS)."""

    cells: int = sizes.cells()
    channels: int = sizes.channels([_equal_parts])
    partial: int = option(
        4, "operations of the supernet act on one in so many channels; 1 for all", sizes.at_least(1), stage="search"
    )
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
        """Build a supernet; alpha is `normal` and `reduce`, (14, 8) each, and beta by cell and node.

        Beta is `normal_beta_0` to `normal_beta_3` and `reduce_beta_0` to `reduce_beta_3`, of shape (1, 2) to
        (1, 5).  With `cells` 1 there is no reduction cell, and its tables have no part in the output.
        """
        return DartsSupernet(
            ops.SEARCH, shape[0], classes, self.cells, self.channels, NODES, partial=self.partial, beta=True
        )

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Apply the DARTS rule, in which an edge's strongest operation counts times the edge's weight."""
        mixing, names = supernet.mixing(), tuple(ops.SEARCH)
        normal, reduce = (
            strongest_inputs(
                mixing[kind],
                names,
                NODES,
                edge_weights=edge_weights(mixing, kind, NODES),
                none_competes=self.none == "competes",
            )
            for kind in KINDS
        )
        return Genotype(normal, OUTPUT, reduce, OUTPUT).to_data()

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype as `darts` does: the genotypes are the same."""
        return Darts().sample(generator)

    @property
    def decisions(self) -> tuple[int, ...]:
        """Those of `darts`: the genotypes are the same."""
        return Darts().decisions

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype of one option a decision, as `darts` has it.

        Raises:
            InputError: an option that there is not.
        """
        return Darts().decide(options)

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> DiscreteNetwork:
        """Build a discrete network, that of `darts`.

        Raises:
            InputError: not a genotype, or one with an operation that is not of this space.
        """
        discrete = Darts(network_cells=self.network_cells, network_channels=self.network_channels, form=self.form)
        return discrete.network(genotype, shape, classes, auxiliary)
