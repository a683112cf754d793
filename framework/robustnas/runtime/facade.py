"""Packages whose names are imported when they are first used, so that reading a settings class costs no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def facade(package: str, **modules: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562) that re-exports names of its modules.

    Args:
        package: `__name__` of the package.
        modules: for each name, the module of the package that defines it.
    """

    def lookup(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return lookup
