"""Estimates the memory that one step of a search needs, without running it at its size.

Weights, alpha, gradients, the optimisers' state, what autograd saves and results on their way: everything that is
alive at the highest moment of an outer and an inner step, in bytes of tensors.  The images that live on the device
for the whole search are not in it, nor is what libraries need inside an operation.

Two steps are run at a tiny batch on the CPU, and what is alive at each moment is continued to the size of the batch,
in which it is linear.  (A step on the `meta` device, at its size and without computing anything, takes longer than
the tiny ones, and metrics may look at values, which it has not.)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from robustnas.contracts import Context
from robustnas.data.batches import Part
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.optimizers import SGD, Adam
from robustnas.nn.recompute import recompute
from robustnas.runtime import seeding
from robustnas.runtime.tally import Tally, extrapolated
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Objective
from robustnas.search.task import SearchTask
from robustnas.search.weights import weights

TINY = (2, 3)
"""Images of the two steps: as few as batch norm takes, and one more."""


def step_bytes(task: SearchTask) -> int:
    """Estimate the peak of one step of both levels in one process, in bytes.

    Passes that a metric cuts to fit (the rows of `crown`) are continued as if they were whole, which gives too much.

    Raises:
        RobustnasError: what a metric raises.
    """
    images = math.ceil(task.settings.batch / task.settings.accumulate)
    few, many = TINY
    return extrapolated((few, trace(task, few)), (many, trace(task, many)), images)


def trace(task: SearchTask, images: int) -> list[int]:
    """Bytes alive after each operation of one step of both levels at `images` images, in order."""
    settings, dataset = task.settings, task.dataset
    objective = Objective(task.metrics, task.threat, settings.gamma, settings.precision)
    tally = Tally()
    with seeding.seeded(0, "footprint"), tally:
        supernet = PixelSupernet.of(task.space, dataset)
        if settings.recompute_cells:
            recompute(supernet.supernet, "search.recompute_cells")
        supernet.to(memory_format=torch.channels_last).train()
        w = weights(supernet)
        alphas = list(supernet.alpha.values())
        w_optimizer = SGD(w.parameters, settings.w_lr, settings.w_momentum, weight_decay=settings.w_decay)
        alpha_optimizer = Adam(alphas, settings.alpha_lr, weight_decay=settings.alpha_decay)
        for optimizer in (w_optimizer, alpha_optimizer):
            _furnish(optimizer)
        labels = torch.arange(images) % dataset.classes
        part = Part(torch.rand(images, *dataset.shape), labels, 1.0)
        context = Context(0.0, torch.Generator(), F.cross_entropy)
        step = Step(
            supernet=supernet,
            objective=objective,
            weights=w,
            w_optimizer=w_optimizer,
            train=(part,),
            val=(part,),
            inner=context,
            outer=context,
        )
        tally.restart()
        outer_step(step, settings.order, alpha_optimizer)
        inner_step(step, settings.w_clip)
        return tally.trace


def _furnish(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimiser the state that it has from its first step on."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
