"""Which attack comes before which, at which radii each is run, and which count for the worst case.

From cheap to expensive, so that dear attacks meet few images: white-box attacks first, then noise, then black-box
attacks; within each by the evaluations an image costs, then in the order of the recipe.  Black-box attacks come last
although some are cheap: what they break after white-box attacks have failed tells of masked gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from robustnas.contracts import ACCESS
from robustnas.recipe.schema import Attack
from robustnas.threat import ThreatModel

UNKNOWN_COST = 1000.0
"""Evaluations an image, for an attack that tells neither them nor its steps."""


@frozen
class Column:
    """One attack of the recipe, as it is run and shown.

    Args:
        attack: the recipe's entry.
        threat: at which it is shown.
        radii: at which it is run, ascending; the threat's is among them.
        access: of `robustnas.contracts.ACCESS`.
        transfers: whether its images are made on the networks of other methods.
        worst_case: whether it counts for `robust`: every image it may show is one of the recipe's threat.
    """

    attack: Attack
    threat: ThreatModel
    radii: tuple[float, ...]
    access: str
    transfers: bool
    worst_case: bool

    @property
    def label(self) -> str:
        """The column's name."""
        return str(self.attack.label)

    @property
    def threats(self) -> list[ThreatModel]:
        """The threats of its radii."""
        return [ThreatModel(self.threat.norm, radius) for radius in self.radii]

    @property
    def passes_on(self) -> bool:
        """Whether the attacks after it, in the same norm, are spared the images it fooled."""
        return self.access != "corruption"

    @property
    def spared(self) -> bool:
        """Whether it is spared the images that attacks before it fooled.

        Corruptions are no worst case, and a matrix of transfer has an entry for every image.
        """
        return self.access != "corruption" and not self.transfers


def columns(attacks: Sequence[Attack], threat: ThreatModel, epsilons: Sequence[float], classes: int) -> list[Column]:
    """The columns of a recipe, in the order in which they are run.

    Args:
        attacks: of the recipe.
        threat: of the recipe.
        epsilons: further radii for attacks of the recipe's own threat.
        classes: K of the data set.
    """

    def column(attack: Attack) -> Column:
        own = attack.threat or threat
        access = str(getattr(attack.use.plugin, "access", "white-box"))
        transfers = bool(getattr(attack.use.plugin, "transfers", False))
        on_curve = own == threat and access != "corruption" and not transfers
        return Column(
            attack=attack,
            threat=own,
            radii=tuple(sorted({own.epsilon, *epsilons})) if on_curve else (own.epsilon,),
            access=access,
            transfers=transfers,
            worst_case=access != "corruption" and own.norm == threat.norm and own.epsilon <= threat.epsilon,
        )

    found = [column(attack) for attack in attacks]
    return sorted(found, key=lambda one: (ACCESS.index(one.access), cost(one.attack, classes)))


def cost(attack: Attack, classes: int) -> float:
    """Evaluations of the network an image costs at most, as far as the attack tells."""
    plugin = attack.use.plugin
    each = plugin.evaluations(classes) if hasattr(plugin, "evaluations") else getattr(plugin, "steps", UNKNOWN_COST)
    return float(each if isinstance(each, int | float) else UNKNOWN_COST) * attack.expectation * attack.runs


def before(column: Column, run: Sequence[Column]) -> list[Column]:
    """The columns of `run`, in order, whose fooled images `column` is spared."""
    place = run.index(column)
    return [one for one in run[:place] if column.spared and one.passes_on and one.threat.norm == column.threat.norm]
