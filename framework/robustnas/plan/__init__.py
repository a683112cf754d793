"""Arranges a recipe's methods and seeds as stages, each keyed by everything that determines its result.

    search (-> candidate -> choose) -> train -> clean, probe, certify, attack (one a column), smooth

A network made elsewhere begins at `clean`.  A stage's key is a digest of its inputs, so a stage that is done is never
done again, and two methods that share a stage share its result.  Nothing here runs anything: `make` only arranges what
the recipe's loader has checked.

    stages       values: a stage, a method with its names resolved, the whole plan
    keys         digests of what determines a result
    genotypes    the genotype that a recipe names
    methods      a method with its names resolved
    keyed        its stages, each with its key
    arrange      from a checked recipe to a plan
"""

from typing import TYPE_CHECKING

from robustnas.plan.genotypes import find_genotype
from robustnas.plan.keys import RESULTS, digest, identity, settings
from robustnas.plan.stages import KINDS, OF_A_SEARCH, Foreign, Kind, MethodPlan, Plan, Stage, sources
from robustnas.recipe.seeds import Seed, Seeds
from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.plan.arrange import arranged, make

__all__ = [
    "KINDS",
    "OF_A_SEARCH",
    "RESULTS",
    "Foreign",
    "Kind",
    "MethodPlan",
    "Plan",
    "Seed",
    "Seeds",
    "Stage",
    "arranged",
    "digest",
    "find_genotype",
    "identity",
    "make",
    "settings",
    "sources",
]

__getattr__ = facade(__name__, arranged="arrange", make="arrange")
