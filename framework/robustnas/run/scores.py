"""The stages of a ranking: what each metric says of a network, before its training, on inherited weights, and after it.

A metric sees training images alone.  As in a search it sees an untrained or inherited network with the batch norm
statistics of these images, a trained one with its running statistics, which is what anyone who uses it will see.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from robustnas import search, train
from robustnas.data.order import in_order
from robustnas.data.stratified import balanced
from robustnas.errors import RobustnasError
from robustnas.nn.batch_statistics import statistics_of
from robustnas.recipe.schema import State
from robustnas.run.evaluated import network_of
from robustnas.run.judging import finite, running, total_score
from robustnas.run.task import Task, TrainingOnly, finish
from robustnas.runtime import seeding
from robustnas.runtime.machine_faults import explain
from robustnas.runtime.strangers import text_of, traced
from robustnas.search import single_path
from robustnas.train.capacity import matched


def supernet(task: Task) -> None:
    """Train the weights that genotypes inherit, a random genotype a step."""
    todo = single_path.SinglePathTask(
        TrainingOnly(task.plan.dataset), task.method.space, task.plan.search, task.plan.seeds.search[0]
    )
    finish(task, single_path.run(todo, task.folder, task.device, task.report, task.processes))


def scored(task: Task) -> None:
    """Score the network of a method and seed by every metric, in every state that is asked for.

    A metric that fails on a network is noted, and the others go on.
    """
    ranking = task.plan.ranking
    assert ranking is not None
    settings, images = ranking.settings, task.plan.dataset.split("train")
    chosen = balanced(images.labels, min(settings.images, len(images.labels)), 0)
    shown, labels = images.take(chosen).to(task.device), images.labels[chosen].to(task.device)
    scores: dict[str, dict[str, float]] = {label: {} for label in ranking.metrics}
    seconds: dict[str, dict[str, float]] = {label: {} for label in ranking.metrics}
    failed: dict[str, dict[str, str]] = {label: {} for label in ranking.metrics}
    for state in settings.states:
        network = _network(task, state)
        for label, use in ranking.metrics.items():
            began = time.perf_counter()
            try:
                with seeding.seeded(task.stage.seed.train, "score", label, state):
                    scores[label][state] = _mean(task, use.plugin, network, state, shown, labels)
            except RobustnasError as fault:  # a bound that overflows, say, on this architecture
                failed[label][state] = text_of(fault)
            except Exception as fault:  # whatever somebody's metric raises
                if (explained := explain(fault, task.stage.kind)) is not None:
                    raise explained from fault
                failed[label][state] = traced(fault)
            seconds[label][state] = time.perf_counter() - began
    finish(task, {"scores": scores, "failed": failed, "images": len(labels), "score_seconds": seconds})


def _network(task: Task, state: State) -> nn.Module:
    """Make the network of the stage's genotype in a state, on the device."""
    plan, method, seed = task.plan, task.method, task.stage.seed.train
    if state == "trained":
        return network_of(task)
    if state == "untrained":
        # with the weights that its training began with
        genotype, match = task.genotype(), method.train.match
        space = method.space if match is None else matched(method.space, genotype, plan.dataset, match).space
        with seeding.seeded(seed, "train", "weights"):
            return train.build(space, genotype, plan.dataset, method.train).to(task.device)
    folder = task.directory.folder(plan.by_key[task.stage.needs[-1]])
    network: nn.Module = search.inherited(folder, method.space, plan.dataset)(task.genotype())
    return network.to(task.device)


def _mean(task: Task, metric: Any, network: nn.Module, state: State, images: Tensor, labels: Tensor) -> float:
    """Take the mean score of the images.

    Raises:
        RunError: it is not finite, or the metric failed.
    """
    assert task.plan.ranking is not None
    statistics = running if state == "trained" else statistics_of
    total = 0.0
    for places in in_order(len(labels), task.plan.ranking.settings.batch):
        with statistics(network, images[places]) as ready, torch.no_grad():
            total += total_score(metric, ready, images[places], labels[places], task.method.threat)
    return finite(total) / len(labels)
