"""Orders the attacks of a recipe, and decides at which radii each is run and which count for the worst case.

Cheap attacks come first, so that expensive ones meet few images: white-box attacks, then noise, then black-box attacks;
within each kind by the evaluations an image costs, then in the order of the recipe.  Black-box attacks come last
although some are cheap: images that they break after white-box attacks have failed are a sign of masked gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from robustnas.attack.column import ONE_STEP, Column
from robustnas.contracts import ACCESS, AttackTraits
from robustnas.options import plain
from robustnas.recipe.schema import Attack, Recipe

UNKNOWN_COST = 1000.0
"""Evaluations an image that are assumed of an attack which tells neither them nor its steps."""


def columns(recipe: Recipe, classes: int) -> list[Column]:
    """Make the columns of a recipe, in the order in which they are run; `classes` are the data set's K."""
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
    """Make the column of one entry; whether it is spared images is decided later, when all columns are known."""
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
    """Estimate the evaluations an image costs at most, as far as the attack tells."""
    plugin = attack.use.plugin
    tells = AttackTraits.of(plugin).evaluations
    each = getattr(plugin, "steps", UNKNOWN_COST) if tells is None else tells(classes)
    return float(each if isinstance(each, int | float) else UNKNOWN_COST) * attack.expectation * attack.runs


def _sparing(column: Column, run: Sequence[Column]) -> list[Column]:
    """List the columns before this one in its norm, whose broken images it need not try again.

    The list is empty for a corruption, which is no worst case, and for a transfer, whose matrix needs every image.
    """
    if column.is_corruption or column.transfers:
        return []
    earlier = run[: [one.label for one in run].index(column.label)]
    return [one for one in earlier if not one.is_corruption and one.threat.norm == column.threat.norm]
