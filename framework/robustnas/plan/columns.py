"""Which attack comes before which, at which radii each is run, and which count for the worst case.

From cheap to expensive, so that dear attacks meet few images: white-box attacks first, then noise, then black-box
attacks; within each by the evaluations an image costs, then in the order of the recipe.  Black-box attacks come last
although some are cheap: what they break after white-box attacks have failed tells of masked gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from robustnas.attack.column import ONE_STEP, Column
from robustnas.contracts import ACCESS, AttackTraits
from robustnas.options import plain
from robustnas.recipe.schema import Attack, Recipe

UNKNOWN_COST = 1000.0
"""Evaluations an image, for an attack that tells neither them nor its steps."""


def columns(recipe: Recipe, classes: int) -> list[Column]:
    """The columns of a recipe, in the order in which they are run.

    Args:
        recipe: with its attacks, their threat, and the further radii at which attacks of the recipe's threat are run.
        classes: K of the data set.
    """
    costs = {str(attack.label): _cost(attack, classes) for attack in recipe.attacks}
    ordered = [_column(attack, recipe, costs[str(attack.label)]) for attack in recipe.attacks]
    ordered.sort(key=lambda column: (ACCESS.index(column.access), costs[column.label]))
    if recipe.evaluate.attacked == "survivors":
        ordered = [attrs.evolve(column, spared=bool(_sparing(column, ordered))) for column in ordered]
    return ordered


def before(column: Column, run: Sequence[Column]) -> list[Column]:
    """The columns of `run`, in order, whose fooled images `column` is spared."""
    return _sparing(column, run) if column.spared else []


def _column(attack: Attack, recipe: Recipe, cost: float) -> Column:
    """The column of one entry of a recipe; what it is spared is not known yet."""
    threat, own = recipe.threat, attack.threat or recipe.threat
    traits = AttackTraits.of(attack.use.plugin)
    access, transfers = str(traits.access), bool(traits.transfers)
    on_curve = own == threat and access != "corruption" and not transfers
    return Column(
        label=str(attack.label),
        threat=own,
        name=attack.use.name,
        options=plain(attack.use.options),
        radii=sorted({own.epsilon, *recipe.evaluate.epsilons}) if on_curve else (own.epsilon,),
        access=access,
        transfers=transfers,
        worst_case=access != "corruption" and own.norm == threat.norm and own.epsilon <= threat.epsilon,
        runs=attack.runs,
        expectation=attack.expectation,
        one_step=cost <= ONE_STEP,
    )


def _cost(attack: Attack, classes: int) -> float:
    """Evaluations of the network an image costs at most, as far as the attack tells."""
    plugin = attack.use.plugin
    tells = AttackTraits.of(plugin).evaluations
    each = getattr(plugin, "steps", UNKNOWN_COST) if tells is None else tells(classes)
    return float(each if isinstance(each, int | float) else UNKNOWN_COST) * attack.expectation * attack.runs


def _sparing(column: Column, run: Sequence[Column]) -> list[Column]:
    """The columns before this one that break images of its norm, which it need not try again.

    None for a corruption, which is no worst case, nor for a transfer: its matrix has an entry for every image.
    """
    if column.is_corruption or column.transfers:
        return []
    earlier = run[: [one.label for one in run].index(column.label)]
    return [one for one in earlier if not one.is_corruption and one.threat.norm == column.threat.norm]
