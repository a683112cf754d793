"""Loads what is evaluated: the network of a method and seed, and the test images that all methods share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustnas import train
from robustnas.contracts import Images
from robustnas.data.selection import Chosen, first
from robustnas.data.stratified import balanced
from robustnas.plan import Plan
from robustnas.run.task import Task, load_foreign
from robustnas.runtime import seeding


def network_of(task: Task, name: str | None = None, tell: Callable[[str], None] | None = None) -> nn.Module:
    """Load the network of a method (default: the stage's own) and the stage's seed, on the device, in eval mode.

    Args:
        tell: is called with a line on the tensors that a network made elsewhere takes from a file.
    """
    plan, seed = task.plan, task.stage.seed.train
    method = plan.methods[name or task.stage.method]
    if method.network is not None:
        with seeding.seeded(seed, "evaluate", "build"):
            return load_foreign(method.network, plan.dataset, tell).to(task.device)
    stage = plan.stage("train", method.name, task.stage.seed)
    assert stage is not None
    with seeding.seeded(seed, "evaluate", "build"):  # any seed will do: the weights are overwritten at once
        trained = train.load(
            task.directory.folder(stage), method.space, task.genotype(method.name), plan.dataset, method.train
        )
    return trained.to(task.device)


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
    if wanted is not None and plan.evaluate.subset == "first":
        images, indices = first(images, wanted), indices[:wanted]
    elif wanted is not None:
        indices = balanced(images.labels, wanted, plan.evaluate.subset_seed)
        images = Chosen(images, indices)
    if among is not None and among < len(indices):
        images, indices = first(images, among), indices[:among]
    return images, indices
