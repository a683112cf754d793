"""What candidates are worth, for a strategy that judges many: trained briefly, on shared weights, or as they begin.

    genotype -> its network -> figures by objective, kept in candidates.json

What was estimated once is read from there.  So a search that is stopped goes on by beginning again: its draws are the
same, its candidates too, and their figures come at once until the first that is new.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from attrs import Factory, define
from torch import nn

from robustnas import search, train
from robustnas.contracts import Estimation, Genotype, SearchSpace, estimation
from robustnas.data.subset import Picked
from robustnas.errors import DivergedError, InputError, PluginError, RobustnasError
from robustnas.nn.batch_statistics import statistics_of
from robustnas.plan import digest
from robustnas.registry import metric_parts
from robustnas.run.judging import Judge, running
from robustnas.run.task import Task, TrainingOnly
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.machine_faults import explain
from robustnas.runtime.processes import ALONE
from robustnas.runtime.strangers import text_of, traced
from robustnas.search import single_path
from robustnas.search.single_path import SinglePathTask
from robustnas.train.capacity import matched, multiply_adds, parameters
from robustnas.train.settings import Train

FILE = "candidates.json"
"""In the folder of a search: every candidate with how it was judged, its figures, and the seconds they took."""

OF_NETWORKS = {"clean", "robust", "certified", "metric"}
"""Objectives that look at a network and not at its size alone."""


@define(eq=False)
class Estimates:
    """Judges the candidates of one search, each once.

    Args:
        task: the search.
        most: how many the strategy has judged at most, for whoever watches; None where it does not say.
        kept: what was judged before, by genotype and by how.
        earlier: seconds that sittings before this one spent on the candidate at hand.
    """

    task: Task
    most: int | None = None
    kept: dict[str, dict[str, Any]] = Factory(dict)
    earlier: float = 0.0

    def __attrs_post_init__(self) -> None:
        folder, processes = self.task.folder, self.task.processes
        there = folder.read_json(FILE)["candidates"] if processes.first and folder.holds(FILE) else []
        self.kept = {_key(one["genotype"], one["how"]): one for one in processes.broadcast(there)}

    @property
    def seconds(self) -> float:
        """Seconds of all of them."""
        return sum(float(one["seconds"]) for one in self.kept.values())

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """All that were judged, in the order in which they were asked for first."""
        return list(self.kept.values())

    def __call__(self, genotype: Genotype, how: Estimation) -> Mapping[str, float]:
        """The figures of a genotype by the objectives of `how`; NaN where the network diverged or a metric failed.

        Raises:
            PluginError: the strategy asks for what its `estimation` does not say: what determines that is in no key.
        """
        self._check(how)
        asked = {**attrs.asdict(how), "objectives": list(how.objectives)}
        key = _key(genotype, asked)
        if key not in self.kept:
            if self.task.processes.any(interrupt.asked()):
                raise interrupt.Interrupted
            began, self.earlier = time.perf_counter(), 0.0
            # what is remembered draws nothing, so what is new must not move the draws of whoever asks
            with seeding.seeded(self.task.search_seed, "candidate", "estimate"):
                figures, why = self._figures(genotype, how, key)
            spent = self.earlier + time.perf_counter() - began
            # JSON has no NaN: what has no figure is null
            plain = {name: None if math.isnan(value) else value for name, value in figures.items()}
            one = {"genotype": genotype, "how": asked, "figures": plain, "seconds": spent}
            self.kept[key] = {**one, **({} if why is None else {"why": why})}
            self.task.folder.write_json(FILE, {"candidates": self.candidates})
            self._clear(key)
        found = {name: math.nan if value is None else float(value) for name, value in self.kept[key]["figures"].items()}
        done = len(self.kept)
        told: dict[str, Any] = dict(found)
        self.task.report(done, max(done, self.most or done), "candidate", **told)
        return found

    def _figures(self, genotype: Genotype, how: Estimation, key: str) -> tuple[dict[str, float], str | None]:
        """Judge a genotype; where it cannot be judged, NaN and why."""
        processes, settings = self.task.processes, self.task.method.estimated(how)
        looked_at = bool(OF_NETWORKS & set(how.objectives))
        if looked_at and how.network == "inherited":
            self._supernet(how, settings)  # where it diverges, no candidate has a figure
        try:
            space = self._sized(genotype, settings)
        except InputError as fault:  # no network of this genotype has the capacity
            return dict.fromkeys(how.objectives, math.nan), text_of(fault)
        try:
            network = self._network(genotype, how, settings, key) if looked_at else None
            judge = self._judge(how, settings)
            # one process judges: on a device two might differ in a last bit, and the searches would part
            found = processes.run_together(
                lambda: self._judged(genotype, how, space, network, judge) if processes.first else None
            )[0]
        except DivergedError as fault:
            return dict.fromkeys(how.objectives, math.nan), text_of(fault)
        assert found is not None
        return found

    def _judged(
        self, genotype: Genotype, how: Estimation, space: SearchSpace, network: nn.Module | None, judge: Judge
    ) -> tuple[dict[str, float], str | None]:
        """The figures by objective; a metric that fails has none, and says why."""
        figures: dict[str, float] = {}
        why: str | None = None
        wanted = {"clean", "robust"} & set(how.objectives)
        right: dict[str, int] = {}
        if wanted:
            assert network is not None
            right = judge.right(network, attacked="robust" in wanted)
        for one in how.objectives:
            if one in wanted:
                figures[one] = right[one] / right["images"]
            elif one == "certified":
                assert network is not None
                figures[one] = judge.certified(network)
            elif one == "metric":
                assert network is not None
                figures[one], why = self._score(network, judge)
            else:
                figures[one] = float(self._size(space, genotype, one))
        return figures, why

    def _score(self, network: nn.Module, judge: Judge) -> tuple[float, str | None]:
        """What the method's metrics say of a network."""
        scored = [(weight, one) for weight, one in self.task.method.metrics if "score" in metric_parts(one)]
        try:
            with seeding.seeded(self.task.search_seed, "candidate", "score"):
                return judge.score(network, scored), None
        except RobustnasError as fault:  # a bound that overflows, say, on this architecture
            return math.nan, text_of(fault)
        except Exception as fault:  # whatever somebody's metric raises
            if (explained := explain(fault, self.task.stage.kind)) is not None:
                raise explained from fault
            return math.nan, traced(fault)

    def _check(self, how: Estimation) -> None:
        """Look whether a question is covered by what the strategy says beforehand."""
        said = estimation(self.task.method.strategy)
        if said is None or said.network != how.network or not {*how.objectives} <= {*said.objectives}:
            name = type(self.task.method.strategy).__name__
            raise PluginError(
                f"strategy {name} asks for {', '.join(how.objectives)} of {how.network} networks, and its `estimation` "
                f"is {said}; one with these would do, for it decides which results of before still count"
            )

    def _sized(self, genotype: Genotype, settings: Train) -> SearchSpace:
        """The space whose networks have the size that training gives this genotype's.

        Raises:
            InputError: no size comes near the capacity that is asked for.
        """
        space, match = self.task.method.space, settings.match
        return space if match is None else matched(space, genotype, self.task.plan.dataset, match).space

    def _size(self, space: SearchSpace, genotype: Genotype, objective: str) -> int:
        """Weights or multiply-adds of the discrete network."""
        dataset = self.task.plan.dataset
        if objective == "parameters":
            return parameters(space, genotype, dataset)
        with torch.device("meta"):
            network = space.network(genotype, dataset.shape, dataset.classes)
        return multiply_adds(network, dataset.shape)

    def _network(self, genotype: Genotype, how: Estimation, settings: Train, key: str) -> nn.Module:
        """The network that is judged."""
        make = {"trained": self._trained, "inherited": self._inherited, "untrained": self._untrained}[how.network]
        return make(genotype, how, settings, key)

    def _judge(self, how: Estimation, settings: Train) -> Judge:
        task = self.task
        images = task.plan.dataset.split("train")
        seed = task.stage.seed.of_candidates
        _, held_out = train.divided(images.labels, settings, seed, ALONE)
        # in no order of classes: the first of them are scored, and a batch's statistics are its own
        held_out = held_out[torch.randperm(len(held_out), generator=seeding.generator(seed, "candidate", "judged"))]
        statistics = running if how.network == "trained" else statistics_of
        return Judge(images, held_out, settings.batch, task.method.threat, seed, task.device, statistics)

    def _trained(self, genotype: Genotype, how: Estimation, settings: Train, key: str) -> nn.Module:
        """Train a candidate without the images that judge it."""
        task, folder = self.task, self._place("candidate", key)
        todo = train.TrainTask(
            dataset=TrainingOnly(task.plan.dataset),
            space=task.method.space,
            genotype=genotype,
            threat=task.method.threat,
            settings=settings,
            seed=task.stage.seed.of_candidates,
        )
        self._count(train.run, todo, folder)
        task.processes.broadcast(None)  # the first process writes the network that all of them read
        return train.load(folder, todo.space, genotype, todo.dataset, settings).to(task.device)

    def _untrained(self, genotype: Genotype, how: Estimation, settings: Train, key: str) -> nn.Module:
        """The network with the weights that a candidate's training begins with."""
        task, space = self.task, self._sized(genotype, settings)
        with seeding.seeded(task.stage.seed.of_candidates, "train", "weights"):
            return train.build(space, genotype, task.plan.dataset, settings).to(task.device)

    def _inherited(self, genotype: Genotype, how: Estimation, settings: Train, key: str) -> nn.Module:
        """The genotype's path through the supernet, trained on for some epochs where that is asked for."""
        task = self.task
        folder, dataset = self._supernet(how, settings)
        if how.epochs is not None:
            todo = attrs.evolve(
                self._shared(dataset),
                settings=attrs.evolve(task.method.search, epochs=how.epochs),
                genotype=genotype,
                start=folder.load_tensors(single_path.FILE),
            )
            folder = self._place("candidate", key)
            self._count(single_path.run, todo, folder)
            task.processes.broadcast(None)
        network: nn.Module = search.inherited(folder, task.method.space, task.plan.dataset)(genotype)
        return network.to(task.device)

    def _supernet(self, how: Estimation, settings: Train) -> tuple[StageFolder, Picked]:
        """Train the weights that all candidates share, without the images that judge; once."""
        task = self.task
        labels = task.plan.dataset.split("train").labels
        kept, _ = train.divided(labels, settings, task.stage.seed.of_candidates, ALONE)
        dataset = Picked(TrainingOnly(task.plan.dataset), kept)
        folder = self._place("supernet", str(how.holdout))
        if not folder.done:
            result = self._count(single_path.run, self._shared(dataset), folder)
            folder.finish(result)
            task.processes.broadcast(None)
        return folder, dataset

    def _shared(self, dataset: Picked) -> SinglePathTask:
        """The training of the weights that candidates share."""
        method = self.task.method
        return SinglePathTask(
            dataset, method.space, method.search, self.task.search_seed, method.metrics, method.threat
        )

    def _count(self, run: Callable[..., dict[str, Any]], todo: Any, folder: StageFolder) -> dict[str, Any]:
        """Train; what sittings before this one spent on it is counted too."""
        began = time.perf_counter()
        result = run(todo, folder, self.task.device, processes=self.task.processes)
        whole = float(result["train_seconds" if "train_seconds" in result else "search_seconds"])
        self.earlier += max(0.0, whole - (time.perf_counter() - began))
        return result

    def _place(self, kind: str, key: str) -> StageFolder:
        """A folder within the search's own, found again by what it is for."""
        own = self.task.folder
        return attrs.evolve(own, path=own.path / f"{kind}-{digest(kind, key)}")

    def clear(self) -> None:
        """Remove the networks that were made to judge by, once the search is over; figures are kept."""
        if self.task.processes.first:
            for folder in self.task.folder.path.glob("supernet-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def _clear(self, key: str) -> None:
        """Remove what a candidate's training left; its figures are kept."""
        if self.task.processes.first:
            shutil.rmtree(self._place("candidate", key).path, ignore_errors=True)


def _key(genotype: Genotype, how: Mapping[str, Any]) -> str:
    """A candidate and how it is judged, as a text."""
    return json.dumps([genotype, how], sort_keys=True)
