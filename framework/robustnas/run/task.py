"""One stage with everything it needs at hand: what it reads, where it writes, and who made it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from attrs import frozen
from torch import nn

from robustnas import contracts, foreign
from robustnas.contracts import Dataset, Genotype, Images
from robustnas.data.view import View
from robustnas.errors import RunError
from robustnas.plan import Foreign, MethodPlan, Plan, Seed, Stage
from robustnas.run import provenance
from robustnas.run.asked import genotype_in
from robustnas.run.directory import RunDirectory
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.derived import derive
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report


@frozen
class TrainingOnly(View):
    """A dataset whose test split is refused; search and training see no other."""

    @property
    def training_images(self) -> Callable[[int], Images] | None:
        """The dataset's own `training_images`, where it has that member."""
        return contracts.training_images(self.dataset)

    def split(self, name: str) -> Images:
        """Return the training split, and refuse any other.

        Raises:
            RunError: search or training asked for something else.
        """
        if name != "train":
            raise RunError(f"search and training asked for the {name!r} split; only evaluation may see it")
        return self.dataset.split(name)


@frozen
class Task:
    """One stage with everything it needs at hand."""

    plan: Plan
    stage: Stage
    directory: RunDirectory
    device: torch.device
    report: Report
    processes: Processes = ALONE

    @property
    def method(self) -> MethodPlan:
        return self.plan.methods[self.stage.method]

    @property
    def folder(self) -> StageFolder:
        """The stage's folder; only the first process writes results to it, but each writes its own progress."""
        return self.directory.folder(self.stage).of_process(self.processes.rank)

    @property
    def search_seed(self) -> int:
        """The seed of a search: of several candidates each has its own, the first that of the recipe."""
        seed, candidate = self.stage.seed.search, self.stage.candidate
        return derive(seed, "candidate", candidate) if candidate else seed

    def genotype(self, name: str | None = None) -> Genotype:
        """Return the genotype of a method (default: the stage's own): the recipe's, or what its search found."""
        method = self.plan.methods[name or self.stage.method]
        if method.genotype is not None:
            return method.genotype
        return genotype_of(self.directory, self.plan, method.name, self.stage.seed)


def genotype_of(directory: RunDirectory, plan: Plan, method: str, seed: Seed) -> Genotype:
    """Return the genotype that a method found, of several candidates the chosen one.

    Raises:
        RunDirectoryError: its result holds no genotype.
    """
    stage = plan.genotype_stage(method, seed)
    assert stage is not None
    return genotype_in(directory.folder(stage))


def load_foreign(network: Foreign, dataset: Dataset, tell: Callable[[str], None] | None = None) -> nn.Module:
    """Load a network made elsewhere, and check that it fits the dataset's shape and classes.

    Args:
        tell: is called with a line on the tensors that were taken from a file.

    Raises:
        InputError: the network cannot be made, or does not fit.
    """
    mean, std = (dataset.mean, dataset.std) if network.normalize else (None, None)
    return foreign.load(
        network.factory, network.weights, classes=dataset.classes, shape=dataset.shape, mean=mean, std=std, tell=tell
    )


def finish(task: Task, result: dict[str, Any]) -> None:
    """Write the result, for which the other processes wait."""
    made = {**_made(task.device, task.processes), "run": provenance.latest(task.directory)}
    task.folder.finish({**result, "provenance": made})
    task.processes.broadcast(None)


def _made(device: torch.device, processes: Processes) -> dict[str, Any]:
    """Record versions, device, threads and time, so that a figure can be traced to what made it."""
    import robustnas

    return {
        "robustnas": robustnas.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes.size,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
