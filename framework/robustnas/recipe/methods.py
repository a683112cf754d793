"""Reads section `methods`: every way of searching that a recipe compares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from robustnas.contracts import asks, estimation, uses
from robustnas.foreign.settings import Weights
from robustnas.recipe.document import Node, below
from robustnas.recipe.faults import Faults
from robustnas.recipe.overlay import overlay
from robustnas.recipe.plugins import Plugins
from robustnas.recipe.schema import Method, Use
from robustnas.recipe.values import BAD, found, read_object, read_value, refuse, refuse_unknown
from robustnas.registry import SEARCH_SPACES, STRATEGIES, metric_parts
from robustnas.runtime.quoted import quoted
from robustnas.search.candidates import BestOf
from robustnas.search.settings import OF_ALPHA, Search
from robustnas.threat import ThreatModel
from robustnas.train.settings import Train

SECTIONS = {"threat": ThreatModel, "search": Search, "train": Train}
OVERRIDES = ("search_space", *SECTIONS)
"""Sections of which a method may override keys."""

SHARED = ("dataset", "seeds", "attacks", "certify", "smoothing", "evaluate", "rank", "published", "quick")
"""Sections of which a method may override nothing, so that a table compares like with like."""

FOREIGN = ("network", "weights", "normalize")
"""Keys of a method that is a network made elsewhere."""

KEYS = ("metric", "genotype", "strategy", "best_of", *FOREIGN, *OVERRIDES, "swept")

OF_STRATEGIES = ("metric", "search")
"""Keys of which a strategy says whether they mean anything (`robustnas.contracts.uses`)."""

WITH = {"score": "jacobian", "inner_loss": "adversarial-training", "outer_loss": "adversarial-training"}
"""A metric of ours with each part."""

WITHOUT_SEARCH = (*OF_STRATEGIES, "strategy", "best_of")
"""Keys that mean nothing where a genotype is named."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def read_methods(
    node: Node, recipe: Mapping[str, Node], search: Search, train: Train, plugins: Plugins
) -> dict[str, Method]:
    """Read the methods of a recipe, by name.

    Args:
        node: the section.
        recipe: the nodes of the recipe's own sections, over which a method's are laid.
        search: section `search` of the recipe, for methods that do not override it.
        train: section `train` of the recipe, likewise.
        plugins: reads metrics and search spaces, and collects faults.
    """
    faults = plugins.faults
    if not isinstance(node.value, dict):
        faults.add(node.mark, node.path, f"found {found(node.value)}; a mapping of names to methods would do")
        return {}
    if not node.keys:
        faults.add(node.mark, node.path, "found no method; at least one would do, such as darts: {}")
    folded: dict[str, str] = {}
    methods = {}
    for name, entry in node.value.items():
        if not NAME.fullmatch(name):
            text = f"found {quoted(name)} as the name of a method; letters, digits, '.', '_' and '-' would do"
            where = "a letter or digit first, 100 at most (it names a folder)"
            faults.add(node.keys[name], node.path, f"{text}, {where}")
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            text = f"found {name!r} beside {other!r}; names of folders differ in more than upper and lower case"
            faults.add(node.keys[name], node.path, text)
        method = _method(entry, recipe, Method(search=search, train=train), plugins)
        if method is not BAD:
            methods[name] = method
    return methods


def _method(node: Node, recipe: Mapping[str, Node], default: Method, plugins: Plugins) -> Any:
    """Read one method, or return `BAD` with faults; keys that it lacks are those of `default`."""
    faults = plugins.faults
    if node.value is None:
        return default
    if not isinstance(node.value, dict):
        return refuse(node, f"found {found(node.value)}; a mapping would do, {{}} for plain DARTS", faults)
    shared = [key for key in node.keys if key in SHARED]
    for key in shared:
        text = f"found in a method; {key} is shared by all methods, a table compares like with like"
        faults.add(node.keys[key], below(node.path, key), f"{text}: move it to the top of the recipe")
    refuse_unknown(node, [*KEYS, *shared], "key of a method", faults)
    entries = node.given
    if any(key in entries for key in FOREIGN):
        return _foreign(node, plugins)
    values: dict[str, Any] = {"search": default.search, "train": default.train}
    if "metric" in entries:
        values["metric"] = plugins.metrics(entries["metric"])
    if "genotype" in entries:
        values["genotype"] = _genotype(entries["genotype"], plugins)
        _unused(node, WITHOUT_SEARCH, "genotype", faults)
    if "swept" in entries:
        values["swept"] = _swept(entries["swept"], faults)
    values |= _strategy(node, plugins)
    strategy = values.get("strategy")
    if isinstance(strategy, Use):
        used = uses(strategy.plugin)
        _unused(node, (key for key in OF_STRATEGIES if key not in used), f"strategy: {strategy.name}", faults)
        _unheard(node, strategy, values.get("metric", ()), faults)
        for part in sorted(asks(strategy.plugin)):
            if not _has(values.get("metric", ()), part):
                text = f"{strategy.name} asks for a metric with {part.replace('_', ' ')}, and the method has none"
                values["strategy"] = refuse(entries["strategy"], f"{text}; metric: {WITH[part]} would do", faults)
    for key in (key for key in OVERRIDES if key in entries):
        laid = overlay(recipe.get(key), entries[key])
        assert laid is not None
        if key in SECTIONS:
            values[key] = plugins.section(SECTIONS[key], laid, key)
        else:
            values[key] = plugins.use(laid, SEARCH_SPACES)
    return BAD if any(value is BAD for value in values.values()) else Method(**values)


def _unused(node: Node, keys: Iterable[str], beside: str, faults: Faults) -> None:
    """Note keys of a method that mean nothing beside another."""
    for key in (key for key in keys if key in node.entries):
        text = f"found beside {beside}; no search would use it, so one of the two would do"
        faults.add(node.keys[key], below(node.path, key), text)


def _strategy(node: Node, plugins: Plugins) -> dict[str, Any]:
    """Read the keys `strategy` and `best_of` of a method; `BAD` with faults."""
    values: dict[str, Any] = {}
    faults, strategy, several = plugins.faults, node.given.get("strategy"), node.given.get("best_of")
    if strategy is not None:
        use = values["strategy"] = plugins.use(strategy, STRATEGIES)
        own = None if use is BAD else getattr(use.plugin, "best_of", None)
        if own is not None:
            values["best_of"] = own
            _unused(node, ("best_of",), f"strategy: {use.name}, whose options say it", faults)
    if several is not None and "best_of" not in values:
        whole = isinstance(several.value, int)
        of = Node(several.mark, several.path, {"samples": several}, {"samples": several.mark}) if whole else several
        values["best_of"] = read_object(BestOf, of, faults, "key of best_of")
    return values


def _unheard(node: Node, strategy: Use, metric: Any, faults: Faults) -> None:
    """Note metrics and keys of `search` of which a strategy that has candidates judged would make nothing."""
    how = estimation(strategy.plugin)
    if how is None:
        return
    scored, shared = "metric" in how.objectives, how.network == "inherited"
    heard = ({"score"} if scored else set()) | ({"inner_loss"} if shared else set())
    for _, use in () if metric is BAD or not heard else metric:
        if not metric_parts(use.plugin) & heard:
            wanted = " or ".join(sorted(part.replace("_", " ") for part in heard))
            text = f"found {use.name!r}, of which {strategy.name} uses nothing; a metric with {wanted} would do"
            faults.add(node.keys["metric"], below(node.path, "metric"), f"{text}, or leaving it out")
    own = node.entries.get("search")
    for key in OF_ALPHA if shared and own is not None else ():
        if own is not None and key in own.entries:
            text = f"found beside strategy: {strategy.name}, which has no alpha; leaving it out would do"
            faults.add(own.keys[key], below(own.path, key), text)


def _has(metric: Any, part: str) -> bool:
    """Whether one of a method's metrics has a part; with faults nobody knows, and no further fault is told."""
    return metric is BAD or any(part in metric_parts(use.plugin) for _, use in metric)


def _genotype(node: Node, plugins: Plugins) -> Any:
    """Read a genotype, a path to one, `path#KEY`, or a published name, and keep it as it is written."""
    if isinstance(node.value, dict):
        return node.plain()
    genotype = read_value(node, str, plugins.faults)
    if genotype is not BAD and not genotype.strip():
        return refuse(node, "found no text; a path or the name of a published genotype would do", plugins.faults)
    return genotype


def _swept(node: Node, faults: Faults) -> Any:
    """Read what section `sweep` made a method of, as a recipe that a run has written says it."""
    if not isinstance(node.value, dict) or len(node.value) < 2 or not isinstance(node.plain().get("of"), str):
        return refuse(node, f"found {found(node.value)}; section sweep makes it: {{of: METHOD, KEY: VALUE}}", faults)
    return node.plain()


def _weights(node: Node, plugins: Plugins) -> Any:
    """Read the file of weights, or a mapping that also says which of its tensors are meant."""
    if isinstance(node.value, dict):
        return read_object(Weights, node, plugins.faults, "key of weights")
    file = read_value(node, str, plugins.faults)
    return BAD if file is BAD else Weights(Path(file))


def _foreign(node: Node, plugins: Plugins) -> Any:
    """Read a method that is a network made elsewhere, which is neither searched nor trained."""
    faults, entries = plugins.faults, node.given
    types = {"network": str, "normalize": bool}
    values = {key: read_value(entries[key], kind, faults) for key, kind in types.items() if key in entries}
    if "weights" in entries:
        values["weights"] = _weights(entries["weights"], plugins)
    if "network" not in entries:
        key = next(key for key in FOREIGN if key in entries)
        faults.add(node.keys[key], below(node.path, key), "found without network; network: module:factory would do")
        return BAD
    for key in ("metric", "genotype", "strategy", "best_of", *OVERRIDES):
        if key in entries:
            text = "found beside network, which is neither searched nor trained; one of the two would do"
            faults.add(node.keys[key], below(node.path, key), text)
            return BAD
    module, colon, factory = str(values["network"]).partition(":")
    if values["network"] is not BAD and not (module and colon and factory):
        text = f"found {values['network']!r}; module:factory would do, such as my_package.networks:resnet"
        return refuse(entries["network"], text, faults)
    return BAD if any(value is BAD for value in values.values()) else Method(**values)
