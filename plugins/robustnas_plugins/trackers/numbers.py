"""The numbers of a result or of a row of the table, as trackers show them: flat, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers by name; those of a mapping have its name before a slash, and of a figure of the table its mean."""
    found: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            value = value.get("mean", value)
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": number for key, number in numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    return found
