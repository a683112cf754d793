"""A plain chain of convolution blocks that certifies well: for each block a kernel, a width and a pooling.

Nothing runs beside a block, so that bounds add up along one path alone, and a discrete network is torch's own layers in
a row, as verifiers and certified training like it.  A genotype is
`{"blocks": [{"kernel": 3, "width": 2, "pool": "none"}, ...]}`; 27 options a block.

Source: none; networks of the kind are those of certified training, such as Gowal et al. 2018, arXiv:1810.12715.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as shortened
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import asdict, evolve, frozen
from torch import Tensor, nn

from robustnas.errors import InputError
from robustnas.options import option
from robustnas_plugins.search_spaces.chain_networks import KERNELS, POOLS, WIDTHS, Block, ChainSupernet, chain_network
from robustnas_plugins.search_spaces.sizes import at_least

if TYPE_CHECKING:
    from robustnas import contracts

MOST_BLOCKS = 16
"""Rows and columns are halved so often that no image has more."""

TABLES = {"kernel": KERNELS, "width": WIDTHS, "pool": POOLS}
"""What is chosen for a block, in the order of alpha's columns."""


@frozen
class Chain:
    """A small chain of convolution blocks without branches, for certified training and complete verification."""

    blocks: int = option(
        3, "blocks in a row; all but the first halve rows and columns", at_least(1, MOST_BLOCKS), stage="search"
    )
    channels: int = option(4, "channels of a block of width 1 in the supernet", at_least(1), stage="search")
    network_channels: int = option(
        8, "channels of a block of width 1 in the discrete network", at_least(1), stage="train"
    )

    @property
    def candidates(self) -> Mapping[str, tuple[str, ...]]:
        """The convolutions that a block chooses among; widths and poolings are other choices."""
        return {"kernel": tuple(f"conv_{kernel}x{kernel}" for kernel in KERNELS)}

    @property
    def size(self) -> tuple[int, int]:
        """Channels of a block of width 1 in the discrete networks, and blocks."""
        return self.network_channels, self.blocks

    def sized(self, channels: int, cells: int) -> Chain:
        """This space with discrete networks of so many channels.

        Raises:
            ValueError: as many channels cannot be had, or another number of blocks is asked for: genotypes have theirs.
        """
        if cells != self.blocks:
            raise ValueError(f"genotypes of this chain have {self.blocks} blocks, {cells} are asked for")
        return evolve(self, network_channels=channels)

    def supernet(self, shape: contracts.Shape, classes: int) -> ChainSupernet:
        """Build a supernet; alpha is `kernel`, `width` and `pool`, (blocks, 3) each."""
        return ChainSupernet(shape[0], classes, self.blocks, self.channels)

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Keep the strongest option of each choice of each block; among equals the earlier one."""
        mixing = supernet.mixing()
        columns = {name: [row.index(max(row)) for row in mixing[name].tolist()] for name in TABLES}
        return self.decide([columns[name][block] for block in range(self.blocks) for name in TABLES])

    def path(self, genotype: contracts.Genotype) -> dict[str, Tensor]:
        """The mixing weights of the genotype in the supernet: one-hot on what each block has.

        Raises:
            InputError: not a genotype of this space, or one with another number of blocks.
        """
        blocks = read(genotype)
        if len(blocks) != self.blocks:
            raise InputError(f"genotype: blocks are {len(blocks)}; this supernet has {self.blocks}")
        return {
            name: F.one_hot(
                torch.tensor([options.index(getattr(block, name)) for block in blocks]), len(options)
            ).float()
            for name, options in TABLES.items()
        }

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype uniformly: each choice of each block uniformly and for itself."""
        drawn = [torch.randint(several, (), generator=generator, device=generator.device) for several in self.decisions]
        return self.decide([int(number) for number in drawn])

    @property
    def decisions(self) -> tuple[int, ...]:
        """Kernel, width and pooling of each block."""
        return self.blocks * tuple(map(len, TABLES.values()))

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype with these options, by their numbers."""
        blocks = [options[first : first + len(TABLES)] for first in range(0, len(options), len(TABLES))]
        named = [
            {name: among[number] for (name, among), number in zip(TABLES.items(), numbers, strict=True)}
            for numbers in blocks
        ]
        return {"blocks": named}

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> nn.Module:
        """Build a discrete network, with as many blocks as the genotype has.

        Raises:
            InputError: not a genotype of this space; or an auxiliary head is asked for, and there is none.
        """
        if auxiliary:
            raise InputError("networks of chain have no auxiliary head")
        return chain_network(read(genotype), shape[0], classes, self.network_channels)


def read(genotype: contracts.Genotype) -> tuple[Block, ...]:
    """The blocks of a genotype.

    Raises:
        InputError: not a genotype of this space.
    """
    blocks, example = genotype.get("blocks"), asdict(Block(3, 2, "none"))
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MOST_BLOCKS:
        found = ", ".join(str(key)[:30] for key in list(genotype)[:12]) or "nothing"
        raise InputError(f"genotype: found {found}; blocks, a list of 1 to {MOST_BLOCKS} such as {example}, would do")
    for place, block in enumerate(blocks):
        if not isinstance(block, Mapping) or block.keys() != TABLES.keys():
            raise InputError(f"genotype: blocks[{place}] is {shortened(block)}; {example} would do")
        for name, options in TABLES.items():
            if type(block[name]) is not type(options[0]) or block[name] not in options:
                would = ", ".join(map(str, options))
                raise InputError(
                    f"genotype: blocks[{place}] has the {name} {shortened(block[name])}; one of {would} would do"
                )
    return tuple(Block(**block) for block in blocks)
