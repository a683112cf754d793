"""Writes a recipe with every default filled in, as plain data that is a recipe again; a run directory keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from robustnas.contracts import estimation
from robustnas.foreign.settings import Weights
from robustnas.options import plain, values_of
from robustnas.recipe.load import Loaded
from robustnas.recipe.schema import BILEVEL, Attack, Method, Ranking, Use
from robustnas.registry import REGISTRIES, metric_parts
from robustnas.search.settings import OF_ALPHA, Search
from robustnas.train.settings import Train


def resolved(loaded: Loaded, trains: Mapping[str, Train] | None = None) -> dict[str, Any]:
    """Write the recipe with sections as mappings and plugins as `{name: ..., options...}`.

    Args:
        trains: section `train` of each method whose networks could not have some default.
    """
    recipe = loaded.recipe
    few = {} if recipe.train_images is None else {"train_images": recipe.train_images}
    return {
        "dataset": {**_plugin(recipe.dataset), **few},
        **({} if recipe.search_space is None else {"search_space": _plugin(recipe.search_space)}),
        "threat": plain(recipe.threat),
        "seeds": recipe.seeds.plain(),
        "search": _section(recipe.search),
        "methods": {
            name: _method(method, (trains or {}).get(name, method.train)) for name, method in recipe.methods.items()
        },
        "train": _section(recipe.train),
        "attacks": [_attack(attack) for attack in recipe.attacks],
        "certify": plain(recipe.certify),
        "smoothing": plain(recipe.smoothing),
        "evaluate": plain(recipe.evaluate),
        **({} if recipe.rank is None else {"rank": _rank(recipe.rank)}),
        **(
            {"published": {one.name: {"source": one.source, **one.figures} for one in recipe.published}}
            if recipe.published
            else {}
        ),
        **({"quick": True} if recipe.quick else {}),
        **({"trackers": [_plugin(use) for use in recipe.trackers]} if recipe.trackers else {}),
        **({"resources": plain(recipe.resources)} if recipe.resources else {}),
    }


def _rank(ranking: Ranking) -> dict[str, Any]:
    metrics = [{**_plugin(use), "label": label} for label, use in ranking.metrics.items()]
    return {"metrics": metrics, **plain(ranking.settings)}


def _plugin(use: Use) -> dict[str, Any]:
    return {"name": use.name, **values_of(use.plugin, use.options)}


def _method(method: Method, train: Train) -> dict[str, Any]:
    """Write a method; with a genotype in place of a search it has no `metric` and no `search`."""
    keys: dict[str, Any] = {}
    if method.network is not None:
        weights = {} if method.weights is None else {"weights": _weights(method.weights)}
        return {"network": method.network, **weights, "normalize": method.normalize}
    if method.genotype is not None:
        keys["genotype"] = method.genotype
    elif method.metric:
        keys["metric"] = [_metric(weight, use) for weight, use in method.metric]
    if method.strategy != BILEVEL:
        keys["strategy"] = _plugin(method.strategy)
    if method.best_of is not None and getattr(method.strategy.plugin, "best_of", None) is None:
        keys["best_of"] = plain(method.best_of)
    if method.search_space is not None:
        keys["search_space"] = _plugin(method.search_space)
    if method.threat is not None:
        keys["threat"] = plain(method.threat)
    if "search" in method.uses:
        unheard = () if estimation(method.strategy.plugin) is None else OF_ALPHA  # as the loader refuses them there
        keys["search"] = {key: value for key, value in _section(method.search).items() if key not in unheard}
    keys["train"] = _section(train)
    if method.swept is not None:
        keys["swept"] = dict(method.swept)
    return keys


def _weights(weights: Weights) -> Any:
    """Write weights as a mapping, or as the file alone where only that is set."""
    said = {name: given for name, given in plain(weights).items() if given is not None}
    return said if len(said) > 1 else said["file"]


def _metric(weight: float, use: Use) -> dict[str, Any]:
    """Write a metric with its weight, which only a metric with a score may have."""
    entry = _plugin(use)
    return {**entry, "weight": weight} if "score" in metric_parts(use.plugin) else entry


def _attack(attack: Attack) -> dict[str, Any]:
    threat = {"threat": plain(attack.threat)} if attack.threat is not None else {}
    counts = {key: count for key in ("expectation", "runs") if (count := getattr(attack, key)) != 1}
    return {**_plugin(attack.use), **threat, **counts, "label": attack.label}


def _section(section: Search | Train) -> dict[str, Any]:
    """Write a section of settings, with the plugins in it by name."""
    keys: dict[str, Any] = plain(section)
    for field in attrs.fields(type(section)):
        if "plugin" in field.metadata:
            plugin = getattr(section, field.name)
            entry = REGISTRIES[field.metadata["plugin"]].entry_of(type(plugin))
            keys[field.name] = {"name": entry.name, **values_of(plugin, {})}
    return keys
