"""The cell space of DARTS: eight operations, a normal and a reduction cell, four nodes with two inputs each.

Source: Liu et al. 2019, arXiv:1806.09055.  Any number of image channels and classes and any image size will
do; an odd number of rows or columns halves upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import Attribute, field, frozen

from robustnas.cells import strongest_inputs
from robustnas.genotype import Genotype
from robustnas_plugins.search_spaces import ops, published
from robustnas_plugins.search_spaces.network import DiscreteNetwork
from robustnas_plugins.search_spaces.supernet import DartsSupernet

if TYPE_CHECKING:
    from robustnas import contracts

NODES = 4
FORMS = ("cifar", "imagenet")


def _at_least(least: int) -> Callable[[Any, Attribute[Any], Any], None]:
    """A validator: a whole number of at least `least`."""

    def check(plugin: Any, attribute: Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{attribute.name} is {value!r}; a whole number of at least {least} would do")

    return check


def _known_form(plugin: Any, attribute: Attribute[Any], value: Any) -> None:
    if value not in FORMS:
        raise ValueError(f"{attribute.name} is {value!r}; {' or '.join(FORMS)} would do")


@frozen
class Darts:
    """The full DARTS cell space.

    The fields of the discrete network concern training only: changing them does not search again.
    """

    cells: int = field(
        default=8,
        validator=_at_least(1),
        metadata={
            "help": "cells of the supernet; those at a third and two thirds of the depth reduce",
            "stage": "search",
        },
    )
    channels: int = field(
        default=16,
        validator=_at_least(2),
        metadata={
            "help": "channels of the supernet's first cell; each reduction cell doubles them",
            "stage": "search",
        },
    )
    network_cells: int = field(
        default=20,
        validator=_at_least(1),
        metadata={
            "help": "cells of the discrete network (DARTS: 20 for CIFAR, 14 for ImageNet)",
            "stage": "train",
        },
    )
    network_channels: int = field(
        default=36,
        validator=_at_least(2),
        metadata={
            "help": "channels of the discrete network's first cell (DARTS: 36 for CIFAR, 48 for ImageNet)",
            "stage": "train",
        },
    )
    form: str = field(
        default="cifar",
        validator=_known_form,
        metadata={
            "help": "stem of the discrete network: cifar keeps the image size, imagenet divides it by 8",
            "stage": "train",
        },
    )

    @property
    def published(self) -> Mapping[str, contracts.Genotype]:
        """Cells of the literature by name; `published.json` has the source of each."""
        return published.cells()

    def supernet(self, shape: contracts.Shape, classes: int) -> DartsSupernet:
        """A new supernet; alpha is `normal` and `reduce`, (14, 8) each.

        With `cells` 1 there is no reduction cell, and `reduce` has no part in the output.
        """
        return DartsSupernet(ops.SEARCH, shape[0], classes, self.cells, self.channels, NODES)

    def genotype(self, supernet: contracts.Supernet) -> contracts.Genotype:
        """The DARTS rule on `supernet.mixing()`; all four nodes make a cell's output."""
        names = tuple(ops.SEARCH)
        output = tuple(range(2, NODES + 2))
        kept = {name: strongest_inputs(mixing, names, NODES) for name, mixing in supernet.mixing().items()}
        return Genotype(kept["normal"], output, kept["reduce"], output).to_data()

    def network(
        self, genotype: contracts.Genotype, shape: contracts.Shape, classes: int, auxiliary: bool = False
    ) -> DiscreteNetwork:
        """A new discrete network.  Cells with any number of nodes will do (the NASNet space has five).

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
