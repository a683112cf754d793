"""Notes faults that show only when something is tried, at the place where the key at fault is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from attrs import frozen

from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults, Mark, nearest
from robustnas.recipe.values import construct
from robustnas.runtime import interrupt
from robustnas.search.settings import Search
from robustnas.train.settings import Train

SECTIONS = {"search": Search, "train": Train, "evaluate": Evaluate, "certify": Certify, "smoothing": Smoothing}
KEYS = {f"{section}.{field.name}" for section, cls in SECTIONS.items() for field in attrs.fields(cls)} | {
    "dataset.train_images"
}
"""Keys of the recipe that a message may name as the fault."""

OF_METHODS = ("network", "weights", "genotype", "strategy", "best_of")
"""Keys that methods alone have."""


@frozen
class Noting:
    """Notes what is wrong at the place of a key.

    Args:
        places: where every key is written.
        file: the recipe's.
        faults: collects what is wrong.
    """

    places: Mapping[str, Mark]
    file: str
    faults: Faults

    def __call__(self, path: str, text: str) -> None:
        self.faults.add(self.node(path).mark, path, text)

    def node(self, path: str) -> Node:
        """Make a node that stands for the value of a key, wherever that is written."""
        return Node(nearest(self.places, path, self.file), path, {})

    def own(self, method: str, key: str) -> str:
        """The path of a key: below the method where that has the key, else at the top of the recipe."""
        path = f"methods.{method}.{key}"
        return path if path in self.places or key in OF_METHODS else key

    def attempt(self, make: Callable[[], Any], key: str, method: str = "") -> Any:
        """Return what `make` returns, or `BAD` with a fault at the key that its refusal names.

        Args:
            make: is called without arguments.
            key: the key at fault where the refusal names none.
            method: the method for which `make` is called, whose own key is at fault where it has that key.
        """
        interrupt.check()
        trial = Faults()
        made = construct(make, self.node(""), trial)
        for fault in trial.found:
            key = "weights" if fault.text.startswith("--weights") else key
            about = next((word for word in re.findall(r"\w+\.\w+", fault.text) if word in KEYS), key)
            self(self.own(method, about), fault.text.removeprefix(f"{about}: "))
        return made
