"""The options that all DARTS spaces have: depth and width of the supernet, those of the discrete network, its stem.

The options of the discrete network concern training only: changing them does not search again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from attrs import Attribute, evolve
from attrs.validators import in_

from robustnas.options import option

MOST_CELLS = 100
"""Five times as many as those of the literature; a tenth of a second each, to be built."""

FORMS = ("cifar", "imagenet")

Rule = Callable[[Any, "Attribute[Any]", Any], None]


def at_least(least: int, most: int = 1024) -> Rule:
    """A validator of whole numbers from `least` on, small enough that a network of that size can be built."""

    def check(plugin: Any, attribute: Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{attribute.name} is {value!r}; a whole number of at least {least} would do")
        if value > most:
            raise ValueError(f"{attribute.name} is {value!r}; at most {most} would do")

    return check


def _known_form(plugin: Any, attribute: Attribute[Any], value: Any) -> None:
    if value not in FORMS:
        raise ValueError(f"{attribute.name} is {value!r}; {' or '.join(FORMS)} would do")


class Sized:
    """A space whose discrete networks have the size of its options `network_channels` and `network_cells`."""

    __slots__ = ()

    network_channels: int
    network_cells: int

    @property
    def size(self) -> tuple[int, int]:
        """Channels and cells of the discrete networks, as the options count them."""
        return self.network_channels, self.network_cells

    def sized(self, channels: int, cells: int) -> Self:
        """This space with discrete networks of that size.

        Raises:
            ValueError: a network of that size cannot be built; says what would do.
        """
        return evolve(self, network_channels=channels, network_cells=cells)  # type: ignore[misc]


def cells() -> Any:
    """The option for the supernet's depth."""
    text = "cells of the supernet; those at a third and two thirds of the depth reduce"
    return option(8, text, at_least(1, MOST_CELLS), stage="search")


def channels(rules: Sequence[Rule] = ()) -> Any:
    """The option for the supernet's width, with the space's own rules for it."""
    text = "channels of the supernet's first cell; each reduction cell doubles them"
    return option(16, text, at_least(2), *rules, stage="search")


def network_cells() -> Any:
    """The option for the discrete network's depth."""
    text = "cells of the discrete network (DARTS: 20 for CIFAR, 14 for ImageNet)"
    return option(20, text, at_least(1, MOST_CELLS), stage="train")


def network_channels() -> Any:
    """The option for the discrete network's width."""
    text = "channels of the discrete network's first cell (DARTS: 36 for CIFAR, 48 for ImageNet)"
    return option(36, text, at_least(2), stage="train")


def none() -> Any:
    """The option for what the operation `none` does in the choice of a node's inputs."""
    text = (
        "in the genotype's rule: ignored, as in DARTS, or competes (an input on which none is the strongest operation "
        "comes after all others)"
    )
    return option("ignored", text, in_(("ignored", "competes")), stage="search", identity="if given")


def form() -> Any:
    """The option for the discrete network's stem."""
    text = "stem of the discrete network: cifar keeps the image size, imagenet divides it by 8"
    return option("cifar", text, _known_form, stage="train")
