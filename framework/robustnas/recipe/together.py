"""What keys of a recipe say of each other, and of the dataset's images: told together with all else that is wrong.

Everything here is looked at for the parts of a recipe that could be read, whatever is wrong with the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from attrs import frozen

from robustnas.contracts import Shape
from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults, Mark, nearest
from robustnas.recipe.schema import Attack, Method
from robustnas.recipe.values import BAD, construct
from robustnas.threat import ThreatModel, largest_radius


@frozen
class Parts:
    """What could be read of a recipe.

    Args:
        dataset: its plugin; None where there is none.
        threat: None likewise.
        places: where every key is written.
    """

    dataset: Any
    threat: ThreatModel | None
    methods: Mapping[str, Method]
    attacks: tuple[Attack, ...]
    places: Mapping[str, Mark]

    def own(self, method: str, key: str) -> str:
        """A key of a method where it has that itself, else of the recipe."""
        path = f"methods.{method}.{key}"
        return path if path in self.places else key


def check(parts: Parts, file: str, faults: Faults) -> None:
    """Note all of it.

    Args:
        file: the recipe's.
        faults: takes what is wrong.
    """

    def note(path: str, text: str) -> None:
        faults.add(nearest(parts.places, path, file), path, text)

    for path, text in _warm_ups(parts):
        note(path, text)
    shape = construct(lambda: tuple(parts.dataset.shape), Node(Mark(file), "", {}), Faults())
    if shape is BAD or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        return  # what is wrong with the dataset is told when it is asked for its images
    for path, text in [*_sizes(parts, shape), *_radii(parts, shape)]:
        note(path, text)
    if construct(lambda: parts.dataset.classes, Node(Mark(file), "", {}), Faults()) is BAD:
        return
    for path, asked in _suited(parts, shape):
        construct(asked, Node(nearest(parts.places, path, file), path, {}), faults)


Told = list[tuple[str, str]]
"""Keys, and what is wrong with each."""


def _warm_ups(parts: Parts) -> Told:
    """Searches that end before alpha moves, as after `--set search.epochs=5` of a recipe with a longer warm-up."""
    found: Told = []
    for name, method in parts.methods.items():
        epochs, warmup = method.search.epochs, method.search.warmup_epochs
        if method.network is None and method.genotype is None and warmup >= epochs:
            text = f"found {warmup} with epochs: {epochs}, so alpha never moves; at most {epochs - 1} would do"
            found.append((parts.own(name, "search.warmup_epochs"), text))
    return found


def _sizes(parts: Parts, shape: Shape) -> Told:
    """Pixels that are more than an image has."""
    found: Told = []
    side = min(shape[1:])
    for name, method in parts.methods.items():
        sections: dict[str, Any] = {} if method.network is not None else {"train": method.train}
        if method.network is None and method.genotype is None:
            sections["search"] = method.search
        for section, keys in sections.items():
            for key in ("crop", "cutout"):
                given = getattr(keys, key)
                if given is not None and given > side - 1:
                    text = f"found {given}, and images have {shape[1]}x{shape[2]} pixels; at most {side - 1} would do"
                    found.append((parts.own(name, f"{section}.{key}"), text))
    return found


def _radii(parts: Parts, shape: Shape) -> Told:
    """Radii beyond all images."""
    found: Told = []
    threats = {"threat": parts.threat}
    threats |= {f"methods.{name}.threat": method.threat for name, method in parts.methods.items()}
    threats |= {f"attacks.{place}.threat": one.threat for place, one in enumerate(parts.attacks)}
    for path, threat in threats.items():
        largest = math.inf if threat is None else largest_radius(threat.norm, math.prod(shape))
        if threat is not None and threat.epsilon > largest:
            text = f"found {threat.epsilon:g}, and no two images are more than {largest:g} apart in {threat.norm}"
            example = f"{threat.epsilon:g}/255" if threat.epsilon > 1 else "a smaller one"
            found.append((f"{path}.epsilon", f"{text}; {example} would do"))
    return found


def _suited(parts: Parts, shape: Shape) -> list[tuple[str, partial[Any]]]:
    """What metrics and attacks are to be asked of the images, classes and threats (`contracts.Suited`), and where."""
    used = [
        (f"methods.{name}.metric.{index}", use, method.threat)
        for name, method in parts.methods.items()
        for index, (_, use) in enumerate(method.metric)
    ]
    used += [(f"attacks.{index}", attack.use, attack.threat) for index, attack in enumerate(parts.attacks)]
    found = []
    for path, use, own in used:
        check, threat = getattr(use.plugin, "check", None), own or parts.threat
        if callable(check) and threat is not None:
            known = path if path in parts.places else path.rpartition(".")[0]
            found.append((known, partial(check, shape, parts.dataset.classes, threat)))
    return found
