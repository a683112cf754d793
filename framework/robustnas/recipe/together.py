"""Checks keys of a recipe against each other and against the dataset's images.

The parts that could be read are checked whatever is wrong with the others, so that all faults come at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from attrs import frozen

from robustnas.contracts import AttackTraits, Shape, check_of, is_differentiable
from robustnas.recipe.faults import Faults
from robustnas.recipe.noting import Noting
from robustnas.recipe.schema import Attack, Method
from robustnas.recipe.values import BAD, construct
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.threat import ThreatModel, largest_radius


@frozen
class Parts:
    """The parts of a recipe that could be read.

    Args:
        dataset: the dataset's plugin; None where it could not be read.
        threat: the recipe's threat; None where it could not be read.
    """

    dataset: Any
    threat: ThreatModel | None
    methods: Mapping[str, Method]
    attacks: tuple[Attack, ...]


def check(parts: Parts, note: Noting) -> None:
    """Note all contradictions between parts of a recipe."""
    _warm_ups(parts, note)
    _gradients(parts, note)
    _others(parts, note)
    shape = construct(lambda: tuple(parts.dataset.shape), note.node(""), Faults())
    if shape is BAD or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        return  # faults of the dataset itself are noted when its images are read
    _sizes(parts, shape, note)
    _radii(parts, shape, note)
    if construct(lambda: parts.dataset.classes, note.node(""), Faults()) is not BAD:
        _suited(parts, shape, note)


def _warm_ups(parts: Parts, note: Noting) -> None:
    """Note searches that end before alpha moves, as after `--set search.epochs=5` of a recipe with a longer warm-up."""
    for name, method in parts.methods.items():
        epochs, warmup = method.search.epochs, method.search.warmup_epochs
        if isinstance(method.strategy.plugin, Bilevel) and "search" in method.uses and warmup >= epochs:
            text = f"found {warmup} with epochs: {epochs}, so alpha never moves; at most {epochs - 1} would do"
            note(note.own(name, "search.warmup_epochs"), text)


def _gradients(parts: Parts, note: Noting) -> None:
    """Note metrics whose scores move nothing in a search that goes by gradients."""
    for name, method in parts.methods.items():
        for index, (_, use) in enumerate(method.metric):
            bilevel = isinstance(method.strategy.plugin, Bilevel) and "metric" in method.uses
            if bilevel and not is_differentiable(use.plugin):
                text = f"found {use.name!r}, whose score has no gradient, and a bilevel search moves alpha by gradients"
                would = (
                    "strategy: {name: evolution, objective: metric, network: untrained} would do, or robustnas rank "
                )
                note(_of_metric(name, index, note), f"{text}; {would}with rank: {{metrics: [{use.name}]}}")


def _of_metric(method: str, index: int, note: Noting) -> str:
    """The path of a metric of a method, which is the key itself where it is no list."""
    path = f"methods.{method}.metric.{index}"
    return path if path in note.places else path.rpartition(".")[0]


def _others(parts: Parts, note: Noting) -> None:
    """Note attacks that need images made on other networks, where there is only one network."""
    for attack in parts.attacks:
        if len(parts.methods) < 2 and AttackTraits.of(attack.use.plugin).transfers:
            text = f"{attack.label} shows each network images that were made on the others', and there is one method"
            note("attacks", f"{text}; a second one, or another attack, would do")


def _sizes(parts: Parts, shape: Shape, note: Noting) -> None:
    """Note crops and squares of more pixels than an image has."""
    side = min(shape[1:])
    for name, method in parts.methods.items():
        sections: dict[str, Any] = {} if method.network is not None else {"train": method.train}
        sections |= {"search": method.search} if "search" in method.uses else {}
        for section, key in ((section, key) for section in sections for key in ("crop", "cutout")):
            given = getattr(sections[section], key)
            if given is not None and given > side - 1:
                text = f"found {given}, and images have {shape[1]}x{shape[2]} pixels; at most {side - 1} would do"
                note(note.own(name, f"{section}.{key}"), text)


def _radii(parts: Parts, shape: Shape, note: Noting) -> None:
    """Note radii larger than the whole box of images."""
    threats = {"threat": parts.threat}
    threats |= {f"methods.{name}.threat": method.threat for name, method in parts.methods.items()}
    threats |= {f"attacks.{place}.threat": attack.threat for place, attack in enumerate(parts.attacks)}
    for path, threat in threats.items():
        largest = math.inf if threat is None else largest_radius(threat.norm, math.prod(shape))
        if threat is not None and threat.epsilon > largest:
            text = f"found {threat.epsilon:g}, and no two images are more than {largest:g} apart in {threat.norm}"
            example = f"{threat.epsilon:g}/255" if threat.epsilon > 1 else "a smaller one"
            note(f"{path}.epsilon", f"{text}; {example} would do")


def _suited(parts: Parts, shape: Shape, note: Noting) -> None:
    """Note metrics and attacks that images, classes or threat do not suit (`contracts.Suited`)."""
    used = [
        (_of_metric(name, index, note), use, method.threat)
        for name, method in parts.methods.items()
        for index, (_, use) in enumerate(method.metric)
    ]
    used += [(f"attacks.{index}", attack.use, attack.threat) for index, attack in enumerate(parts.attacks)]
    for path, use, own in used:
        check, threat = check_of(use.plugin), own or parts.threat
        if check is not None and threat is not None:
            construct(partial(check, shape, parts.dataset.classes, threat), note.node(path), note.faults)
