"""Wide residual networks, searched by depth and width: six decisions, 15,625 networks with the options of NARes.

For each of three stages a number of blocks and a width, in the order depth 1, width 1, depth 2 and so on.  A genotype
is `{"depths": [4, 4, 4], "widths": [10, 10, 10]}`, which is WRN-28-10: WRN-d-w has (d - 4) / 6 blocks a stage.

The options are those of the NARes data set (github.com/zhichao-lu/arch-dataset-adv-robustness): depths 4, 5, 7, 9, 11
and widths 8, 10, 12, 14, 16.  A smaller machine takes fewer of them, or less `channels`.

Every stage begins with a convolution as its shortcut, also where two stages have as many channels (widths 16 and 8 of
stages 1 and 2, say): there the identity could not halve rows and columns.  Networks have neither auxiliary head nor
drop-path.

Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146 (the networks).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from attrs import Attribute, Factory, evolve, frozen
from torch import Tensor

from robustnas.errors import InputError
from robustnas.genotype.reference import Reference
from robustnas.options import option
from robustnas_plugins.search_spaces.sizes import at_least
from robustnas_plugins.search_spaces.wide_resnet_networks import STAGES, WideResNet, WideResNetSupernet

if TYPE_CHECKING:
    from robustnas import contracts

DEPTHS, WIDTHS = (4, 5, 7, 9, 11), (8, 10, 12, 14, 16)

MOST = {"depths": 32, "widths": 64}
"""Of a stage, in any network."""

MOST_OPTIONS = 8
"""Of one choice: 262,144 networks."""

SIZE = "16 channels, 3x32x32 pixels, 10 classes"

PUBLISHED = {
    "WRN-28-10": (4, 10, 36_479_194, 5_243_328_768),
    "WRN-34-10": (5, 10, 46_160_474, 6_658_906_368),
    "WRN-70-16": (11, 16, 266_796_506, 38_764_210_176),
}
"""Blocks and width of every stage, weights and multiply-adds of the network of `SIZE`, counted with this code."""


def _rising(plugin: Any, attribute: Attribute[Any], value: Any) -> None:
    """Validate options of a choice: whole numbers, each larger than the one before."""
    most, name = MOST[attribute.name], attribute.name
    whole = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not whole or not 1 <= len(value) <= MOST_OPTIONS or value != sorted({*value}):
        raise ValueError(f"{name} is {value!r}; a rising list of 1 to {MOST_OPTIONS} whole numbers would do")
    if not 1 <= value[0] <= value[-1] <= most:
        raise ValueError(f"{name} is {value!r}; numbers from 1 to {most} would do")


@frozen
class WideResNetSpace:
    """Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146) by depths and widths, as in NARes."""

    depths: list[int] = option(Factory(lambda: [*DEPTHS]), "blocks of a stage to choose from", _rising, stage="search")
    widths: list[int] = option(Factory(lambda: [*WIDTHS]), "widths of a stage to choose from", _rising, stage="search")
    channels: int = option(
        2, "channels of the supernet's first convolution; a stage has its width times 1, 2 or 4 times as many",
        at_least(1), stage="search",
    )  # fmt: skip
    network_channels: int = option(
        16, "channels of the discrete network's first convolution", at_least(1), stage="train"
    )

    @property
    def published(self) -> Mapping[str, contracts.Genotype]:
        """Networks of the literature that a search with these options can find; they are alike in all stages."""
        return {
            name: written([depth] * STAGES, [width] * STAGES)
            for name, (depth, width, *_) in PUBLISHED.items()
            if depth in self.depths and width in self.widths
        }

    @property
    def references(self) -> Mapping[str, Reference]:
        """Where each of `published` comes from."""
        paper = "Zagoruyko & Komodakis BMVC 2016 (arXiv 1605.07146)"
        return {
            name: Reference(paper, sought="none: by hand", size=SIZE, parameters=weights, multiply_adds=adds)
            for name, (_, _, weights, adds) in PUBLISHED.items()
            if name in self.published
        }

    @property
    def size(self) -> tuple[int, int]:
        """Channels of the discrete networks' first convolution, and stages."""
        return self.network_channels, STAGES

    def sized(self, channels: int, cells: int) -> WideResNetSpace:
        """This space with discrete networks of so many channels.

        Raises:
            ValueError: as many cannot be had, or another number of stages is asked for.
        """
        if cells != STAGES:
            raise ValueError(f"wide residual networks have {STAGES} stages, {cells} are asked for")
        return evolve(self, network_channels=channels)

    def supernet(self, shape: contracts.Shape, classes: int) -> WideResNetSupernet:
        """Build a supernet; alpha is `depth` and `width`, a row a stage, with the defaults (3, 5) each."""
        return WideResNetSupernet(self.depths, self.widths, shape[0], classes, self.channels)

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """Keep the likeliest depth and width of each stage; among equals the smaller."""
        depths, widths = (
            [options[row.index(max(row))] for row in supernet.mixing()[name].tolist()]
            for name, options in (("depth", self.depths), ("width", self.widths))
        )
        return written(depths, widths)

    def path(self, genotype: contracts.Genotype) -> dict[str, Tensor]:
        """The mixing weights of the genotype in the supernet: one-hot on each stage's depth and width.

        Raises:
            InputError: not a genotype of this space, or with a depth or a width that is none of its options.
        """
        depths, widths = read(genotype)
        return {
            name: F.one_hot(torch.tensor(_places(f"{name}s", found, options)), len(options)).float()
            for name, found, options in (("depth", depths, self.depths), ("width", widths, self.widths))
        }

    def sample(self, generator: torch.Generator) -> contracts.Genotype:
        """Draw a genotype uniformly: each stage's depth and width uniformly and for themselves."""
        drawn = [torch.randint(several, (), generator=generator, device=generator.device) for several in self.decisions]
        return self.decide([int(number) for number in drawn])

    @property
    def decisions(self) -> tuple[int, ...]:
        """Depth and width of each stage."""
        return STAGES * (len(self.depths), len(self.widths))

    def decide(self, options: Sequence[int]) -> contracts.Genotype:
        """The genotype with these options, by their numbers."""
        return written([self.depths[one] for one in options[::2]], [self.widths[one] for one in options[1::2]])

    def genotypes(self) -> Iterator[contracts.Genotype]:
        """List all genotypes, the last stage's width first to change."""
        return (self.decide(options) for options in product(*map(range, self.decisions)))

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> WideResNet:
        """Build a discrete network, of any depths and widths.

        Raises:
            InputError: not a genotype of this space; or an auxiliary head is asked for, and there is none.
        """
        if auxiliary:
            raise InputError("networks of wide-resnet have no auxiliary head")
        return WideResNet(*read(genotype), shape[0], classes, self.network_channels)


def written(depths: Sequence[int], widths: Sequence[int]) -> contracts.Genotype:
    """The genotype of depths and widths, as plain data."""
    return {"depths": [*depths], "widths": [*widths]}


def read(genotype: contracts.Genotype) -> tuple[list[int], list[int]]:
    """The depths and the widths of a genotype.

    Raises:
        InputError: not a genotype of this space.
    """
    for name, most in MOST.items():
        found = genotype.get(name)
        if not isinstance(found, list) or len(found) != STAGES:
            keys = ", ".join(str(key)[:30] for key in list(genotype)[:12]) or "nothing"
            raise InputError(
                f"genotype: found {keys}, and {name} {shortened(found)}; depths: [4, 4, 4] and widths: [10, 10, 10] "
                "would do, a number a stage"
            )
        for one in found:
            if isinstance(one, bool) or not isinstance(one, int) or not 1 <= one <= most:
                raise InputError(f"genotype: {name} has {shortened(one)}; whole numbers from 1 to {most} would do")
    return [*genotype["depths"]], [*genotype["widths"]]


def _places(name: str, found: Sequence[int], options: Sequence[int]) -> list[int]:
    for one in found:
        if one not in options:
            raise InputError(f"genotype: {name} has {one}; this supernet has {', '.join(map(str, options))}")
    return [options.index(one) for one in found]
