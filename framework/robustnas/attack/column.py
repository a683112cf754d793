"""An attack of a recipe as plain data: how it is run, and how its figures are shown.

The plan makes a `Column` of each entry of `attacks`, the run directory keeps it as it is, and the table and the
reviewer read it.  What an attack did is in `robustnas.attack.outcomes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import attrs
from attrs import Factory, field, frozen
from attrs.validators import in_

from robustnas.contracts import ACCESS
from robustnas.threat import ThreatModel

ONE_STEP = 2
"""An attack that costs at most so many evaluations an image is a single step: one for the gradient, one to look."""


def _as_tuple(radii: Iterable[float]) -> tuple[float, ...]:
    """Make radii hashable and comparable, whatever collection they came in."""
    return tuple(radii)


@frozen
class Column:
    """One attack of a recipe.

    Args:
        label: the column's name.
        threat: the norm and epsilon at which the attack is shown.
        name: name of the plugin.
        options: options of the plugin, as the recipe gives them.
        radii: the radii at which the attack is run, ascending; the threat's is among them.
        access: what the attack knows of the network, one of `robustnas.contracts.ACCESS`.
        transfers: whether its images are made on the networks of other methods.
        worst_case: whether it counts for `robust`: every image it may show is one of the recipe's threat.
        spared: whether it is given only the images that the attacks before it, in its norm, left standing.
        runs: how often it is run, with new random draws, each time on the images that still stand.
        expectation: passes averaged in each evaluation that it sees.
        one_step: whether it is a single step along the gradient.
    """

    label: str
    threat: ThreatModel
    name: str = field(default="", kw_only=True)
    options: Mapping[str, Any] = field(factory=dict, kw_only=True)
    radii: tuple[float, ...] = field(
        default=Factory(lambda self: (self.threat.epsilon,), takes_self=True), converter=_as_tuple, kw_only=True
    )
    access: str = field(default="white-box", validator=in_(ACCESS), kw_only=True)
    transfers: bool = field(default=False, kw_only=True)
    worst_case: bool = field(default=True, kw_only=True)
    spared: bool = field(default=False, kw_only=True)
    runs: int = field(default=1, kw_only=True)
    expectation: int = field(default=1, kw_only=True)
    one_step: bool = field(default=False, kw_only=True)

    @property
    def threats(self) -> list[ThreatModel]:
        """The threats at which it is run, one a radius."""
        return [ThreatModel(self.threat.norm, radius) for radius in self.radii]

    @property
    def is_corruption(self) -> bool:
        """Whether this is a corruption: it is given every image, spares no other attack, and is no worst case."""
        return self.access == "corruption"

    def plain(self) -> dict[str, Any]:
        """The column as plain data, which `of` reads."""
        return attrs.asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Read the column that `plain` wrote; fields that an older version did not write have their defaults.

        Raises:
            TypeError, KeyError, ValueError: the data is not a column.
        """
        return cls(**{**plain, "threat": ThreatModel(**plain["threat"])})
