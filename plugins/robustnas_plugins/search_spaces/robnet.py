"""The space of RobNet: cells with all edges, each with a gate for its convolution and one for its identity.

Two candidates an edge, a 3x3 separable convolution and the identity, each kept or not: four codes an edge, 14 edges a
cell.  Cell-based, all cells of a network have one code; cell-free, every cell has its own.  A genotype is
`{"codes": [["11", "00", ...], ...]}`, a list of codes a cell (`robustnas.genotype.gate_codes`).

A search may close both gates of an edge, and a cell without an open one makes a network that answers all images alike.
Networks have neither auxiliary head nor drop-path.

Source: Guo et al. 2020, arXiv:1911.10695.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import frozen
from attrs.validators import instance_of
from torch import Tensor

from robustnas.errors import InputError
from robustnas.genotype import gate_codes
from robustnas.genotype.reference import Reference
from robustnas.options import option
from robustnas_plugins.search_spaces import sizes
from robustnas_plugins.search_spaces.robnet_codes import PUBLISHED
from robustnas_plugins.search_spaces.robnet_networks import CODES, EDGES, RobNetNetwork, RobNetSupernet

if TYPE_CHECKING:
    from robustnas import contracts


@frozen
class RobNet(sizes.Sized):
    """The space of RobNet (Guo et al. 2020, arXiv:1911.10695): dense cells of separable convolutions and identities."""

    cells: int = sizes.cells()
    channels: int = sizes.channels()
    cell_free: bool = option(
        False,
        "whether a search finds a code for every cell; if not, all cells have one",
        instance_of(bool),
        stage="search",
    )
    network_cells: int = sizes.network_cells()
    network_channels: int = sizes.network_channels()
    form: str = sizes.form()

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of alpha: `cell`, or where each cell has its own `cell_0` and so on."""
        return tuple(f"cell_{cell}" for cell in range(self.cells)) if self.cell_free else ("cell",)

    @property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """The operations that each table of alpha chooses among, by the order of the codes."""
        return dict.fromkeys(self.tables, tuple(gate_codes.OPS.values()))

    @property
    def published(self) -> Mapping[str, contracts.Genotype]:
        """The codes that the paper's repository has."""
        return {name: one.genotype for name, one in PUBLISHED.items()}

    @property
    def references(self) -> Mapping[str, Reference]:
        """Where each of `published` comes from, and the size of its network."""
        return {name: one.reference for name, one in PUBLISHED.items()}

    def supernet(self, shape: contracts.Shape, classes: int) -> RobNetSupernet:
        """Build a supernet; alpha is `cell`, (14, 4), or with `cell_free` a table like it for each cell."""
        return RobNetSupernet(shape[0], classes, self.cells, self.channels, self.tables)

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Keep the likeliest code of each edge, `00` too; among equals the earlier one."""
        mixing = supernet.mixing()
        rows = [mixing[name].tolist() for name in self.tables]
        return gate_codes.write([[CODES[row.index(max(row))] for row in table] for table in rows])

    def path(self, genotype: contracts.Genotype) -> dict[str, Tensor]:
        """The mixing weights of the genotype in the supernet: one-hot on each edge's code.

        Raises:
            InputError: not a genotype of this space, or one with another number of codes than the supernet has tables.
        """
        cells = read(genotype)
        if len(cells) != len(self.tables):
            has = (
                f"a code of its own for each of {len(self.tables)} cells"
                if self.cell_free
                else "one code for all cells"
            )
            raise InputError(f"genotype: codes has {len(cells)} cells; this supernet has {has}")
        columns = [torch.tensor([CODES.index(code) for code in codes]) for codes in cells]
        return {name: F.one_hot(rows, len(CODES)).float() for name, rows in zip(self.tables, columns, strict=True)}

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype uniformly from all that a search can find: each edge's code uniformly from the four."""
        shape = len(self.tables), EDGES
        drawn = torch.randint(len(CODES), shape, generator=generator, device=generator.device)
        return gate_codes.write([[CODES[number] for number in cell] for cell in drawn.tolist()])

    @property
    def decisions(self) -> tuple[int, ...]:
        """The code of each edge, cell by cell."""
        return len(self.tables) * EDGES * (len(CODES),)

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype with these codes, by their numbers."""
        codes = [CODES[number] for number in options]
        return gate_codes.write([codes[first : first + EDGES] for first in range(0, len(codes), EDGES)])

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> RobNetNetwork:
        """Build a discrete network.

        One code is that of all cells.  Of several, a network with another number of cells gives each cell the code that
        stands at its share of the depth (the paper's have as many codes as cells).

        Raises:
            InputError: not a genotype of this space; or an auxiliary head is asked for, and there is none.
        """
        if auxiliary:
            raise InputError("networks of robnet have no auxiliary head")
        return RobNetNetwork(read(genotype), shape[0], classes, self.network_cells, self.network_channels, self.form)


def read(genotype: contracts.Genotype) -> tuple[tuple[str, ...], ...]:
    """The codes of each cell.

    Raises:
        InputError: not a genotype of this space.
    """
    if not gate_codes.is_codes(genotype):
        found = ", ".join(str(key)[:30] for key in list(genotype)[:12]) or "nothing"
        raise InputError(f"genotype: found {found}; codes: [['11', '00', ...]], {EDGES} a cell, would do")
    cells = gate_codes.read(genotype)
    for place, codes in enumerate(cells):
        if len(codes) != EDGES:
            raise InputError(f"genotype: codes[{place}] has {len(codes)} codes; {EDGES}, of 4 nodes, would do")
    return cells
