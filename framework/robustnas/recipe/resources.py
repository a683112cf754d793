"""Section `resources`: what a stage of each kind may use where a scheduler does it.

    resources: {every: {cpus: 8}, search: {gpus: 4, hours: 8}, train: {hours: 12}}

It changes no result but for the number of threads, and of processes that share a batch, to rounding; so it is no part
of any key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults
from robustnas.recipe.overlay import overlay
from robustnas.recipe.schema import Needs
from robustnas.recipe.values import BAD, found, read_object, refuse_unknown

EVERY = "every"
"""The entry that is laid under those of all kinds."""

KINDS = (
    "search", "candidate", "choose", "supernet", "train", "clean", "probe", "certify", "attack", "smooth", "score",
)  # fmt: skip
"""The kinds of stages; `robustnas.plan`, which is above this room, says what they are."""


def read_resources(node: Node, faults: Faults) -> dict[str, Needs]:
    """Read the section: for each kind that it concerns what it says, and under `every` what it says of the others."""
    if node.value is None:
        return {}
    if not isinstance(node.value, dict):
        faults.add(
            node.mark, node.path, f"found {found(node.value)}; a mapping such as {{search: {{gpus: 1}}}} would do"
        )
        return {}
    refuse_unknown(node, [EVERY, *KINDS], "kind of stage", faults)
    every = node.value.get(EVERY)
    needs: dict[str, Needs] = {}
    for kind in [kind for kind in (EVERY, *KINDS) if kind in node.entries]:
        own = node.entries[kind]
        laid = own if kind == EVERY or every is None else overlay(every, own)
        value: Any = BAD if laid is None else read_object(Needs, laid, faults, f"key of {node.path}.{kind}")
        if value is not BAD:
            needs[kind] = value
    return needs


def needs_of(resources: Mapping[str, Needs], kind: str) -> Needs:
    """What a section says of a kind of stages."""
    return resources.get(kind) or resources.get(EVERY) or Needs()
