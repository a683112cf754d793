"""Loads what is evaluated: the network of a method and seed, and the test images that all methods share.

Of a run that was made before, `planned` makes the plan again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from robustnas import train
from robustnas.contracts import Images
from robustnas.data.selection import Chosen, first
from robustnas.data.stratified import balanced
from robustnas.errors import RunDirectoryError
from robustnas.plan import Plan, Seed, make
from robustnas.recipe.load import load
from robustnas.run.asked import trains
from robustnas.run.directory import RunDirectory
from robustnas.run.task import Task, genotype_of, load_foreign
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import of_no_stage, opened


def network_of(task: Task, name: str | None = None, tell: Callable[[str], None] | None = None) -> nn.Module:
    """Load the network of a method (default: the stage's own) and the stage's seed, on the device; see `trained`."""
    return trained(task.directory, task.plan, name or task.stage.method, task.stage.seed, tell).to(task.device)


def trained(
    directory: RunDirectory, plan: Plan, method: str, seed: Seed, tell: Callable[[str], None] | None = None
) -> nn.Module:
    """Load the network of a method and seed, on the CPU, in eval mode: from pixels in [0, 1] (N, C, H, W) to logits.

    Args:
        tell: is called with a line on the tensors that a network made elsewhere takes from a file.

    Raises:
        RunDirectoryError: it has not been trained in this directory.
    """
    chosen = plan.methods[method]
    with seeding.seeded(seed.train, "evaluate", "build"):  # trained weights are overwritten at once
        if chosen.network is not None:
            return load_foreign(chosen.network, plan.dataset, tell)
        stage = plan.stage("train", method, seed)
        if stage is None or not directory.done(stage):
            raise RunDirectoryError(
                f"{directory.path} holds no trained network of {method} seed {seed}; {trains(directory.path)} trains it"
            )
        genotype = chosen.genotype or genotype_of(directory, plan, method, seed)
        return train.load(directory.folder(stage), chosen.space, genotype, plan.dataset, chosen.train)


def planned(run: Path) -> Plan:
    """Make the plan of the recipe that a run directory keeps.

    Raises:
        RunDirectoryError: it is not a run directory, or its recipe is not what was written.
        RecipeError: its recipe has faults by now: a plugin is gone, say.
    """
    recipe = run / "recipe.yaml"
    if not os.path.lexists(recipe):
        raise RunDirectoryError(
            f"{run} is not a run directory: it has no recipe.yaml; `robustnas run RECIPE` makes one in runs/"
        )
    opened(recipe, of_no_stage(recipe)).close()  # it is what the run wrote
    return make(load(recipe))


def evaluated_images(plan: Plan, among: int | None = None, split: Images | None = None) -> tuple[Images, Tensor]:
    """The test images that are evaluated, and their places in the test split (N,).

    Args:
        among: takes only the first so many; None takes all.
        split: the test split, where it has been read already.

    Raises:
        DataError: the test split has fewer images.
    """
    images = split or plan.dataset.split("test")
    wanted = plan.evaluate.images
    indices = torch.arange(len(images.labels))
    if plan.quick and wanted is not None:
        wanted = min(wanted, len(indices))
    if wanted is not None and plan.evaluate.subset == "first":
        images, indices = first(images, wanted), indices[:wanted]
    elif wanted is not None:
        indices = balanced(images.labels, wanted, plan.evaluate.subset_seed)
        images = Chosen(images, indices)
    if among is not None and among < len(indices):
        images, indices = first(images, among), indices[:among]
    return images, indices
