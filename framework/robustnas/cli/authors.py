"""What `robustnas plugins check` does, for whoever writes a plugin."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from robustnas.registry import REGISTRIES
from robustnas.runtime.terminal import tell

if TYPE_CHECKING:
    from robustnas.recipe.document import Node
    from robustnas.recipe.faults import Faults


def check(arguments: argparse.Namespace) -> int:
    """Hold an installed plugin to its contract; 1 if it breaks a promise, each of which is told."""
    from robustnas.recipe.faults import Faults, Mark
    from robustnas.recipe.overlay import node_of, put
    from robustnas.recipe.plugins import Plugins
    from robustnas.testing import CHECKS, ConformanceError

    kind, held, faults = arguments.kind, CHECKS[arguments.kind], Faults()
    REGISTRIES[kind].load(arguments.name)  # as it was typed, whatever YAML would make of it
    written = _node("--set", arguments.set, faults)
    if "name" in written.entries:
        text = f"found beside NAME, which is {arguments.name!r}; options of the plugin would do"
        faults.add(written.keys["name"], "name", text)
    name = Mark("NAME")
    use = Plugins(faults).use(put(written, ["name"], node_of(arguments.name, name), name), REGISTRIES[kind])
    given = _options(held, _node("--kit", arguments.kit, faults), faults)
    faults.raise_all()
    try:
        kept = held(use.plugin, **given)
    except ConformanceError as fault:
        tell(str(fault))
        tell(f"{len(fault.tried) - len(fault.broken)} others are kept; what needs a broken one was not looked at")
        return 1
    tell(f"{kind} {arguments.name} keeps its contract: {len(kept)} promises")
    return 0


def _node(option: str, overrides: Sequence[str], faults: Faults) -> Node:
    """The mapping that `KEY=VALUE` texts make."""
    from robustnas.recipe.faults import Mark
    from robustnas.recipe.overlay import assign, node_of

    node = node_of({}, Mark(option))
    for override in overrides:
        node = assign(node, override, faults, option)
    return node


def _options(held: Callable[..., Any], node: Node, faults: Faults) -> dict[str, Any]:
    """The options of a check of the kit, read as a recipe reads those of a plugin."""
    from robustnas.recipe.values import BAD, read_value, refuse_unknown

    kinds = {name: kind for name, kind in typing.get_type_hints(held).items() if name not in ("plugin", "return")}
    refuse_unknown(node, list(kinds), f"option of {held.__name__}", faults)
    found = {name: read_value(entry, kinds[name], faults) for name, entry in node.entries.items() if name in kinds}
    for name, value in found.items():
        would = None if value is BAD else _would_do(name, value)
        if would is not None:
            faults.add(node.entries[name].mark, name, f"found {value!r}; {would} would do")
    return found


def _would_do(name: str, value: Any) -> str | None:
    """What would do in the place of an option of a check that makes no sense; None where it does."""
    from robustnas.bounds import METHODS
    from robustnas.threat import NORMS

    known = {"norms": NORMS, "methods": METHODS, "splits": ("train", "test")}
    least = {"seed": 0, "limit": 1, "classes": 2}
    if name in known and (not value or not set(value) <= set(known[name])):
        return f"some of {', '.join(known[name])}"
    if name in least and value < least[name]:
        return f"a whole number from {least[name]}"
    if name == "epsilon" and not 0 < value <= 1:
        return "a radius in pixel units, above 0 and at most 1,"
    if name == "epsilons" and (len(set(value)) != 2 or not all(0 < one <= 1 for one in value)):
        return "two different radii in pixel units, above 0 and at most 1,"
    if name == "shapes" and not (value and all(len(shape) == 3 and min(shape) > 0 for shape in value)):
        return "a list of shapes [channels, rows, columns]"
    return None
