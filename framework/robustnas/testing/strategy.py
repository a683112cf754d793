"""The promises of a strategy: it finds a genotype of the space, by its seed alone, from training images alone."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import Factory, define, frozen
from torch import Tensor, nn

from robustnas.contracts import Estimation, Genotype, Images, SearchContext, Shape, estimation
from robustnas.data.images import InMemory
from robustnas.errors import InputError
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.processes import ALONE
from robustnas.runtime.report import silent
from robustnas.runtime.seeding import reseed
from robustnas.search.settings import Search
from robustnas.testing.discrete_network import require_plain
from robustnas.testing.networks import CLASSES, SHAPE, TinySupernet, tiny_images
from robustnas.testing.promise import Judge, judged, made, own_randomness
from robustnas.threat import ThreatModel

OPS = ("conv", "avg_pool", "max_pool", "none")
EDGES = 2
IMAGES = 48


@frozen
class TinySpace:
    """The sixteen genotypes of `TinySupernet`: one of four operations on each of two edges."""

    candidates: Mapping[str, Sequence[str]] = Factory(lambda: {"edges": OPS})
    decisions: tuple[int, ...] = EDGES * (len(OPS),)

    def decide(self, options: Sequence[int]) -> Genotype:
        """The operations by their numbers."""
        return {"ops": [OPS[number] for number in options]}

    def sample(self, generator: torch.Generator) -> Genotype:
        """Each operation uniformly."""
        return self.decide([int(torch.randint(len(OPS), (), generator=generator)) for _ in range(EDGES)])

    def path(self, genotype: Genotype) -> dict[str, Tensor]:
        """One-hot rows."""
        return {"edges": torch.eye(len(OPS))[[OPS.index(op) for op in genotype["ops"]]]}

    def supernet(self, shape: Shape, classes: int) -> TinySupernet:
        """For the kit's own images alone."""
        return TinySupernet()

    def genotype(self, supernet: Any) -> Genotype:
        """The strongest operation of each edge."""
        return self.decide(supernet.mixing()["edges"].argmax(dim=1).tolist())

    def network(self, genotype: Genotype, shape: Shape, classes: int, auxiliary: bool = False) -> nn.Module:
        """The supernet's path as a network of its own.

        Raises:
            InputError: not a genotype of this space.
        """
        ops = genotype.get("ops") if isinstance(genotype, dict) else None
        if not isinstance(ops, list) or len(ops) != EDGES or not all(op in OPS for op in ops):
            raise InputError(f"genotype: found {str(genotype)[:80]}; ops: [conv, none], say, would do")
        return _Discrete(self.path(genotype))


class _Discrete(nn.Module):
    """A tiny supernet with fixed mixing weights."""

    def __init__(self, path: dict[str, Tensor]):
        super().__init__()
        self.inside = TinySupernet()
        self.path = path

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inside(images, self.path)
        return logits


@define
class Asked:
    """A data set of the kit's images that notes which splits are asked for."""

    images: Images
    splits: list[str] = Factory(list)
    shape: Shape = SHAPE
    classes: int = CLASSES
    mean: tuple[float, ...] = (0.45,)
    std: tuple[float, ...] = (0.15,)

    def split(self, name: str) -> Images:
        """The same images, whichever split it is."""
        self.splits.append(name)
        return self.images


@define
class Estimated:
    """Judges genotypes by their digests, and notes which were asked for.

    Args:
        space: builds what is asked for, on the meta device.
        failing: whether genotypes of odd digests cannot be judged.
    """

    space: TinySpace
    verdict: Judge
    failing: bool = False
    asked: list[tuple[str, Estimation]] = Factory(list)

    def __call__(self, genotype: Genotype, how: Estimation) -> Mapping[str, float]:
        """Figures in [0, 1], the same whenever they are asked for."""
        promise = "estimate is asked about genotypes of the space"
        with self.verdict.promised(promise), torch.device("meta"):
            self.space.network(genotype, SHAPE, CLASSES)
        self.verdict.require(
            isinstance(how, Estimation) and bool(how.objectives),
            "estimate is asked how, by an Estimation with objectives",
            repr(how)[:80],
        )
        text = json.dumps(genotype, sort_keys=True)
        self.asked.append((text, how))
        found = {}
        for one in how.objectives:
            number = int(hashlib.sha256(f"{text} {one}".encode()).hexdigest()[:6], 16)
            found[one] = math.nan if self.failing and number % 2 else number / 16**6
        return found


def check_strategy(plugin: Any, *, seed: int = 0) -> tuple[str, ...]:
    """Hold a strategy to its contract: it searches a space of sixteen genotypes a few times.

    Args:
        plugin: the strategy, or its class, which is made with default options.  Few candidates keep it short.
        seed: of the images and of the searches.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
        InputError: its `check` says that it cannot search here.
    """
    with judged("strategy", plugin) as verdict, own_randomness(seed), torch.enable_grad():
        strategy = made(plugin, verdict)
        if hasattr(strategy, "check"):
            found = strategy.check()
            verdict.expect(found is None, "check returns nothing, and refuses by raising InputError", repr(found))
        first, asked = _searched(strategy, verdict, seed)
        again, asked_again = _searched(strategy, verdict, seed)
        verdict.expect(
            (first, asked) == (again, asked_again),
            "search is a function of its context: the seed, and what estimate answers",
            "one context, two searches",
        )
        most = getattr(strategy, "candidates", None)
        if most is not None:
            distinct = len({text for text, _ in asked})
            verdict.expect(
                distinct <= most, "candidates is how many genotypes are judged, at most", f"{distinct} of {most}"
            )
        how = estimation(strategy)
        if how is not None:
            verdict.expect(
                isinstance(how, Estimation), "estimation is an Estimation", f"found {type(how).__name__}: {how!r:.60}"
            )
            with verdict.apart():
                _searched(strategy, verdict, seed, failing=True)
    return tuple(verdict.tried)


def _searched(
    strategy: Any, verdict: Judge, seed: int, failing: bool = False
) -> tuple[Genotype, list[tuple[str, Estimation]]]:
    """Search once; return the genotype and what was asked for."""
    reseed(seed)
    images, labels = tiny_images(IMAGES)
    space, dataset = TinySpace(), Asked(InMemory(images, labels))
    estimated = Estimated(space, verdict, failing)
    with tempfile.TemporaryDirectory() as temporary:
        context = SearchContext(
            dataset=dataset,
            space=space,
            metrics=(),
            threat=ThreatModel("linf", 8 / 255),
            settings=Search(epochs=1, batch=8),
            seed=seed,
            generator=torch.Generator().manual_seed(seed),
            estimate=estimated,
            report=silent,
            folder=StageFolder(Path(temporary) / "search" / "kit-0123456789ab"),
            device=torch.device("cpu"),
            processes=ALONE,
        )
        promise = "search goes on where a candidate could not be judged" if failing else "search returns a genotype"
        with verdict.promised(promise):
            found = strategy.search(context)
            genotype = found["genotype"]
    require_plain(genotype, "search returns a genotype that", verdict)
    with verdict.promised("search returns a genotype that builds"), torch.device("meta"):
        space.network(genotype, SHAPE, CLASSES)
    verdict.expect(
        set(dataset.splits) <= {"train"}, "search asks for training images alone", f"it asked for {dataset.splits}"
    )
    with verdict.promised("search returns plain data"):
        json.dumps(dict(found))
    return genotype, estimated.asked
