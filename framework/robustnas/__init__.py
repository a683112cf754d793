"""robustnas: search for robust neural architectures, attack them, certify them, compare them in one table.

    recipe -> plan -> search -> genotype -> train -> attack + certify -> one table

`robustnas.pipeline` is the map of the flow; `robustnas.contracts` is what a plugin author reads first.

In Python a recipe is run with `robustnas.run_recipe`, what a run found is read with `robustnas.open`, and several runs
stand in one table with `robustnas.compare`.  These names are imported when they are first used; `__init__.pyi` has
their types.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

MOVED = {
    "robustnas.bracket": "robustnas.certify.bracket",
    "robustnas.cells": "robustnas.nn.cells",
    "robustnas.doubled": "robustnas.nn.float64",
    "robustnas.draws": "robustnas.attack.per_image_random",
    "robustnas.foolbox_attack": "robustnas.attack.foolbox_attack",
    "robustnas.images": "robustnas.data.images",
    "robustnas.smoothing": "robustnas.certify.smoothing",
    "robustnas.statistics": "robustnas.nn.batch_statistics",
}
"""Public modules under the names they had before; plugins written for those go on working, and are told."""

HANDED_OUT = {
    "Run": "robustnas.table.opened",
    "Table": "robustnas.table.tabulated",
    "compare": "robustnas.table.several",
    "open": "robustnas.table.opened",
    "run_recipe": "robustnas.pipeline",
}
"""The names of this package, and the modules that define them."""


def __getattr__(name: str) -> Any:
    if name not in HANDED_OUT:
        raise AttributeError(f"module 'robustnas' has no attribute {name!r}")
    return getattr(import_module(HANDED_OUT[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HANDED_OUT})


class _Moved(MetaPathFinder, Loader):
    """Finds a moved module under its former name: the same module, not a copy."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        former, name = module.__name__, MOVED[module.__name__]
        warnings.warn(f"{former} is {name} now", DeprecationWarning, stacklevel=2)
        sys.modules[former] = import_module(name)


sys.meta_path.append(_Moved())
