"""Shows what a plan amounts to before anything runs: stages, which of them are done, steps, parameters, memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from attrs import Factory, define
from rich.console import Console
from torch import Tensor

from robustnas import search, train
from robustnas.data.order import batch_count
from robustnas.data.stratified import first_half
from robustnas.errors import RobustnasError
from robustnas.plan import OF_A_SEARCH, Foreign, MethodPlan, Plan, Seed, Stage
from robustnas.registry import STRATEGIES
from robustnas.run.directory import RunDirectory
from robustnas.run.layout import QUICK
from robustnas.run.task import TrainingOnly, genotype_of, load_foreign
from robustnas.runtime import memory, terminal
from robustnas.runtime.processes import ALONE
from robustnas.runtime.strangers import text_of
from robustnas.search import SearchTask
from robustnas.search.footprint import step_bytes
from robustnas.search.settings import Search
from robustnas.search.strategies.random import Random
from robustnas.train import capacity
from robustnas.train.settings import Train
from robustnas.train.sizes import Sizes

NAMED = 8
"""A note names at most so many rows."""


@define
class Here:
    """Facts that the rows of a plan share, each found out once.

    Args:
        done: keys of the stages that are done.
        sizes: counts the weights of supernets and networks.
        count: number of training images; None where they are not on this machine.
        notes: lines that stand below the rows.
    """

    plan: Plan
    directory: RunDirectory
    done: set[str]
    sizes: Sizes
    count: int | None
    notes: list[str] = Factory(list)
    elsewhere: dict[Foreign, int] = Factory(dict)

    def foreign(self, method: str, network: Foreign) -> int:
        """Count the trainable weights of a network made elsewhere, and note which tensors come from a file."""
        if network not in self.elsewhere:
            made = load_foreign(network, self.plan.dataset, lambda text: self.notes.append(f"{method} takes {text}"))
            self.elsewhere[network] = capacity.count(made)
        return self.elsewhere[network]


def search_memory(method: MethodPlan, plan: Plan) -> int:
    """Estimate the bytes of one search step by `robustnas.search.footprint`.

    Raises:
        RobustnasError: the metric fails on random images and weights.
    """
    task = SearchTask(
        dataset=TrainingOnly(plan.dataset),
        space=method.space,
        metrics=method.metrics,
        threat=method.threat,
        settings=method.search,
        seed=0,
    )
    return step_bytes(task)


def show(
    plan: Plan, directory: RunDirectory, console: Console, labels: Tensor | None, *, estimate: bool = False
) -> None:
    """Print the plan.

    Args:
        labels: labels (N,) of the training images; None where they are not on this machine.
        estimate: shows the memory of a search step too, which takes seconds a method, or a minute for a large supernet.
    """

    stages = plan.until(None)
    count = None if labels is None else len(labels)
    notes = [f"{note}: {_first(whose)}" for note, whose in plan.notes.items()]
    notes += [] if labels is None else division_notes(plan, labels)
    here = Here(plan, directory, directory.all_done(stages), plan.sizes, count, notes)
    left, right = ("method", "seed", "search", "train", "evaluate"), ("supernet", "network")
    titles = (*left, *right, *(["memory"] if estimate else []))
    rows = []
    for name, method in plan.methods.items():
        supernet = f"{here.sizes.supernet(method.space):,}" if method.searches else ""
        needed = [_memory(method, plan, here.notes)] if estimate else []
        for search_seed in dict.fromkeys(seed.search for seed in plan.seeds_of(name)):
            seeds = [seed for seed in plan.seeds_of(name) if seed.search == search_seed]
            words = _stages(here, method, seeds)
            rows.append((name, str(search_seed), *words, supernet, _network(here, method, seeds[0]), *needed))
    table = terminal.table(titles, rows, right=range(len(left), len(titles)), framed=False, padding=(0, 2, 0, 0))
    say = partial(terminal.say, console)
    say(
        f"{plan.name}: {_count(len(plan.methods), 'method')} x {_seeds(plan)}, "
        f"{_count(len(stages), 'stage')}, in {directory.path}"
    )
    if plan.quick:
        say(QUICK)
    say(f"threat {plan.threat}")
    if plan.train_images is not None:
        say(f"{plan.train_images:,} of the training images, as many of each class as there can be")
    # at full width, because a figure cut short is worse than a line that a narrow terminal breaks
    terminal.show(table, Console(file=console.file, width=terminal.full_width(table)), soft_wrap=True)
    if here.count is None:
        say("steps are not known: the dataset's images are not here yet")
    for note in here.notes:
        say(note)
    if estimate:
        say("memory is what tensors of one search step take, without the images that wait on the device")
    unknown = any(stage.kind == "search" and stage.key not in here.done for stage in stages)
    marked = "; ~ is the network of another genotype of the space, as a search has yet to find its own"
    say(
        f"{len(here.done)} of {len(stages)} stages are done; parameters are trainable weights, without alpha and "
        f"without the auxiliary head{marked if unknown else ''}"
    )


def _seeds(plan: Plan) -> str:
    """Count the seeds, both kinds where they are chosen apart."""
    if plan.seeds.train is None:
        return _count(len(plan.seeds.search), "seed")
    return f"{_count(len(plan.seeds.search), 'search seed')} x {_count(len(plan.seeds.train), 'training seed')}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _memory(method: MethodPlan, plan: Plan, notes: list[str]) -> str:
    """Write the estimate for the table, or note why there is none."""
    if not method.searches:
        return ""
    try:
        with terminal.working(f"memory of a step of {method.name}"):
            return f"~{memory.text(search_memory(method, plan))}"
    except RobustnasError as fault:
        notes.append(f"the memory of {method.name} is not known: {text_of(fault)}")
        return "-"


def _stages(here: Here, method: MethodPlan, seeds: Sequence[Seed]) -> tuple[str, str, str]:
    """Describe search, trainings and evaluation of one method and search seed in a few words each.

    Args:
        seeds: those of its trainings.
    """
    plan, count = here.plan, here.count
    searched = plan.genotype_stage(method.name, seeds[0])
    stages = [stage for seed in seeds for stage in plan.stages_of(method.name, seed)]
    evaluation = [stage for stage in stages if stage.kind not in (*OF_A_SEARCH, "train")]
    done = sum(stage.key in here.done for stage in evaluation)
    if method.network is not None:
        return (
            "made elsewhere",
            method.network.factory,
            f"{done} of {len(evaluation)} done" if done else f"{len(evaluation)} stages",
        )
    if searched is None:
        first = f"genotype {method.genotype_source}"
    else:
        steps = _found(method, count)
        todo = f"{steps}{'' if method.best_of is None else f', best of {method.best_of.samples}'}"
        first = "done" if searched.key in here.done else todo
    train_count = count
    if count is not None and method.train.checkpoint == "best":
        train_count = first_half(count, 1 - method.train.held_out)
    each = None if train_count is None else batch_count(train_count, method.train.batch)
    second = _trainings(here, [stage for stage in stages if stage.kind == "train"], _steps(method.train.epochs, each))
    return first, second, f"{done} of {len(evaluation)} done" if done else f"{len(evaluation)} stages"


def _found(method: MethodPlan, count: int | None) -> str:
    """Describe how a method finds a genotype."""
    if method.searches:
        return _steps(method.search.epochs, _search_batches(method, count))
    if isinstance(method.strategy, Random):
        return "drawn at random"
    candidates = getattr(method.strategy, "candidates", None)
    name = STRATEGIES.entry_of(type(method.strategy)).name
    return name if candidates is None else f"{name}, {candidates} candidates"


def _trainings(here: Here, stages: Sequence[Stage], steps: str) -> str:
    """Describe the trainings of one genotype."""
    done, count = sum(stage.key in here.done for stage in stages), len(stages)
    if done == count:
        return "done" if stages else "none"
    told = steps if count == 1 else f"{count} trainings of {steps}"
    return f"{told}, {done} done" if done else told


def _search_batches(method: MethodPlan, count: int | None) -> int | None:
    """Count the steps of an epoch, which the images that move w determine."""
    if count is None:
        return None
    return batch_count(first_half(count, method.search.train_share), method.search.batch)


def _steps(epochs: int, batches: int | None) -> str:
    if batches is None:
        return f"{epochs} epochs"
    return f"{epochs} x {batches} = {epochs * batches:,} steps"


def _network(here: Here, method: MethodPlan, seed: Seed) -> str:
    """Write the parameters of the network; while its genotype is unknown, those of a sample, with a mark."""
    plan = here.plan
    if method.network is not None:
        return f"{here.foreign(method.name, method.network):,}"
    if method.parameters is not None:
        return f"{method.parameters:,}"
    searched, trained = plan.genotype_stage(method.name, seed), plan.stage("train", method.name, seed)
    if trained is not None and trained.key in here.done:
        return f"{here.directory.folder(trained).result()['parameters']:,}"
    match = method.train.match
    if searched is None or searched.key not in here.done:
        return f"~{here.sizes.network(method.space, here.sizes.sample(method.space), match):,}"
    return f"{here.sizes.network(method.space, genotype_of(here.directory, plan, method.name, seed), match):,}"


def division_notes(plan: Plan, labels: Tensor) -> list[str]:
    """List notes on how searches and trainings divide the training images, whose labels are (N,).

    Raises:
        InputError: there are too few images to be divided.
    """
    whose_notes: dict[str, list[str]] = {}
    known: dict[Any, list[str]] = {}

    def told_of(stage: Any, settings: Search | Train, seed: int) -> list[str]:
        key = stage, settings.division, seed
        if key not in known:
            known[key] = stage.notes(labels, stage.divided(labels, settings, seed, ALONE))
        return known[key]

    for method in plan.methods.values():
        if method.network is not None:
            continue
        for seed in plan.seeds_of(method.name):
            notes = told_of(train, method.train, seed.train)
            if method.searches:
                notes = told_of(search, method.search, seed.search) + notes
            for note in notes:
                whose_notes.setdefault(note, []).append(f"{method.name} seed {seed}")
    return [f"{note}: {_first(whose)}" for note, whose in whose_notes.items()]


def _first(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
