"""Keys of stages: digests of everything that determines a result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import attrs

from robustnas import contracts
from robustnas.errors import InputError
from robustnas.options import plain
from robustnas.recipe.schema import Use
from robustnas.registry import REGISTRIES, Registry

RESULTS = 9
"""This number rises whenever a stage computes something else than before, so that older results do not count."""


def settings(section: Any, without_stage: str | None = None) -> dict[str, Any]:
    """The fields of a section or of a plugin that determine results, by name.

    Args:
        section: an attrs object.  Fields with `metadata={"identity": False}` (where data lies, what changes only speed
            or memory) are left out.  Fields with `"if given"` came later and are left out at their default, so that
            older results still count.  A field that holds a plugin gives its name, options and third-party package.
        without_stage: leave out fields with this `metadata["stage"]`, which concern that stage alone.
    """
    values = {}
    for field in attrs.fields(type(section)):
        value = getattr(section, field.name)
        if _determines(field, value) and (without_stage is None or field.metadata.get("stage") != without_stage):
            registry = REGISTRIES.get(field.metadata.get("plugin", ""))
            values[field.name] = value if registry is None else _plugin(registry, value)
    return values


def _determines(field: attrs.Attribute[Any], value: Any) -> bool:
    """Whether the value of a field enters a key."""
    rule = field.metadata.get("identity", True)
    given = value != field.default if rule == "if given" else bool(rule)
    return given and field.init and not field.name.startswith("_")


def _plugin(registry: Registry, plugin: object) -> dict[str, Any]:
    """Describe a plugin that is the value of a key of a section."""
    entry = registry.entry_of(type(plugin))
    return {"name": entry.name, **settings(plugin), **({} if entry.stranger is None else {"provider": entry.stranger})}


def identity(kind: str, use: Use, without_stage: str | None = None, split: str = "train") -> dict[str, Any]:
    """Describe a plugin by its name, the options that matter to results, and a third party's package.

    Args:
        kind: kind of plugin, as `robustnas.registry.REGISTRIES` calls it.
        use: the plugin.  The `contents` of a dataset or an attack join the options where it has some.
        without_stage: leave out the options of that stage, as in `settings`.
        split: the split of a dataset whose contents count.
    """
    options = settings(use.plugin, without_stage) if attrs.has(type(use.plugin)) else use.options
    known_by = contents(use, split) if kind in ("dataset", "attack") else None
    return {
        "name": use.name,
        "options": {**options, **({} if known_by is None else {"contents": known_by})},
        "provider": use.provider,
    }


def contents(use: Use, split: str) -> str | None:
    """Return what tells the images of a split from others; None where the dataset's options do.

    Raises:
        DataError: the images are not there.
    """
    found = contracts.contents(use.plugin)
    return found[split] if isinstance(found, Mapping) else found


def digest(kind: str, inputs: Any) -> str:
    """Compute the key of a stage: 12 hexadecimal digits, the same in every process.

    Raises:
        InputError: the value of an option cannot be written as JSON.
    """
    text = json.dumps([RESULTS, kind, plain(inputs, _refuse)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _refuse(value: Any) -> NoReturn:
    raise InputError(
        f"an option of a plugin is a {type(value).__name__} ({value!r}), which has no value that can be written down; "
        "numbers, texts, lists and attrs values would do"
    )
