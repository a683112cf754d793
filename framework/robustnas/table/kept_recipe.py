"""The recipe that a run keeps: its text, and as plain data with every default filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import damaged, of_no_stage, opened
from robustnas.runtime.strangers import described


def read(folder: Path) -> tuple[str, Any]:
    """Read the recipe in a run directory.

    It was checked and written out by the run, so that PyYAML reads it, by its fast loader where that is built: a table
    of a hundred runs does not wait for them.

    Raises:
        RunDirectoryError: it is not there, not what was written, or damaged.
    """
    file = folder / "recipe.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with opened(file, of_no_stage(file)) as kept:
            text = kept.read().decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
            raise ValueError("it has an alias, which no run writes")
        return text, yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as fault:
        raise RunDirectoryError(damaged(file, described(fault), of_no_stage(file))) from fault
