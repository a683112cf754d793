"""Keys of stages: digests of everything that determines a result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from robustnas.errors import InputError
from robustnas.recipe.schema import Use
from robustnas.registry import Registry

RESULTS = 5
"""Raised whenever a stage computes something else than before: older results are then not taken for new ones."""


def settings(section: Any, **choices: Registry) -> dict[str, Any]:
    """A section of the recipe as plain data: what of it determines results.

    Args:
        section: `search` or `train`; a field with `metadata={"identity": False}` changes speed or memory alone and
            is left out; one with `"if given"` came later and is left out at its default, so older results still count.
        choices: for each field that holds a plugin, where it is registered.  A third party's enters with its package.
    """
    plain = {
        field.name: _plain(getattr(section, field.name))
        for field in attrs.fields(type(section))
        if _determines(field, getattr(section, field.name))
    }
    for name, registry in choices.items():
        entry, plugin = registry.entry_of(type(getattr(section, name))), getattr(section, name)
        provider = {} if entry.stranger is None else {"provider": entry.stranger}
        plain[name] = {"name": entry.name, **_options(plugin), **provider}
    return plain


def _determines(field: attrs.Attribute[Any], value: Any) -> bool:
    """Whether the value of a field of a section enters a key."""
    rule = field.metadata.get("identity", True)
    return value != field.default if rule == "if given" else bool(rule)


def identity(kind: str, use: Use, without_stage: str | None = None, split: str = "train") -> dict[str, Any]:
    """A plugin as plain data: its name, the options that matter to results, and the package that provides it.

    Args:
        kind: of plugin, as `robustnas.registry.REGISTRIES` calls it.
        use: the plugin; a field with `metadata={"identity": False}` (where data lies, how many threads read it)
            changes no result and is left out.  A dataset's `contents` join the options where it has some.
        without_stage: leave out fields with this `metadata["stage"]`, which concern that stage alone.
        split: of a dataset, whose contents they are.
    """
    options: Mapping[str, Any] = use.options
    cls = type(use.plugin)
    if attrs.has(cls):
        options = _options(use.plugin, without_stage)
    known_by = contents(use, split) if kind == "dataset" else None
    return {
        "name": use.name,
        "options": dict(options) | ({} if known_by is None else {"contents": known_by}),
        "provider": use.provider,
    }


def _options(plugin: Any, without_stage: str | None = None) -> dict[str, Any]:
    """The options of an attrs object that determine results, by name."""
    fields = [
        f
        for f in attrs.fields(type(plugin))
        if f.init
        and not f.name.startswith("_")
        and f.metadata.get("identity", True)
        and (without_stage is None or f.metadata.get("stage") != without_stage)
    ]
    return {f.name: _plain(getattr(plugin, f.name)) for f in fields}


def contents(use: Use, split: str) -> str | None:
    """What tells the images of a split of a dataset from others; None where its options do.

    Raises:
        DataError: the images are not there.
    """
    found: str | Mapping[str, str] | None = getattr(use.plugin, "contents", None)
    return found[split] if isinstance(found, Mapping) else found


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value


def digest(kind: str, inputs: Any) -> str:
    """The key of a stage: 12 hexadecimal digits."""
    text = json.dumps([RESULTS, kind, inputs], sort_keys=True, default=_by_value)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _by_value(value: Any) -> Any:
    """An option that JSON has no form for, as something that is the same in every process."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, tuple):
        return list(value)
    raise InputError(
        f"an option of a plugin is a {type(value).__name__} ({value!r}), which has no value that can be written down; "
        "numbers, texts, lists and attrs values would do"
    )
