"""The values of a plan: its stages, its methods with every name resolved, and what is shared by all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs
from attrs import Factory, field, frozen

from robustnas.attack.column import Column
from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.contracts import Dataset, Estimation, Genotype, SearchSpace, Strategy
from robustnas.foreign.settings import Weights
from robustnas.recipe.schema import Ranking, Reported
from robustnas.recipe.seeds import Seed, Seeds
from robustnas.search.candidates import BestOf
from robustnas.search.settings import Search
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.threat import ThreatModel
from robustnas.train.settings import Train

if TYPE_CHECKING:
    from robustnas.train.sizes import Sizes  # it imports torch, which whoever reads results does without

Kind = Literal[
    "search", "candidate", "choose", "supernet", "train", "clean", "probe", "certify", "attack", "smooth", "score"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
OF_A_SEARCH = KINDS[: KINDS.index("train")]
"""The kinds of stages that find a genotype, whatever the seed of its training."""


@frozen
class Foreign:
    """A network that was made elsewhere, as a recipe names it.

    Args:
        factory: `module:factory`.
        weights: the file of weights; None where the factory fills them in.
        normalize: whether the data set's mean and deviation become its first layer.
    """

    factory: str
    weights: Weights | None
    normalize: bool


@frozen
class MethodPlan:
    """One method, its names resolved: plugins are objects, sections are complete.

    Args:
        parameters: trainable weights of the genotype's network, where the recipe names a genotype.
        network: the network, where it was made elsewhere; then nothing of it is searched or trained here.
        strategy: what finds a genotype, where none is named.
        best_of: how many genotypes it finds, and how one of them is chosen; None: one.
        swept: as in `robustnas.recipe.schema.Method`.
    """

    name: str
    threat: ThreatModel
    search: Search
    train: Train
    search_space: SearchSpace | None = None
    metrics: tuple[tuple[float, Any], ...] = ()
    genotype: Genotype | None = None
    genotype_source: str | None = None
    parameters: int | None = None
    network: Foreign | None = None
    strategy: Strategy = Factory(Bilevel)
    best_of: BestOf | None = None
    swept: Mapping[str, Any] | None = None

    @property
    def finds(self) -> bool:
        """Whether its genotypes are found here, by a search or by a draw."""
        return self.genotype is None and self.network is None

    @property
    def searches(self) -> bool:
        """Whether a bilevel search finds its genotypes."""
        return self.finds and isinstance(self.strategy, Bilevel)

    def seeds_of(self, seeds: Seeds) -> tuple[Seed, ...]:
        """List the seeds of its networks, of those of the recipe."""
        return seeds.all if self.finds else seeds.of_one_genotype

    @property
    def of_candidates(self) -> Train:
        """Section `train` as it holds for candidates, which some training images judge and do not train."""
        assert self.best_of is not None
        epochs = self.best_of.epochs or self.train.epochs
        return attrs.evolve(self.train, epochs=epochs, checkpoint="best", holdout=self.best_of.holdout)

    def estimated(self, how: Estimation) -> Train:
        """Section `train` as it holds for candidates that a strategy has judged."""
        epochs = how.epochs if how.network == "trained" and how.epochs is not None else self.train.epochs
        return attrs.evolve(self.train, epochs=epochs, checkpoint="best", holdout=how.holdout)

    @property
    def space(self) -> SearchSpace:
        """The search space; a network made elsewhere has none."""
        assert self.search_space is not None
        return self.search_space


@frozen
class Stage:
    """One piece of work, which reads the results of others and writes one.

    Args:
        key: identifies the result.
        needs: keys of the stages that must succeed first.
        after: keys of stages that must end first, whose results are used where they succeed.
        column: the column of an attack; other stages have none.
        candidate: the number of the candidate, from 0, where there are several.
        question: identifies what is asked of each image, whichever images and further certified radii are asked for;
            None where no stage takes over the answers.
    """

    kind: Kind
    key: str
    method: str
    seed: Seed
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    column: Column | None = None
    candidate: int | None = None
    question: str | None = None

    @property
    def seed_text(self) -> str:
        """The seed as it is written: a search has nothing to do with a training's."""
        return str(self.seed.search) if self.kind in OF_A_SEARCH else str(self.seed)

    @property
    def what(self) -> str:
        """What is done, in words."""
        if self.candidate is None:
            return f"attack {self.column.label}" if self.column else self.kind
        return f"{self.kind} {self.candidate + 1}" if self.kind == "candidate" else f"search {self.candidate + 1}"

    @property
    def title(self) -> str:
        """The stage in words: method, seed and what is done."""
        return f"{self.method} seed {self.seed_text} {self.what}"

    @property
    def folder(self) -> str:
        """The folder below the run directory, found again by the key at its end."""
        label = f"-{_safe(self.column.label)}" if self.column else ""
        label += "" if self.candidate is None else f"-{self.candidate + 1}"
        return f"{self.kind}/{self.method}-seed{self.seed_text}{label}-{self.key}"


@frozen
class Plan:
    """Everything a run will do."""

    name: str
    dataset: Dataset
    threat: ThreatModel
    methods: Mapping[str, MethodPlan]
    seeds: Seeds
    search: Search
    """The recipe's own section, with which the weights are trained that the genotypes of a ranking share."""
    columns: tuple[Column, ...]
    attacks: Mapping[str, Any]
    """The plugin of each column, by label."""
    certify: Certify | None
    smoothing: Smoothing | None
    evaluate: Evaluate
    identity: Mapping[str, Any]
    stages: tuple[Stage, ...]
    networks: Mapping[tuple[str, Seed], str]
    """The key of each method's and seed's network: equal keys are one network."""
    sizes: Sizes = field(eq=False)
    """What is known of the networks by having built them."""
    ranking: Ranking | None = None
    published: tuple[Reported, ...] = ()
    train_images: int | None = None
    """How many of the dataset's training images train; None: all."""
    quick: bool = False
    """Whether everything is done in a few steps, so that no figure means anything."""
    notes: Mapping[str, list[str]] = Factory(dict)
    """What a reader of the plan may not expect, each with the methods concerned."""

    @cached_property
    def _by_network(self) -> dict[tuple[str, Seed], list[Stage]]:
        """Sort the stages by method and seed."""
        stages: dict[tuple[str, Seed], list[Stage]] = {}
        for stage in self.stages:
            stages.setdefault((stage.method, stage.seed), []).append(stage)
        return stages

    @cached_property
    def by_key(self) -> dict[str, Stage]:
        """The distinct stages by their keys."""
        return {stage.key: stage for stage in reversed(self.stages)}

    def seeds_of(self, method: str) -> tuple[Seed, ...]:
        """List the seeds of a method's networks."""
        return self.methods[method].seeds_of(self.seeds)

    def stage(self, kind: Kind, method: str, seed: Seed, label: str | None = None) -> Stage | None:
        """Find the stage of a method and seed; for `attack`, that of the column `label`."""
        for stage in self._by_network.get((method, seed), ()):
            if stage.kind == kind and (label is None or (stage.column and stage.column.label == label)):
                return stage
        return None

    def genotype_stage(self, method: str, seed: Seed) -> Stage | None:
        """Find the stage whose result is the genotype: the choice among candidates, or else the search."""
        return self.stage("choose", method, seed) or self.stage("search", method, seed)

    def stages_of(self, method: str, seed: Seed) -> list[Stage]:
        """List the stages of one method and seed, in the order of the flow."""
        return list(self._by_network.get((method, seed), ()))

    def until(self, last: str | None) -> list[Stage]:
        """List the distinct stages up to and with `last` (None: all), seed by seed and method by method.

        So a run that is cut short leaves whole rows of the table.
        """
        if last in OF_A_SEARCH:
            last = OF_A_SEARCH[-1]
        kinds = KINDS[: KINDS.index(last) + 1] if last in KINDS else KINDS
        distinct: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.kind in kinds:
                distinct.setdefault(stage.key, stage)
        return list(distinct.values())


def sources(networks: Mapping[tuple[str, Seed], str], method: str, seed: Seed) -> dict[str, str]:
    """List the networks on which a transfer makes its images: those of other methods, each once, as method and key.

    Args:
        networks: the key of each method's and seed's network.
        method: whose network the images are tried on.
    """
    return {other: key for key, other in each_once(networks, seed).items() if key != networks[method, seed]}


def each_once(networks: Mapping[tuple[str, Seed], str], seed: Seed) -> dict[str, str]:
    """List the networks of a seed by key, each with the first method that has it."""
    methods: dict[str, str] = {}
    for method, key in sorted((method, key) for (method, at), key in networks.items() if at == seed):
        methods.setdefault(key, method)
    return methods


def _safe(label: str) -> str:
    """Make a column's name part of a folder's."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in label).strip("_")
