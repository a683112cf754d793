"""Resolves the names of a method: its search space, its genotype, or a network made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os.path import exists
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from robustnas.contracts import SearchSpace
from robustnas.foreign.settings import Weights
from robustnas.plan.genotypes import find_genotype, is_written
from robustnas.plan.stages import Foreign, MethodPlan
from robustnas.recipe.load import Loaded
from robustnas.recipe.schema import Method, Use
from robustnas.train.settings import Match
from robustnas.train.sizes import Sizes


@frozen
class Known:
    """Remembers what many methods of a plan may ask for.

    Args:
        sizes: counts the weights of networks.
        read: reads a file of genotypes.
        foreign: computes the digest of a network made elsewhere.
    """

    sizes: Sizes
    read: Callable[[Path], Any]
    foreign: Callable[[str, Weights | None], dict[str, Any]]


def resolved(loaded: Loaded, name: str, method: Method, known: Known) -> MethodPlan:
    """Resolve the names of one method.

    Raises:
        InputError: its genotype cannot be found, or does not fit.
    """
    recipe = loaded.recipe
    if method.network is not None:
        weights = method.weights
        if weights is not None:
            weights = attrs.evolve(weights, file=beside(loaded.beside(f"methods.{name}.weights"), weights.file))
        network = Foreign(method.network, weights, method.normalize)
        return MethodPlan(name, recipe.threat, method.search, method.train, network=network)
    use = method.search_space or recipe.search_space
    assert use is not None
    space: SearchSpace = use.plugin
    genotype, parameters = None, None
    if method.genotype is not None:
        genotype = find_genotype(method.genotype, space, loaded.beside(f"methods.{name}.genotype"), known.read)
        parameters = known.sizes.network(space, genotype, method.train.match)
    return MethodPlan(
        name=name,
        search_space=space,
        metrics=tuple((weight, metric.plugin) for weight, metric in method.metric),
        threat=method.threat or recipe.threat,
        search=method.search,
        train=method.train,
        genotype=genotype,
        genotype_source=None if genotype is None else _named(method.genotype),
        parameters=parameters,
        strategy=method.strategy.plugin,
        best_of=method.best_of,
        swept=method.swept,
    )


def without_unfit_defaults(loaded: Loaded, plan: MethodPlan, sizes: Sizes) -> tuple[MethodPlan, list[str]]:
    """Drop defaults of training that networks of the space cannot have; settings in the recipe stay, and fail.

    Returns:
        The method, and a note on the dropped defaults.
    """
    gone = [
        key
        for key in ("auxiliary", "drop_path")
        if getattr(plan.train, key) > 0
        and not loaded.says(plan.name, f"train.{key}")
        and not getattr(sizes.offers(plan.space), key)
    ]
    if not gone:
        return plan, []
    named = " and ".join(f"train.{key}" for key in gone)
    note = f"{named} {'is' if len(gone) == 1 else 'are'} 0, by default where networks of the space have no such thing"
    without: dict[str, Any] = dict.fromkeys(gone, 0.0)
    return attrs.evolve(plan, train=attrs.evolve(plan.train, **without)), [note]


def sizes_by_default(use: Use, match: Match | None) -> list[str]:
    """Note a recipe that sets the size of a space's supernet and leaves that of the trained network at its default.

    Args:
        match: the capacity that the trained network's size is chosen for, if one is.
    """
    if not attrs.has(type(use.plugin)) or match is not None:
        return []
    fields = attrs.fields_dict(type(use.plugin))
    given = [name for name in use.options if fields.get(name) and fields[name].metadata.get("stage") == "search"]
    sizes = [name for name in given if f"network_{name}" in fields and f"network_{name}" not in use.options]
    if not sizes:
        return []
    theirs = " and ".join(f"{name}: {use.options[name]}" for name in sizes)
    defaults = " and ".join(f"network_{name}: {getattr(use.plugin, f'network_{name}')}" for name in sizes)
    return [f"search_space {use.name}: {theirs} sizes the supernet; trained networks have {defaults}, by default"]


def _named(genotype: str | Mapping[str, Any] | None) -> str:
    """Say what to call a genotype: its name in the recipe, or that the recipe holds it."""
    return genotype if isinstance(genotype, str) and not is_written(genotype) else "of the recipe"


def beside(folder: Path, path: Path) -> Path:
    """Find a file or a folder that a recipe names, beside the recipe or else in the working directory."""
    return folder / path if exists(folder / path) else path
