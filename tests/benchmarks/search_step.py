"""One step of the search (outer and inner level), method by method, as a multiple of plain DARTS, first order.

    python tests/benchmarks/search_step.py                       the quickstart's supernet
    python tests/benchmarks/search_step.py --supernet cifar10    8 cells, 16 channels, 32x32x3 (the paper's size)

Every method runs on the same supernet and the same batches, in turn, several rounds; the figure is the median over
rounds.  Times depend on the machine and what else it does; compare the multiples.  On a CUDA device add --device cuda.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from robustnas import seeding
from robustnas.contracts import Context
from robustnas.normalize import PixelSupernet
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.hypergradient import ORDERS, Step
from robustnas.search.objective import Objective
from robustnas.search.weights import weights
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.adversarial_training import AdversarialTraining
from robustnas_plugins.metrics.certified_bound import CertifiedBound
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.random_noise import RandomNoise
from robustnas_plugins.search_spaces.darts import Darts

SUPERNETS = {
    "quickstart": (Darts(cells=2, channels=4), (1, 8, 8), 64, (1e-3, "float32")),
    "digits": (Darts(cells=3, channels=8), (1, 8, 8), 64, (1e-3, "float32")),
    "cifar10": (Darts(cells=8, channels=16), (3, 32, 32), 16, (1e-6, "float64")),
}


def methods(epsilon: float, precision: str) -> dict[str, tuple[str, tuple[tuple[float, Any], ...]]]:
    """Hypergradient and metrics of each method; epsilon and precision are such that the bound does not overflow."""
    bound = CertifiedBound(epsilon=epsilon, scale="log", precision=precision)
    return {
        "darts, first order": ("first", ()),
        "darts, unrolled": ("unrolled", ()),
        "dsrna-jacobian, one row": ("first", ((1.0, Jacobian(rows=1)),)),
        "dsrna-jacobian, all rows": ("first", ((1.0, Jacobian()),)),
        "dsrna-cb, crown-ibp": ("first", ((1.0, bound),)),
        "dsrna-combined, one row": ("first", ((1.0, bound), (1.0, Jacobian(rows=1)))),
        "sdarts-rs": ("first", ((1.0, RandomNoise()),)),
        "sdarts-adv": ("first", ((1.0, AdversarialAlpha()),)),
        "adversarial-training": ("first", ((1.0, AdversarialTraining()),)),
    }


def stepper(name: str, batch: int | None, order: str, metrics: Any, device: torch.device) -> Callable[[], None]:
    """A function that does one step of a fresh search."""
    space, shape, default_batch, _ = SUPERNETS[name]
    count = batch or default_batch
    with seeding.seeded(0, "benchmark"):
        supernet = PixelSupernet(space.supernet(shape, 10), (0.5,) * shape[0], (0.25,) * shape[0])
        images = torch.rand(2, count, *shape).to(device)
        labels = torch.randint(10, (2, count)).to(device)
    supernet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    w = weights(supernet)
    w_optimizer = torch.optim.SGD(w.parameters, 0.025, momentum=0.9, weight_decay=3e-4)
    alpha_optimizer = torch.optim.Adam(list(supernet.alpha.values()), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    context = Context(0.5, seeding.generator(0, "benchmark", device=device), F.cross_entropy)
    layout = torch.channels_last
    step = Step(
        supernet,
        Objective(metrics, ThreatModel("linf", "8/255"), 0.01),
        w,
        w_optimizer,
        (images[0].contiguous(memory_format=layout), labels[0]),
        (images[1].contiguous(memory_format=layout), labels[1]),
        context,
        context,
    )

    def once() -> None:
        outer_step(step, ORDERS[order], alpha_optimizer)
        inner_step(step, 5.0)

    return once


def main() -> None:
    """Time every method and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", choices=sorted(SUPERNETS), default="quickstart")
    parser.add_argument("--batch", type=int, help="images of each half in a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    steppers = {
        name: stepper(arguments.supernet, arguments.batch, order, metrics, device)
        for name, (order, metrics) in methods(*SUPERNETS[arguments.supernet][3]).items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for round_number in range(arguments.rounds + 1):  # the first round warms up
        for name, once in steppers.items():
            wait()
            began = time.perf_counter()
            once()
            wait()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    plain = statistics.median(seconds["darts, first order"])
    table = Table(
        title=f"one search step, {arguments.supernet} supernet, {torch.get_num_threads()} thread(s), {device}"
    )
    for title in ("method", "seconds", "x plain"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for name, found in seconds.items():
        middle = statistics.median(found)
        table.add_row(name, f"{middle:.3f}", f"{middle / plain:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
