"""Plugins that a test took from files."""

from __future__ import annotations

from robustnas.registry import REGISTRIES
from robustnas.registry.plugin_file import GIVEN


def forget() -> None:
    """As in a new process: no file has been given."""
    GIVEN.clear()
    for registry in REGISTRIES.values():
        registry.given.clear()
