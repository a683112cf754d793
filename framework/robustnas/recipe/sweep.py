"""Section `sweep`: in the place of a method, one for each value of a key.

    sweep: {search.gamma: [0.01, 0.1, {balance: 1}]}                     every method, once a value
    sweep: {methods: [dsrna-cb], search.gamma: [0.1, 1], train.epochs: [5, 50]}     this one, once a combination

A method that has no use for a key, such as `search.gamma` where a genotype is named, keeps its row.  A method that was
made says so by its key `swept`, which a run directory keeps: what it was before, and the values it has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product

from attrs import evolve, frozen

from robustnas.contracts import uses
from robustnas.options import value_text
from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults, Mark
from robustnas.recipe.methods import FOREIGN, KEYS, OF_STRATEGIES, SHARED, WITHOUT_SEARCH
from robustnas.recipe.overlay import assigned, node_of, put
from robustnas.recipe.schema import BILEVEL
from robustnas.recipe.values import found
from robustnas.registry import STRATEGIES
from robustnas.runtime.suggest import did_you_mean

MOST_ROWS = 100
"""A method is swept into so many at most."""

LONGEST_VALUE = 30
"""A longer value is called by its place in the list, from 1, in the name of its row."""

SWEPT = tuple(key for key in KEYS if key not in (*FOREIGN, "swept"))
"""Keys of a method that may be swept, or hold keys that may."""


@frozen
class Key:
    """A key that is swept.

    Args:
        path: dotted, below a method.
        mark: where it is written.
        values: at least one.
    """

    path: str
    mark: Mark
    values: tuple[Node, ...]

    @property
    def first(self) -> str:
        """The key of a method that it is, or that holds it."""
        return self.path.partition(".")[0]


def expanded(root: Node, faults: Faults) -> Node:
    """Put the methods of section `sweep` in the places of those that are swept, and drop the section."""
    section, methods = root.entries.get("sweep"), root.entries.get("methods")
    entries = {key: node for key, node in root.entries.items() if key != "sweep"}
    root = evolve(root, value=entries, keys={key: mark for key, mark in root.keys.items() if key != "sweep"})
    if section is None or section.value is None or methods is None or not methods.entries:
        return root
    if not isinstance(section.value, dict):
        text = f"found {found(section.value)}; a mapping of keys to values would do: {{search.gamma: [0.1, 1]}}"
        faults.add(section.mark, section.path, text)
        return root
    before = faults.noted
    keys = list(_keys(evolve(section, value={k: n for k, n in section.entries.items() if k != "methods"}), "", faults))
    named = _named(section.entries.get("methods"), methods, faults)
    for key in keys:
        called = [_called(value, place) for place, value in enumerate(key.values, 1)]
        for place, name in enumerate(called):
            if name in called[:place]:
                text = f"found {found(key.values[place].value)}, and a value before it is called {name} in rows too"
                faults.add(key.values[place].mark, key.values[place].path, f"{text}; every value once would do")
    rows = math.prod(len(key.values) for key in keys)
    if rows > MOST_ROWS:
        sizes = " x ".join(str(len(key.values)) for key in keys)
        text = f"found {sizes} = {rows:,} rows of a method; at most {MOST_ROWS} would do"
        faults.add(section.mark, section.path, text)
    if faults.noted > before:
        return root
    if not keys:
        faults.add(section.mark, section.path, "found no key; one would do, such as search.gamma: [0.1, 1]")
        return root
    made: dict[str, Node] = {}
    marks: dict[str, Mark] = {}
    for name, entry in methods.entries.items():
        own = [key for key in keys if _uses(entry, key.first)] if named is None or name in named else []
        if named is not None and name in named and len(own) < len(keys):
            unused = next(key for key in keys if key not in own)
            text = f"{name} has no use for it, and sweep.methods names it; leaving it out there would do"
            faults.add(unused.mark, f"sweep.{unused.path}", text)
        for row, node in _rows(name, entry, own, faults) if own else ((name, entry),):
            if row in made:
                text = f"found two methods that would be called {row}; another name for one of them would do"
                faults.add(section.mark, section.path, text)
            made[row], marks[row] = node, methods.keys[name]
    if not set(made) - set(methods.entries) and faults.noted == before:
        faults.add(section.mark, section.path, f"no method has a use for {' and '.join(key.path for key in keys)}")
    return evolve(root, value={**entries, "methods": evolve(methods, value=made, keys=marks)})


def _keys(node: Node, above: str, faults: Faults) -> Iterator[Key]:
    """Read the keys and their lists of values; `search: {gamma: [...]}` is read like `search.gamma: [...]`."""
    for key, entry in node.entries.items():
        path, mark = f"{above}{key}", node.keys[key]
        first = path.partition(".")[0]
        if first in SHARED:
            text = f"{first} is shared by all methods, a table compares like with like; keys of a method would do"
            faults.add(mark, entry.path, f"{text}: {', '.join(SWEPT)}")
        elif first not in SWEPT or not all(path.split(".")):
            hint = did_you_mean(first, SWEPT) or f"; known: {', '.join(SWEPT)}"
            faults.add(mark, entry.path, f"unknown key of a method{hint}")
        elif isinstance(entry.value, dict):
            yield from _keys(entry, f"{path}.", faults)
        elif not isinstance(entry.value, tuple) or not entry.value:
            what = "an empty list" if entry.value == () else found(entry.value)
            faults.add(entry.mark, entry.path, f"found {what}; a list of values would do, such as [0.1, 1]")
        else:
            yield Key(path, mark, entry.value)


def _named(node: Node | None, methods: Node, faults: Faults) -> list[str] | None:
    """Read which methods are swept; None: all that have a use for a key."""
    if node is None or node.value is None:
        return None
    if not isinstance(node.value, tuple) or not node.value:
        faults.add(node.mark, node.path, f"found {found(node.value)}; a list of methods would do")
        return []
    known = list(methods.entries)
    for entry in node.value:
        if not isinstance(entry.value, str) or entry.value not in known:
            hint = did_you_mean(str(entry.value), known) or f"; the methods are {', '.join(known)}"
            faults.add(entry.mark, entry.path, f"found {found(entry.value)}, which is no method{hint}")
    return [str(entry.value) for entry in node.value]


def _uses(method: Node, key: str) -> bool:
    """Whether a key changes anything of a method that is written like this."""
    given = method.given
    if "network" in given or (method.value is not None and not isinstance(method.value, dict)):
        return False
    if "genotype" in given:
        return key not in WITHOUT_SEARCH
    strategy = given.get("strategy")
    name = strategy and (strategy.entries["name"].value if "name" in strategy.entries else strategy.value)
    return key not in OF_STRATEGIES or key in _used(str(name or BILEVEL.name), strategy)


def _used(name: str, strategy: Node | None) -> frozenset[str]:
    """Which keys of a method the strategy uses that it names; all where it cannot be made, which is told elsewhere."""
    options = {} if strategy is None else {key: node.plain() for key, node in strategy.entries.items() if key != "name"}
    try:
        return uses(STRATEGIES.load(name)(**options))
    except Exception:  # whatever somebody's strategy raises of its options is told at its place, when it is read
        return frozenset(OF_STRATEGIES)


def _rows(name: str, method: Node, keys: list[Key], faults: Faults) -> Iterator[tuple[str, Node]]:
    """Make the methods of all combinations of values, with their names."""
    for values in product(*(enumerate(key.values, 1) for key in keys)):
        row, node, swept = name, method, {"of": name}
        for key, (place, value) in zip(keys, values, strict=True):
            row += f"_{_short(key, keys)}_{_called(value, place)}"
            swept[key.path] = value.plain()
            node = assigned(node, key.path.split("."), value, key.mark, faults)
        node = put(node, ("swept",), node_of(swept, keys[0].mark), keys[0].mark)
        yield row, node.moved(f"methods.{row}")


def _short(key: Key, keys: list[Key]) -> str:
    """The last part of a key, or all of it where another key ends alike."""
    last = key.path.rpartition(".")[2]
    return last if sum(one.path.rpartition(".")[2] == last for one in keys) == 1 else key.path


def _called(value: Node, place: int) -> str:
    """What a value is called in the name of a row, which names a folder."""
    text = "-".join(re.findall(r"[A-Za-z0-9._-]+", value_text(value.plain())))
    return text if 0 < len(text) <= LONGEST_VALUE else str(place)
