"""Lays one tree of nodes over another, for `extends`, `--set` and the sections of a method.

Mappings merge key by key; lists and scalars replace.  A plugin's name counts as the mapping `{name: ...}`
where keys are laid over it, and options never pass from a plugin to one of another name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from robustnas.recipe.document import DEEPEST, LONGEST_KEY, Node, below, parse, text_of
from robustnas.recipe.faults import Faults, Mark
from robustnas.runtime.suggest import did_you_mean

LONGEST = 100
"""A message shows at most so many characters of a `--set`."""


def overlay(base: Node | None, over: Node | None) -> Node | None:
    """Lay `over` over `base`; every node keeps the place where it is written."""
    if base is None or over is None:
        return over or base
    if not isinstance(over.value, dict):
        return over
    under = _as_mapping(base) if "name" not in over.keys else base
    if not isinstance(under.value, dict) or _name(over) not in (None, _name(under)):
        return over
    merged = dict(under.value)
    for key, node in over.value.items():
        if over.path in ("methods", "published") and (node is None or node.value is None) and key in merged:
            del merged[key]  # null leaves out a method, or a published row, of the base
            continue
        laid = overlay(None if over.path == "published" else merged.get(key), node)  # figures stay with their source
        if laid is not None:
            merged[key] = laid
    return evolve(over, value=merged, keys={**under.keys, **over.keys})


def assign(root: Node, argument: str, faults: Faults, option: str = "--set") -> Node:
    """Put the `KEY=VALUE` of a `--set` into the tree; VALUE replaces what stood at KEY."""
    mark = Mark(f"{option} {argument if len(argument) <= LONGEST else f'{argument[: LONGEST - 3]}...'}")
    key, equals, text = argument.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        faults.add(mark, "", "found no dotted key before '='; KEY=VALUE would do, such as search.epochs=5")
        return root
    if len(parts) > DEEPEST or len(key) > LONGEST_KEY:
        text = (
            f"found a key of {len(parts)} parts and {len(key)} characters; at most {DEEPEST} and {LONGEST_KEY} would do"
        )
        faults.add(mark, "", text)
        return root
    if parts[0] == "extends":
        faults.add(mark, "extends", "found in --set; it belongs in the file")
        return root
    before = len(faults)
    value = parse(text, str(mark), faults, at=mark)
    if value is None and len(faults) > before:
        return root
    return assigned(root, parts, value or Node(mark, "", None), mark, faults)


def assigned(node: Node, parts: Sequence[str], value: Node, mark: Mark, faults: Faults) -> Node:
    """Put a value at a key below a node, as somebody typed it: faults where there can be no such key.

    Args:
        parts: the key, cut at its dots, of which the longest name of a key that is there may have some itself.
        mark: where the key is written.
    """
    if not parts:
        return value.moved(node.path)
    if isinstance(node.value, tuple):
        if not re.fullmatch("[0-9]{1,9}", parts[0]) or int(parts[0]) >= len(node.value):
            text = f"found {parts[0]!r} as an index; the list has the entries 0 to {len(node.value) - 1}"
            faults.add(mark, below(node.path, parts[0]), text if node.value else "the list is empty")
            return node
        index = int(parts[0])
        items = list(node.value)
        items[index] = assigned(items[index], parts[1:], value, mark, faults)
        return evolve(node, value=tuple(items))
    node = _as_mapping(node)
    if node.value is None:
        node = evolve(node, value={})
    if not isinstance(node.value, dict):
        faults.add(mark, below(node.path, parts[0]), f"{node.path} is no mapping; it has no keys to set")
        return node
    # The name of a method may hold dots itself, so the longest key that is there is meant.
    count = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in node.value), 1)
    key = ".".join(parts[:count])
    near = did_you_mean(key, list(node.value)) if node.path == "methods" and key not in node.value else ""
    if near and parts[count:]:
        text = f"there is no such method{near}"
        faults.add(mark, below(node.path, key), f"{text}  (A new one is given whole: --set 'methods.{key}={{...}}')")
        return node
    entry = node.value.get(key) or Node(mark, below(node.path, key), None)
    entries = {**node.value, key: assigned(entry, parts[count:], value, mark, faults)}
    return evolve(node, value=entries, keys={**node.keys, key: node.keys.get(key, mark) if parts[count:] else mark})


def put(node: Node, path: Sequence[str], value: Node, mark: Mark) -> Node:
    """Put a value at a key below a node, whatever stood there; what is on the way becomes a mapping where it is none.

    Args:
        path: the key's parts, below the node.
        mark: where the key is written.
    """
    if not path:
        return value.moved(node.path)
    key, rest = path[0], path[1:]
    if isinstance(node.value, tuple):
        items = list(node.value)
        items[int(key)] = put(items[int(key)], rest, value, mark)
        return evolve(node, value=tuple(items))
    node = _as_mapping(node)
    there = node.entries.get(key) or Node(mark, below(node.path, key), None)
    marks = {**node.keys, key: node.keys.get(key, mark) if rest else mark}
    return evolve(node, value={**node.entries, key: put(there, rest, value, mark)}, keys=marks)


def node_of(value: Any, mark: Mark) -> Node:
    """Make the node of plain data, every value of which stands at one place."""
    node = parse(text_of(value), "", Faults(), at=mark)
    return Node(mark, "", None) if node is None else node


def _as_mapping(node: Node) -> Node:
    """Expand a bare name to the mapping it stands for; return any other node as it is."""
    if not isinstance(node.value, str):
        return node
    name = evolve(node, path=below(node.path, "name"))
    return evolve(node, value={"name": name}, keys={"name": node.mark})


def _name(node: Node) -> str | None:
    """Return the plugin that a node is about, if it is about one."""
    if isinstance(node.value, str):
        return node.value
    name = node.value.get("name") if isinstance(node.value, dict) else None
    return name.value if name is not None and isinstance(name.value, str) else None
