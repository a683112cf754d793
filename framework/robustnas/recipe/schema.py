"""A recipe as frozen attrs classes: their fields are the keys, their validators the rules.

`metadata["help"]` of a field is its documentation.  Values marked *ours* are defaults where the DSRNA paper is
silent.  Sources of the others: Hosseini et al. 2021 (DSRNA) and the settings of Liu et al. 2019 (DARTS).
Sections are the settings of the engine that reads them: `search.settings`, `train.settings`, `attack.settings`,
`certify.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, field, frozen
from attrs.validators import ge, gt, instance_of, min_len, optional

from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.contracts import uses
from robustnas.foreign.settings import Weights
from robustnas.options import MISSING, option
from robustnas.recipe.seeds import Seeds
from robustnas.search.candidates import BestOf
from robustnas.search.settings import Search
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.threat import ThreatModel
from robustnas.train.settings import Train


@frozen
class Use:
    """A plugin by name with its options as written: `{name: pgd, steps: 20, step_size: 2/255}` or just `fgsm`.

    Args:
        plugin: the object that the loader made of name and options, once, while it checked the recipe.  Plugins written
            alike are one object.
        provider: the package and version of a third-party plugin, because another version may compute something else.
            None for our own, whose changes raise `robustnas.plan.RESULTS`.
    """

    name: str
    options: dict[str, Any] = Factory(dict)
    plugin: Any = field(default=None, eq=False, repr=False)
    provider: str | None = field(default=None, eq=False, repr=False)


BILEVEL = Use("bilevel", {}, Bilevel())
"""What finds the genotypes of a method that does not say."""


@frozen
class Attack:
    """An entry of `attacks`: a plugin with its options, a threat of its own if it has one, and its column's name.

    Args:
        expectation: passes averaged in each evaluation that the attack sees (expectation over transformation), for
            networks whose output is random.
        runs: how often the attack is run, with new random draws, each time on the images that still stand.
    """

    use: Use
    threat: ThreatModel | None = None
    label: str | None = None
    expectation: int = 1
    runs: int = 1


@frozen
class Method:
    """An entry of `methods`: a way of searching.  The sections it holds override the recipe's keys for it alone.

    Args:
        genotype: in place of a search: a name, a path, a text in DARTS's notation, or a genotype as plain data.
        network: `module:factory` of a network made elsewhere, which is neither searched nor trained here.
        weights: its weights; None where the factory fills them in.
        normalize: whether the data set's mean and deviation become its first layer.
        strategy: what finds a genotype, where none is named.
        best_of: how many genotypes it finds, and how one of them is chosen; None: one.
        swept: of which method section `sweep` made it (`of`), and with which values; None where it did not.
    """

    metric: tuple[tuple[float, Use], ...] = ()
    genotype: str | dict[str, Any] | None = None
    network: str | None = None
    weights: Weights | None = None
    normalize: bool = False
    strategy: Use = BILEVEL
    best_of: BestOf | None = None
    search_space: Use | None = None
    threat: ThreatModel | None = None
    search: Search = field(factory=Search)
    train: Train = field(factory=Train)
    swept: Mapping[str, Any] | None = None

    @property
    def uses(self) -> frozenset[str]:
        """Which of `metric` and `search` have a say in it."""
        return uses(self.strategy.plugin) if self.network is None and self.genotype is None else frozenset()


State = Literal["untrained", "inherited", "trained"]
"""Networks of a genotype: before training, as a path of a trained supernet, and after training."""


@frozen
class Published:
    """A table of what others measured of every architecture of the space, in place of training and evaluation."""

    file: Path = option(MISSING, "the table, beside the recipe: NAS-RobBench-201's JSON or Jung et al.'s folder")
    dataset: str = option(MISSING, "its dataset, such as cifar10")
    outcomes: list[str] = option(
        MISSING, "its columns, such as [val_pgd_8.0_acc], or [clean, pgd@Linf 1.0]", min_len(1)
    )


@frozen
class Rank:
    """Section `rank`, without the metrics."""

    networks: list[State] | None = field(
        default=None,
        metadata={
            "help": "networks of a genotype that are scored, of untrained, inherited (its path of a supernet that "
            "section search trained path by path) and trained; default untrained and trained, with a published table "
            "untrained",
            "identity": False,
        },
    )
    published: Published | None = option(None, "outcomes from a published table in place of training", identity=False)
    images: int = option(128, "training images that are scored, of equal classes", at_least=1)
    batch: int = option(
        64,
        "images scored at once; the batch norm statistics that a metric sees are theirs",
        at_least=1,
        identity="if given",
    )

    @networks.validator
    def _some(self, attribute: object, networks: list[str] | None) -> None:
        if networks is not None and (not networks or len(set(networks)) < len(networks)):
            raise ValueError(f"found {networks}; some of untrained, inherited and trained, each once, would do")

    @published.validator
    def _trains_nothing(self, attribute: object, published: Published | None) -> None:
        if published is not None and "trained" in (self.networks or ()):
            raise ValueError(
                "found beside networks: [trained], which a published table has not; one of the two would do"
            )

    @property
    def states(self) -> list[State]:
        """The networks that are scored."""
        return self.networks or (["untrained"] if self.published else ["untrained", "trained"])


@frozen
class Ranking:
    """What is ranked: the metrics by label, each measured alone, and how."""

    metrics: Mapping[str, Use]
    settings: Rank


@frozen
class Reported:
    """A row of section `published`: what others report, shown beside what is measured here.

    Args:
        source: who reports it, where, and how the networks were trained.
        figures: by names of printed columns, in their units: percent, pixel units, weights, seconds.
    """

    name: str
    source: str
    figures: dict[str, float] = Factory(dict)


@frozen
class Needs:
    """An entry of section `resources`: what a stage may use where a scheduler does it."""

    gpus: int | None = field(
        default=None,
        validator=optional([instance_of(int), ge(0)]),
        metadata={"help": "GPUs; from 2 on processes share each batch; default 1, with --device cpu 0"},
    )
    cpus: int = option(4, "cores, and threads of computation", at_least=1)
    memory: float | None = field(
        default=None, validator=optional(gt(0)), metadata={"help": "GiB of main memory; default the scheduler's"}
    )
    hours: float | None = field(
        default=None,
        validator=optional(gt(0)),
        metadata={"help": "hours until the scheduler stops it, which goes on from its checkpoint; default its own"},
    )
    nodes: int = option(1, "machines, each with all of the above; their processes share each batch", at_least=1)


@frozen
class Recipe:
    """A whole recipe, checked: one comparison of methods on one dataset under one threat.

    Args:
        search_space: None where no method searches or trains.
        train_images: how many of the dataset's training images train; None: all.
        quick: whether everything is done in a few steps, see `robustnas.recipe.quick`.
        resources: what stages may use where a scheduler does them, by their kinds, those of `every` kind laid under.
    """

    dataset: Use
    search_space: Use | None
    threat: ThreatModel
    methods: dict[str, Method]
    attacks: tuple[Attack, ...] = ()
    seeds: Seeds = field(factory=Seeds)
    search: Search = field(factory=Search)
    train: Train = field(factory=Train)
    certify: Certify | None = field(factory=Certify)
    smoothing: Smoothing | None = None
    evaluate: Evaluate = field(factory=Evaluate)
    rank: Ranking | None = None
    published: tuple[Reported, ...] = ()
    train_images: int | None = None
    quick: bool = False
    trackers: tuple[Use, ...] = ()
    resources: Mapping[str, Needs] = Factory(dict)
