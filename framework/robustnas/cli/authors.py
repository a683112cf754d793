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
    from robustnas.recipe.faults import Faults
    from robustnas.recipe.plugins import Plugins
    from robustnas.testing import CHECKS, ConformanceError

    kind, held, faults = arguments.kind, CHECKS[arguments.kind], Faults()
    written = _node("--set", [f"name={arguments.name}", *arguments.set], faults)
    use = Plugins(faults).use(written, REGISTRIES[kind])
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
    from robustnas.recipe.document import parse
    from robustnas.recipe.faults import Mark
    from robustnas.recipe.overlay import assign

    node = parse("{}", option, faults, at=Mark(option))
    assert node is not None
    for override in overrides:
        node = assign(node, override, faults, option)
    return node


def _options(held: Callable[..., Any], node: Node, faults: Faults) -> dict[str, Any]:
    """The options of a check of the kit, read as a recipe reads those of a plugin."""
    from robustnas.recipe.values import read_value, refuse_unknown

    kinds = {name: kind for name, kind in typing.get_type_hints(held).items() if name not in ("plugin", "return")}
    refuse_unknown(node, list(kinds), f"option of {held.__name__}", faults)
    return {name: read_value(entry, kinds[name], faults) for name, entry in node.entries.items() if name in kinds}
