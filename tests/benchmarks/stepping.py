"""A step of a search on its own, for the benchmarks: a fresh supernet, one pair of batches, nothing else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen

from robustnas.contracts import Context, Order
from robustnas.data.batches import Part
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.recompute import recompute
from robustnas.nn.synchronised import synchronise
from robustnas.runtime import seeding
from robustnas.runtime.device import can_fuse
from robustnas.runtime.precision import Precision, policy
from robustnas.runtime.processes import ALONE, Processes
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.compiled import Compiled
from robustnas.search.hypergradient.first_order import FirstOrder
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Objective
from robustnas.search.weights import weights
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.pc_darts import PcDarts


@frozen
class Size:
    """A supernet and its images.

    Args:
        space: of the supernet.
        shape: (C, H, W) of an image.
        batch: images of each half in a step, unless asked for otherwise.
        epsilon: of the certified bound.
    """

    space: Any
    shape: tuple[int, int, int]
    batch: int
    epsilon: float = 1e-3


SIZES = {
    "quickstart": Size(Darts(cells=2, channels=4), (1, 8, 8), 64),
    "pc-darts": Size(PcDarts(cells=2, channels=4), (1, 8, 8), 64),
    "digits": Size(Darts(cells=4, channels=16), (1, 8, 8), 64, 1e-5),
    "cifar10": Size(Darts(cells=8, channels=16), (3, 32, 32), 16, 1e-6),
}


def prepared(
    size: Size,
    batch: int | None = None,
    metrics: tuple[tuple[float, Any], ...] = (),
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compiled: bool = False,
    recomputed: bool = False,
    layout: torch.memory_format = torch.channels_last,
    draws: torch.device | str | None = None,
    processes: Processes = ALONE,
) -> tuple[Step, torch.optim.Optimizer]:
    """What a step of a fresh search starts from, and alpha's optimiser.

    Args:
        batch: over all processes.
        draws: where metrics draw random numbers; the device, unless devices are compared.
    """
    device, count = torch.device(device), batch or size.batch
    with seeding.seeded(0, "benchmark"):
        channels = size.shape[0]
        supernet = PixelSupernet(size.space.supernet(size.shape, 10), (0.5,) * channels, (0.25,) * channels)
        images = torch.rand(2, count, *size.shape)
        labels = torch.randint(10, (2, count))
    if processes.size > 1:
        synchronise(supernet)
    if recomputed:
        recompute(supernet.supernet, "recomputed")
    supernet.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    w, mine = weights(supernet), processes.share(count)
    fused = can_fuse(device)
    w_optimizer = torch.optim.SGD(w.parameters, 0.025, momentum=0.9, weight_decay=3e-4, fused=fused)
    alpha_optimizer = torch.optim.Adam(
        list(supernet.alpha.values()), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3, fused=fused
    )
    context = Context(
        0.5, seeding.generator(0, "benchmark", device=draws or device), F.cross_entropy, processes.average
    )
    halves = [
        (
            Part(
                some[mine].to(device).contiguous(memory_format=layout), truth[mine].to(device), len(truth[mine]) / count
            ),
        )
        for some, truth in zip(images, labels, strict=True)
    ]
    objective = Objective(
        metrics, ThreatModel("linf", "8/255"), 0.01, precision, Compiled(supernet) if compiled else None
    )
    step = Step(
        supernet=supernet,
        objective=objective,
        weights=w,
        w_optimizer=w_optimizer,
        train=halves[0],
        val=halves[1],
        inner=context,
        outer=context,
        processes=processes,
    )
    return step, alpha_optimizer


def stepper(
    size: Size,
    batch: int | None = None,
    order: Order | None = None,
    metrics: tuple[tuple[float, Any], ...] = (),
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    **options: Any,
) -> Callable[[], None]:
    """A function that does one step, outer and inner level, of a fresh search; `options` are those of `prepared`."""
    step, alpha_optimizer = prepared(size, batch, metrics, device, precision, **options)

    def once() -> None:
        with policy(precision):
            outer_step(step, order or FirstOrder(), alpha_optimizer)
            inner_step(step, 5.0)

    return once


def scorer(size: Size, batch: int | None, metric: Any, device: torch.device | str = "cpu") -> Callable[[], None]:
    """A function that scores one batch by a metric, as `robustnas rank` does, on a fresh supernet."""
    step, _ = prepared(size, batch, device=device)
    (part,) = step.val

    def once() -> None:
        with scratch_statistics(step.supernet), torch.no_grad():
            step.supernet(part.images)
            with frozen_statistics(step.supernet):
                metric.score(step.supernet, part.images, part.labels, step.objective.threat)

    return once


def seconds(
    steps: Mapping[str, Callable[[], None]], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Median seconds of each, all in turn in every round; a first round warms up."""
    device = torch.device(device)
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, once in steps.items():
            _wait(device)
            began = time.perf_counter()
            once()
            _wait(device)
            if number:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
