"""What is wrong with a recipe that shows only when something is tried: noted where the key at fault is written."""

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
KEYS = {f"{section}.{field.name}" for section, cls in SECTIONS.items() for field in attrs.fields(cls)}
"""Keys of the recipe that a message may be about."""

OF_METHODS = ("network", "weights", "genotype")
"""Keys that methods alone have."""


@frozen
class Noting:
    """Notes what is wrong at the place of a key.

    Args:
        places: where every key is written.
        file: the recipe's.
        faults: takes what is wrong.
    """

    places: Mapping[str, Mark]
    file: str
    faults: Faults

    def __call__(self, path: str, text: str) -> None:
        self.faults.add(self.node(path).mark, path, text)

    def node(self, path: str) -> Node:
        """Stands for the value of a key, wherever that is written."""
        return Node(nearest(self.places, path, self.file), path, {})

    def own(self, method: str, key: str) -> str:
        """The path of a key of a method where it has that itself, else of the recipe's."""
        path = f"methods.{method}.{key}"
        return path if path in self.places or key in OF_METHODS else key

    def attempt(self, make: Callable[[], Any], key: str, method: str = "") -> Any:
        """What `make` returns, or `BAD` with a fault at the key that its refusal names.

        Args:
            make: what is tried.
            key: at fault where the refusal names no other.
            method: for which it is tried; its own key is at fault where it has that.
        """
        interrupt.check()
        trial = Faults()
        made = construct(make, self.node(""), trial)
        for fault in trial.found:
            key = "weights" if fault.text.startswith("--weights") else key
            about = next((word for word in re.findall(r"\w+\.\w+", fault.text) if word in KEYS), key)
            self(self.own(method, about), fault.text.removeprefix(f"{about}: "))
        return made
