"""Section `methods`: every way of searching that a recipe compares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustnas.foreign.settings import Weights
from robustnas.recipe.document import Node, below
from robustnas.recipe.faults import Faults
from robustnas.recipe.overlay import overlay
from robustnas.recipe.plugins import Plugins
from robustnas.recipe.schema import Method
from robustnas.recipe.values import BAD, found, read_object, read_value, refuse_unknown
from robustnas.registry import SEARCH_SPACES
from robustnas.runtime.quoted import quoted
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas.train.settings import Train

OVERRIDES = ("search_space", "threat", "search", "train")
"""Sections of which a method may override keys."""

SHARED = ("dataset", "seeds", "attacks", "certify", "smoothing", "evaluate")
"""Sections it may not: a table compares like with like."""

FOREIGN = ("network", "weights", "normalize")
"""Keys of a method that is a network made elsewhere."""

KEYS = ("metric", "genotype", *FOREIGN, *OVERRIDES)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def read_methods(
    node: Node, recipe: Mapping[str, Node], search: Search, train: Train, plugins: Plugins, faults: Faults
) -> dict[str, Method]:
    """The methods of a recipe by name.

    Args:
        node: the section.
        recipe: the nodes of the recipe's own sections, over which a method's are laid.
        search: section `search` of the recipe, for methods that do not override it.
        train: the same of section `train`.
        plugins: reads metrics and search spaces.
        faults: takes what is wrong.
    """
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
        method = _method(entry, recipe, search, train, plugins, faults)
        if method is not BAD:
            methods[name] = method
    return methods


def _method(
    node: Node, recipe: Mapping[str, Node], search: Search, train: Train, plugins: Plugins, faults: Faults
) -> Any:
    if node.value is None:
        return Method(search=search, train=train)
    if not isinstance(node.value, dict):
        faults.add(node.mark, node.path, f"found {found(node.value)}; a mapping would do, {{}} for plain DARTS")
        return BAD
    entries = node.value
    for key in [key for key in node.keys if key in SHARED]:
        text = f"found in a method; {key} is shared by all methods, a table compares like with like"
        faults.add(node.keys[key], below(node.path, key), f"{text}: move it to the top of the recipe")
    refuse_unknown(node, [*KEYS, *(key for key in node.keys if key in SHARED)], "key of a method", faults)
    if any(key in entries and entries[key].value is not None for key in FOREIGN):
        return _foreign(node, entries, faults)
    given: dict[str, Any] = {"search": search, "train": train}
    if "metric" in entries and entries["metric"].value is not None:
        given["metric"] = plugins.metrics(entries["metric"])
    if "genotype" in entries and entries["genotype"].value is not None:
        given["genotype"] = _genotype(entries["genotype"], faults)
        for key in ("metric", "search"):
            if key in entries and entries[key].value is not None:
                text = "found beside genotype; no search would use it, so one of the two would do"
                faults.add(node.keys[key], below(node.path, key), text)
    for key in OVERRIDES:
        if key not in entries or entries[key].value is None:
            continue
        laid = overlay(recipe.get(key), entries[key])
        assert laid is not None
        if key == "search_space":
            given[key] = plugins.use(laid, SEARCH_SPACES)
        else:
            cls = {"threat": ThreatModel, "search": Search, "train": Train}[key]
            given[key] = read_object(cls, laid, faults, f"key of {key}")
    return BAD if any(value is BAD for value in given.values()) else Method(**given)


def _genotype(node: Node, faults: Faults) -> Any:
    """A genotype, a path to one, `path#KEY`, or a name the search space has published: kept as it is written."""
    if isinstance(node.value, dict):
        return node.plain()
    genotype = read_value(node, str, faults)
    if genotype is not BAD and not genotype.strip():
        faults.add(node.mark, node.path, "found no text; a path or the name of a published genotype would do")
        return BAD
    return genotype


def _weights(node: Node, faults: Faults) -> Any:
    """A file, or a mapping that says what of it is meant."""
    if isinstance(node.value, dict):
        return read_object(Weights, node, faults, "key of weights")
    file = read_value(node, str, faults)
    return BAD if file is BAD else Weights(Path(file))


def _foreign(node: Node, entries: Mapping[str, Node], faults: Faults) -> Any:
    """A network made elsewhere: nothing of it is searched or trained."""
    given = {key: entries[key] for key in FOREIGN if key in entries and entries[key].value is not None}
    types = {"network": str, "normalize": bool}
    values = {key: read_value(entry, types[key], faults) for key, entry in given.items() if key in types}
    if "weights" in given:
        values["weights"] = _weights(given["weights"], faults)
    if "network" not in given:
        key = next(iter(given))
        faults.add(node.keys[key], below(node.path, key), "found without network; network: module:factory would do")
        return BAD
    for key in ("metric", "genotype", *OVERRIDES):
        if key in entries and entries[key].value is not None:
            text = "found beside network, which is neither searched nor trained; one of the two would do"
            faults.add(node.keys[key], below(node.path, key), text)
            return BAD
    module, colon, factory = str(values["network"]).partition(":")
    if values["network"] is not BAD and not (module and colon and factory):
        text = f"found {values['network']!r}; module:factory would do, such as my_package.networks:resnet"
        faults.add(given["network"].mark, given["network"].path, text)
        return BAD
    return BAD if any(value is BAD for value in values.values()) else Method(**values)
