"""What plugins promise: spaces, metrics, attacks, strategies, datasets and the other kinds: for plugin authors.

A plugin is an attrs class whose fields are its options in the recipe (`field(default=..., metadata={"help": ...})`)
and which keeps one of the Protocols below.  It needs no base class.  The registry compares signatures when it loads
a plugin; `robustnas.testing` checks behaviour.

Letters for shapes: N images, C channels, H rows, W columns, K classes, E edges, O candidate operations.
Images are float in [0, 1] everywhere; normalisation is a layer of the network, put there by the framework.

Who guarantees what: a plugin proposes, the framework disposes.  Freezing, projecting, judging, averaging, seeding,
timing and formatting happen in the framework.  Torch's global generator is seeded by the framework before every
call that may draw from it, so a plugin may use it (layer initialisation, drop-path) or the generator it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import attrs
from attrs import Factory, field, frozen

if TYPE_CHECKING:
    import torch
    from foolbox.attacks.base import Attack as FoolboxAttack
    from torch import Tensor, nn

    from robustnas.genotype.reference import Reference
    from robustnas.runtime.artifacts import StageFolder
    from robustnas.runtime.processes import Processes
    from robustnas.runtime.report import Report
    from robustnas.threat import ThreatModel

HISTORY: Mapping[int, Mapping[str, str]] = {
    1: {},
}
"""The versions of these contracts.  For each, by kind of plugin: what changed, and what a plugin has to change.

A plugin may say for which version it was written, by a class attribute `contract = 1`.  It is refused, with what is
written here, where its kind has changed since; one that says nothing is taken for one of the latest version.  A change
that plugins need not follow makes no version.
"""

Shape = tuple[int, int, int]
"""Channels, rows, columns of one image."""

ACCESS = ("white-box", "noise", "black-box", "corruption")
"""What an attack may know of the network, in the order in which attacks are run: gradients, nothing, answers alone; a
corruption knows nothing and is no attack in a ball."""

Genotype = dict[str, Any]
"""A discrete architecture as plain data (dicts, lists, strings, integers): what `genotype.json` holds."""


@frozen
class Context:
    """What an `inner_loss` or `outer_loss` may know about the step it is part of.

    Args:
        progress: share of the search's epochs done, in [0, 1].
        generator: for every random draw of the loss.  Evaluating the same loss twice in one step (as the unrolled
            hypergradient does) gives it in the same state both times.
        loss: the plain loss, (N, K) logits and (N,) labels -> scalar.
        average: a tensor without a graph and the number of images it is a mean over -> its mean over all processes
            that share the batch.  A loss that takes a decision all of them must take alike (a perturbation of alpha
            by the sign of a gradient, say) averages what it decides by; in one process nothing happens.
    """

    progress: float
    generator: torch.Generator
    loss: Callable[[Tensor, Tensor], Tensor]
    average: Callable[[Tensor, int], Tensor] = lambda value, count: value


class Supernet(Protocol):
    """A network that holds every candidate operation, mixed by alpha.  An `nn.Module`."""

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        """Architecture parameters by name, logits before softmax, (E, O) each; the outer level moves these.

        A row is one choice among O: the operation of an edge, say, or which of the edges into a node count
        (PC-DARTS's beta, a table of one row for each node).  Tables may differ in E and O.

        They are parameters of the module (so that checkpoints hold them); every other parameter is a weight.
        """

    def mixing(self) -> dict[str, Tensor]:
        """The weights the forward pass mixes with, by the names of alpha: the softmax of every row, (E, O)."""

    def __call__(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, K) logits.  With `mixing`, these weights stand in for softmax(alpha)."""


@runtime_checkable
class SearchSpace(Protocol):
    """A family of architectures.  Fields are its options.

    A field with `metadata={"stage": "train"}` concerns only the discrete network (its depth, say): changing it
    does not search again.  One with `{"stage": "search"}` concerns only the supernet.

    Some members are optional:

    - `published`: a mapping of names to genotypes of the literature, which a recipe may use in place of a search.
    - `references`: a mapping of names of `published` to a `robustnas.genotype.reference.Reference` each.
    - `candidates`: a mapping of names of alpha's tables to the names of their operations, in the order of the columns.
      What alpha keeps on an operation named `none` is then reported.  Tables of other choices are not in it.
    - `sample(generator)`: a genotype drawn uniformly from all genotypes of the space, by draws from that
      `torch.Generator` (on the CPU) alone; its docstring says what uniform means there.  Random search needs it.
    - `decisions` and `decide(options)`: a genotype as so many free decisions.  `decisions` holds the number of options
      of each; `decide` takes the number of one option for each decision, from 0, and returns the genotype.  Every
      combination is a genotype that a search can find, and each of these is one.  Evolution changes decisions.
    - `genotypes()`: every genotype of a small space, once each, in an order that stays the same: that of published
      tables, where there are some.
    - `canonical(genotype)`: a text that is the same for isomorphic genotypes, one network by several names.
    - `path(genotype)`: mixing weights of one-hot rows, by the names of alpha, with which the supernet is the genotype's
      network in search form (edges that it leaves out have `none`).  Weights that all networks share need it.
    - `size` and `sized(channels, cells)`: see `Resizable`.
    """

    def supernet(self, shape: Shape, classes: int) -> Supernet:
        """A new supernet for images of `shape`; float32, weights and alpha from torch's global generator."""

    def genotype(self, supernet: Supernet) -> Genotype:
        """The discrete architecture that the supernet's alpha stands for.

        The same function is given mixing weights of one-hot rows by the conformance kit: it reads `mixing()`.
        """

    def network(self, genotype: Genotype, shape: Shape, classes: int, auxiliary: bool = False) -> nn.Module:
        """A new discrete network: (N, C, H, W) -> (N, K) logits.

        `auxiliary` asks for an auxiliary head: the network then has `with_auxiliary(images)` returning two (N, K)
        logits, the head's second.  A network with drop-path has a float attribute `drop_path`, the probability,
        which training sets each epoch and which acts in training mode only.

        Raises:
            InputError: the genotype is not one of this space, or the space has no auxiliary head.
        """


@runtime_checkable
class Resizable(Protocol):
    """A search space whose discrete networks come in sizes, of which `train.match` chooses."""

    @property
    def size(self) -> tuple[int, int]:
        """Channels and cells of the discrete networks, as the space counts them."""

    def sized(self, channels: int, cells: int) -> SearchSpace:
        """This space with discrete networks of that size, and nothing else changed; weights rise with channels.

        Raises:
            ValueError: it has no networks of so few or so many channels or cells.
        """


@runtime_checkable
class RobustnessMetric(Protocol):
    """How robust a network is (`score`), or how a method disturbs the two levels of the search (the losses).

    A metric keeps at least one of the three.  One with `score` alone is a complete plugin.  It may have a `check`, see
    `Suited`.

    A score that has a least value, at which it has no gradient, may tell by `floored`: scores (N,) -> (N,) bool.  The
    share of such images is in the search's history.

    A score that changes over the search (a radius that grows, say) has a second method, `at(progress)`, which returns
    an object with the `score` of that time, progress in [0, 1]; at 1 it scores as the metric itself does.

    Two class attributes say what a score is not:

    - `differentiable = False`: no gradient flows through it (a zero-cost score, say).  A bilevel search refuses it;
      what asks for numbers alone, as `robustnas rank` does, takes it.
    - `of_batch = True`: it is a number of all images together, which each of them is given, whatever their order.  It
      is no worst case over a ball, and may grow with epsilon.
    """

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """images (N, C, H, W) in [0, 1], labels (N,) int64 -> (N,), larger is more robust.

        Differentiable in the network's weights and alpha.  The network may be a supernet or a discrete network; it
        is in eval mode, with batch norm statistics frozen (in a search: those of the current batch), so an image's
        score depends on that image alone.  It does not grow with the threat's epsilon: a larger ball holds the smaller.
        Leaves mode, buffers and gradients as they were.
        """


class InnerLoss(Protocol):
    """The part of a metric that replaces the cross-entropy of the inner level (w on training images)."""

    def inner_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """(N, C, H, W), (N,) -> scalar.  The supernet is in training mode and must be left in it."""


class OuterLoss(Protocol):
    """The part of a metric that replaces the cross-entropy of the outer level (alpha on validation images)."""

    def outer_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """(N, C, H, W), (N,) -> scalar.  The supernet is in training mode and must be left in it."""


class Suited(Protocol):
    """A metric or an attack that not all images, numbers of classes or threats suit: it may have `check` as well."""

    def check(self, shape: Shape, classes: int, threat: ThreatModel) -> None:
        """Called for every method or column of a recipe before anything runs, so that no work is lost.

        Raises:
            OptionError: these options cannot be honoured there; says what would do.
        """


@runtime_checkable
class AttackFactory(Protocol):
    """Makes a foolbox attack for one threat model.  A foolbox `Attack` class may be registered as it is.

    Beside `build` it may have the members of `AttackTraits` and the `check` of `Suited`.  Attacks run from cheap to
    expensive by their `evaluations`.  An `access` of `noise` shows what comes and looks at the class alone; a
    `corruption` is never part of the worst case.

    One that shows files of the test images may have `contents`, as a dataset has, and `check_test(images)`, which is
    called with the test split before anything runs and raises a `DataError` where they are not its files.

    `robustnas.attack.foolbox_attack` has base classes for attacks in plain torch, which bring `build`.
    """

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """A foolbox attack whose distance is `threat.norm`.

        The harness owns the rest: it wraps and freezes the network, passes epsilon, calls the attack's `run`,
        checks ball and box, and judges.

        Raises:
            OptionError: this attack does not know that norm.
        """


@frozen
class AttackTraits:
    """What an attack may say beside `build`; the defaults hold where it says nothing.

    The last four are read from what `build` returns.

    Args:
        access: what it knows of the network, of `ACCESS`.
        transfers: whether its images are made on the networks of the other methods and judged on this one.
        evaluations: number of classes -> model evaluations an image costs at most.
        takes_draws: whether its `run` takes the draws of each image, `robustnas.attack.per_image_random`.
        unbounded: whether no ball bounds what it shows, and the harness does not ask for one.
        parts: attacks by name that it is composed of; none where it is one.
        every: whether each part is run on every image, as a column of its own.
    """

    access: str = "white-box"
    transfers: bool = False
    evaluations: Callable[[int], float] | None = None
    takes_draws: bool = False
    unbounded: bool = False
    parts: Mapping[str, Any] | None = None
    every: bool = False

    @classmethod
    def of(cls, attack: object, access: str = "white-box") -> AttackTraits:
        """The traits of an attack; `access` holds where it does not tell its own."""
        defaults = attrs.asdict(cls(access=access), recurse=False)
        return cls(**{name: getattr(attack, name, default) for name, default in defaults.items()})


@runtime_checkable
class Dataset(Protocol):
    """Labelled images.  Fields are its options.  Constructing one reads nothing; `split` does.

    A field with `metadata={"identity": False}` (where the files lie, how many threads read them) changes no image:
    a run goes on when it changes.

    Two members are optional.  `contents` tells data from other data where the options do not (people's own images,
    say): results of other contents do not count.  It is a str, or a mapping of `"train"` and `"test"` to a str each;
    then other test images ask for no new search and training.  `training_images(side) -> Images` is the training split,
    in the same order, read as squares of that many pixels: what `train.read_size` asks for (None where it cannot be).
    """

    @property
    def shape(self) -> Shape:
        """Shape of every image."""

    @property
    def classes(self) -> int:
        """Number of classes K; labels are 0 to K - 1."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per-channel mean of the training images, in pixel units: the network's first layer subtracts it."""

    @property
    def std(self) -> tuple[float, ...]:
        """Per-channel standard deviation of the training images: the network's first layer divides by it."""

    def split(self, name: str) -> Images:
        """`"train"` or `"test"`, disjoint; the same images in the same order every time.

        The framework asks for `"test"` in evaluation only.

        Raises:
            DataError: the data is empty or broken; says what to do.
            MissingDataError: it is not here.  Then `plan` shows what it can without it.
        """


OBJECTIVES: Mapping[str, bool] = {
    "clean": True,
    "robust": True,
    "certified": True,
    "metric": True,
    "parameters": False,
    "multiply_adds": False,
}
"""What is estimated of a candidate, and whether more of it is better.

The first three are shares of training images held out that its network gets right: as they are, under PGD, and provably
by CROWN-IBP, at the method's threat.  `metric` is the mean score of the method's metrics, weighted; the last two are
counts of its discrete network.
"""


@frozen
class Estimation:
    """How candidates are judged, all of a search alike.

    Args:
        objectives: some of `OBJECTIVES`.
        network: which network of a candidate: `trained` from scratch, as section `train` says, without the images that
            judge; `inherited`, its path of a supernet that section `search` trained path by path (with the inner loss
            of the method's metric, where that has one); or `untrained`, with the weights that training begins with.
        epochs: of a candidate's training, None: `train.epochs`; of an inherited network on its own path, None: none.
        holdout: share of the training images held out to judge.
    """

    objectives: tuple[str, ...]
    network: Literal["trained", "inherited", "untrained"] = "trained"
    epochs: int | None = None
    holdout: float = 0.1


@frozen(eq=False)
class SearchContext:
    """A search, as a strategy is given it.

    Args:
        dataset: only its training images are asked for.
        space: the search space.
        metrics: (weight, metric) pairs of the method; empty is plain.
        threat: what the metrics protect against, and what judges candidates.
        settings: the recipe's section `search`, a `robustnas.search.settings.Search`.
        seed: determines every random number.
        generator: on the CPU, seeded for this search: for the strategy's own draws.
        estimate: judges a genotype: `estimate(genotype, how)` -> its figures by the objectives of `how`; NaN of a
            network that diverged, or that a metric failed on.  It is remembered: asked again, or when the search goes
            on after it was stopped, it answers at once.  So a strategy begins at the beginning, whatever was done
            before, and has no checkpoint of its own.
        report: is told how far the search is; `estimate` tells of each candidate itself.
        folder: for checkpoints of strategies that train a supernet of their own.
        device: where networks and images live.
        processes: the processes that share each batch; all of them search alike.
    """

    dataset: Dataset
    space: SearchSpace
    metrics: tuple[tuple[float, Any], ...]
    threat: ThreatModel
    settings: Any
    seed: int
    generator: torch.Generator
    estimate: Callable[[Genotype, Estimation], Mapping[str, float]]
    report: Report
    folder: StageFolder
    device: torch.device
    processes: Processes


@runtime_checkable
class Strategy(Protocol):
    """How a genotype of a space is found.  Fields are options.

    Beside `search` it may have

    - `uses`: which of the method's `metric` and `search` have a say, both by default: a recipe that gives another is
      refused;
    - `needs`: names of optional members of a search space without which it cannot search, `("decisions",)` say;
    - `estimation`: how it has candidates judged, an `Estimation` (of several the one that asks most); then `uses` is
      what that asks for, and the framework looks before anything runs whether it can be had;
    - `asks`: which of `score`, `inner_loss` and `outer_loss` one of the method's metrics must have;
    - `candidates`: how many it has judged, at most;
    - `check()`, which is called before anything is computed and raises `InputError` where the search could not be done:
      a package is missing, say.
    """

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Find a genotype.

        Returns:
            Plain data for `result.json`: `genotype`, and what else is worth telling; `notes`, a list of lines for
            readers of the table.
        """


@runtime_checkable
class Order(Protocol):
    """How the outer level sees through the inner one: the gradient that moves alpha.  Fields are its options."""

    def gradient(self, step: Any) -> Any:
        """The gradient in alpha for one `robustnas.search.hypergradient.Step`, as a `Hypergradient`.

        The step has the gradients of both levels (`outer_gradient`, `inner_gradient`), over all parts of the batch and
        all processes.  It stays as it was: weights, alpha, running statistics, optimisers, and the generator of the
        inner loss, so that the inner step draws what its rehearsal drew.
        """


@frozen
class TrainingContext:
    """What a regime's loss may know about the step it is part of.

    Args:
        passed: epochs that are gone, this step's share of the present one included.
        epochs: of the whole training.
        generator: for every random draw of the loss.
        loss: the cross-entropy that is asked for (with label smoothing), (N, K) logits and (N,) labels -> scalar.
        plain: network, images and labels -> the loss of standard training, the auxiliary head's in it, and the logits.
        hold: enters a context that lasts until the backward pass of this loss is done; returns what it yields.
    """

    passed: float
    epochs: int
    generator: torch.Generator
    loss: Callable[[Tensor, Tensor], Tensor]
    plain: Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
    hold: Callable[[AbstractContextManager[Any]], Any]


@frozen(eq=False)
class TrainingLoss:
    """What a regime makes of some images.

    Args:
        loss: scalar with its graph.
        logits: (N, K), of the images whose accuracy is told.
        figures: further figures of each image by name, (N,) each: their means are in the history.
    """

    loss: Tensor
    logits: Tensor
    figures: Mapping[str, Tensor] = Factory(dict)


@runtime_checkable
class Regime(Protocol):
    """What training minimises.  Fields are its options.

    It may have, beside `loss` (`robustnas.train.regimes.Defaults` is what stands where it has not):

    - `check(epochs, threat)` raises `OptionError` where the options do not suit that many epochs, or the threat; it is
      called before anything runs, first without a threat (None).
    - `initialise(network)` draws other first weights, from torch's global generator.
    - `perturbed(network, images, labels, threat, generator)`: images held out, as they are judged when the best
      checkpoint is chosen; the network is in eval mode.
    - `right(network, images, labels, threat)` -> (N,) bool: which of these count.
    - `judged(epoch, epochs)`: whether the network after this epoch, counted from 1, may be the one that is kept.
    - `schedule(passed, epochs, threat)`: figures for the history, what of the loss depends on time.
    - `sees_threat = False` where the threat has no say: the same network then serves every threat.
    - `advice`: what else would do where training diverges, after ", or ".
    """

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """images (N, C, H, W) in [0, 1] and labels (N,) int64 -> the loss of one part of a batch.

        The network is in training mode and is left in it; its running statistics move as in an ordinary pass.
        """


@frozen
class TrackedRun:
    """A run, as a tracker is told of it.

    Args:
        name: of the recipe.
        directory: the run directory.
        folder: the tracker's own folder in it, for what it writes; it is there.
        settings: the recipe as plain data, with every default.
    """

    name: str
    directory: Path
    folder: Path
    settings: Mapping[str, Any]


@frozen
class TrackedStage:
    """One piece of work of a run, as a tracker is told of it.

    Args:
        title: in words, such as `dsrna-cb seed 0 search`.
        place: its folder below the run directory, `search/dsrna-cb-seed0-1a2b3c4d5e6f`: the same when a run goes on.
        kind: `search`, `train`, `clean`, `attack`, `certify` and so on.
        method: of the recipe.
        seed: as it is written, `0` or `0.2`.
        settings: the sections of the recipe that it obeys, as plain data.
    """

    title: str
    place: str
    kind: str
    method: str
    seed: str
    settings: Mapping[str, Any] = field(eq=False)


@runtime_checkable
class Tracker(Protocol):
    """Shows a run, as it goes, where people look.  The files of the run are written in any case.  Fields are options.

    A run has one object of it, in the process that plans the run, whichever processes do its stages.  What it needs it
    imports in `start`.  It may have `check()`, which is called before anything is computed, imports nothing, and raises
    `InputError` where `start` could not succeed: a package is missing, say.  Whatever else it raises is told once, and
    the run goes on without it.
    """

    def start(self, run: TrackedRun) -> None:
        """A run begins, or goes on: then what was done before is not told again."""

    def begin(self, stage: TrackedStage) -> None:
        """A stage begins, or goes on; others may be under way."""

    def log(self, stage: TrackedStage, unit: str, at: int, figures: Mapping[str, float]) -> None:
        """Figures of a stage under way, by name.

        Args:
            unit: what `at` counts: `epoch`, of which the figures are means; `step`, over all epochs, of which some are
                told, one a second at most; `image` and the like.
        """

    def finish(self, stage: TrackedStage, result: Mapping[str, Any] | None) -> None:
        """A stage is done, with what its `result.json` holds, or it failed (None).  One that is stopped has no end."""

    def end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The run ends, however it ends, with the rows of `table.json`; none where no table was made."""


@frozen
class Resources:
    """What one job may use of the machines it is done on; the scheduler keeps it to that.

    Args:
        gpus: of each machine; from 2 on, so many processes share each batch.
        cpus: cores of each machine, and threads of computation.
        memory: GiB of main memory of each; None: as the scheduler has it.
        hours: after which the scheduler stops it; None: as the scheduler has it.
        nodes: machines; from 2 on the processes of all share each batch.
    """

    gpus: int = 0
    cpus: int = 1
    memory: float | None = None
    hours: float | None = None
    nodes: int = 1


@frozen
class Job:
    """One stage of a run, or the check before all of them, as an executor is handed it.

    Args:
        name: unique in a run, and the same when the run goes on.
        title: in words, such as `dsrna-cb seed 0 search`.
        kind: `search`, `train`, `attack` and so on, and `check` of one that looks at a machine for all others.
        needs: names of jobs that must succeed first; where one failed, this one must not begin.
        after: names of jobs that must end first, however they end.
        resources: what it may use.
        call: does it, wherever it is called; it can be pickled.  It returns nothing when the stage is done, and if it
            was done before, at once.  It raises a `RobustnasError` where the stage failed, and a `KeyboardInterrupt`
            where the process was asked to stop (SIGTERM, or `robustnas.runtime.interrupt.request`): then the same call
            goes on from the checkpoint, in any process.  So it does after a process that was killed.  A job of several
            nodes is called once on each, at the same time; variables of the environment tell the call which it is, and
            where all meet: `NODE_RANK` from 0, and `MASTER_ADDR` and `MASTER_PORT` of the first.
    """

    name: str
    title: str
    kind: str
    needs: tuple[str, ...]
    after: tuple[str, ...]
    resources: Resources
    call: Callable[[], None]


class Work(Protocol):
    """What an executor is to have done, and where it tells what became of it."""

    @property
    def jobs(self) -> Sequence[Job]:
        """What is left to do, each after what it needs; what they need beyond these is done."""

    @property
    def folder(self) -> Path:
        """A folder for the executor's own files, on the file system that all machines of the run see; it is there."""

    def submitted(self, names: Mapping[str, str]) -> None:
        """Tell the names that the scheduler has for jobs, by the jobs' own; `cancel` may be given them later."""

    def ended(self, name: str, why: str | None = None) -> None:
        """Tell that a job has ended: done, or failed, and why.  Once for each; those left out need not be told."""

    def asked(self) -> bool:
        """Whether the run was asked to stop: then the executor stops its jobs at their checkpoints, and returns."""

    def here(self) -> None:
        """Do all jobs in processes of this machine, as `--jobs` asks, and tell what becomes of them."""


@runtime_checkable
class Executor(Protocol):
    """Has the stages of a run done by a scheduler.  Fields are options.

    Placement, queueing and what follows a machine that is lost are the scheduler's.  Whatever it does, in whatever
    order and however often, results are the same.  What it needs it imports when it is called.  It may have, beside
    `run`,

    - `check(resources)`, which is called before anything is computed with what jobs will ask for, each once, and raises
      `InputError` where that could not be had: a package is missing, a partition unknown;
    - `cancel(names)`, which ends jobs by the scheduler's names for them, those of a run whose own process is gone;
    - `queued(names)`, which returns those of such names that the scheduler still has: where they are of stages that are
      left, a run is refused that would have them done once more;
    - `several_nodes`, True where it can have a job done by several machines (`Job.call` says how); otherwise a recipe
      that asks for them is refused.
    """

    def run(self, work: Work) -> None:
        """Have all jobs done; return when each has ended or is left out, or the run was asked to stop."""


class Images(Protocol):
    """Labelled images of one split: in memory or read when asked for (`robustnas.data.images` has both)."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the CPU."""

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 -> (n, C, H, W) float32 in [0, 1], on the CPU or where they live."""


def candidates(space: SearchSpace) -> Mapping[str, Sequence[str]]:
    """Operations by alpha's tables: the `candidates` of a search space, none where it has none."""
    return getattr(space, "candidates", {})


def published(space: SearchSpace) -> Mapping[str, Genotype]:
    """Genotypes of the literature by name: the `published` of a search space, none where it has none."""
    return getattr(space, "published", {})


def references(space: SearchSpace) -> Mapping[str, Reference]:
    """Where its published genotypes come from, by name: the `references` of a search space, none where it has none."""
    return getattr(space, "references", {})


def sampler(space: SearchSpace) -> Callable[[torch.Generator], Genotype] | None:
    """The `sample` of a search space; None where it has none."""
    return getattr(space, "sample", None)


def decisions(space: SearchSpace) -> tuple[Sequence[int], Callable[[Sequence[int]], Genotype]] | None:
    """The `decisions` of a search space and its `decide`; None where it has none."""
    decide = getattr(space, "decide", None)
    return None if decide is None else (space.decisions, decide)  # type: ignore[attr-defined]


def estimation(strategy: Strategy) -> Estimation | None:
    """The `estimation` of a strategy; None where it has no candidates judged."""
    return getattr(strategy, "estimation", None)


def uses(strategy: Strategy) -> frozenset[str]:
    """Which of a method's `metric` and `search` a strategy uses."""
    how = estimation(strategy)
    if how is None:
        return frozenset(getattr(strategy, "uses", ("metric", "search")))
    shared = how.network == "inherited"
    return frozenset({"metric"} if shared or "metric" in how.objectives else set()) | ({"search"} if shared else set())


def asks(strategy: Strategy) -> frozenset[str]:
    """Which parts one of a method's metrics must have for a strategy."""
    how = estimation(strategy)
    scored = {"score"} if how is not None and "metric" in how.objectives else set()
    return frozenset(scored | {*getattr(strategy, "asks", ())})


def enumeration(space: SearchSpace) -> Callable[[], Iterable[Genotype]] | None:
    """The `genotypes` of a search space; None where it cannot list them."""
    return getattr(space, "genotypes", None)


def canonical(space: SearchSpace, genotype: Genotype) -> str:
    """The `canonical` of a search space, or the genotype itself as a text."""
    form = getattr(space, "canonical", None)
    return json.dumps(genotype, sort_keys=True) if form is None else str(form(genotype))


def path_of(space: SearchSpace) -> Callable[[Genotype], dict[str, Tensor]] | None:
    """The `path` of a search space; None where its supernet does not hold the networks of its genotypes."""
    return getattr(space, "path", None)


def contents(plugin: object) -> str | Mapping[str, str] | None:
    """The `contents` of a dataset or an attack; None where its options tell its images from others."""
    return getattr(plugin, "contents", None)


def training_images(dataset: Dataset) -> Callable[[int], Images] | None:
    """The `training_images` of a dataset; None where it cannot read them in another size."""
    return getattr(dataset, "training_images", None)


def check_test_of(attack: object) -> Callable[[Images], None] | None:
    """The `check_test` of an attack; None where it shows no files."""
    return getattr(attack, "check_test", None)


def is_differentiable(metric: object) -> bool:
    """Whether gradients flow through the score of a metric, class or object: unless `differentiable = False`."""
    return bool(getattr(metric, "differentiable", True))


def is_of_batch(metric: object) -> bool:
    """Whether the score of a metric is one number of all images together: `of_batch = True`."""
    return bool(getattr(metric, "of_batch", False))


def check_of(plugin: object) -> Callable[[Shape, int, ThreatModel], None] | None:
    """The `check` of a metric or an attack (`Suited`); None where everything suits it."""
    return getattr(plugin, "check", None)
