"""The executor that somebody asks for beside a recipe: a plugin's name, or its name with options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yaml import YAMLError

from robustnas.contracts import Executor
from robustnas.errors import InputError
from robustnas.recipe.document import parse, text_of
from robustnas.recipe.faults import Faults, Mark
from robustnas.recipe.plugins import Plugins
from robustnas.registry import EXECUTORS

FORMS = "local, slurm or {name: slurm, partition: gpu} would do"


def executor_of(given: str | Mapping[str, Any] | Executor | None, by: str) -> Executor | None:
    """Make the executor that was asked for; None where none was.

    Args:
        given: YAML of a plugin, the same as plain data, or an executor.
        by: where it was given, which faults name as their place.

    Raises:
        InputError: there is no such plugin, its options are wrong, or it is something else.
    """
    if given is None or (isinstance(given, Executor) and not isinstance(given, type)):
        return given
    if not isinstance(given, str | Mapping):
        raise InputError(f"{by}: found {given!r:.60}; {FORMS}")
    faults = Faults()
    try:
        text = given if isinstance(given, str) else text_of(dict(given))
    except YAMLError as fault:
        raise InputError(f"{by}: found {fault.args[-1]!r:.60} in it; {FORMS}") from fault
    node = parse(text, by, faults, at=Mark(by))
    use = None if node is None else Plugins(faults).use(node, EXECUTORS)
    faults.raise_all()
    if use is None:
        raise InputError(f"{by}: found nothing; {FORMS}")
    plugin: Executor = use.plugin
    return plugin
