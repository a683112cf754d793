"""Our plain DARTS step, first order, as a multiple of the textbook's: same network, same weights, same batches.

    python tests/benchmarks/plain_step.py [--threads 1] [--rounds 5] [--size digits cifar10] [--batch 4 16]

The textbook's step is `textbook.py`: edge by edge, NCHW, gradients of all parameters in both levels.  Both are timed
in turn, round by round; the ratio is the median over rounds of the two times of one round, so a machine that is busy
for a while slows both sides of it.  `roofline` is the share of what the machine can do (see `roofline.py`; its peaks
are measured in this run), `calls` the operations that are started.  With one thread the time is that of the processor,
which other programs disturb less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import textbook
import torch
from attrs import evolve
from rich.console import Console
from rich.table import Table
from roofline import Machine, counted
from stepping import SIZES, Size, stepper

from robustnas.runtime import seeding
from robustnas_plugins.search_spaces.darts import Darts

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.edge_by_edge import per_edge

NETWORKS = {
    "digits": evolve(SIZES["digits"], batch=16),
    "digits-narrow": Size(Darts(cells=4, channels=4), (1, 8, 8), 64),
    "cifar10": evolve(SIZES["cifar10"], batch=4),
}


def textbook_stepper(size: Size, batch: int, device: torch.device | str = "cpu") -> Callable[[], None]:
    """The textbook's step on the network and the images that `stepping.stepper` makes.

    Raises:
        SystemExit: the two are not the same network.
    """
    channels = size.shape[0]
    with seeding.seeded(0, "benchmark"):
        ours = size.space.supernet(size.shape, 10)
        images, labels = torch.rand(2, batch, *size.shape), torch.randint(10, (2, batch))
    images, labels = (images.to(device) - 0.5) / 0.25, labels.to(device)
    ours = ours.to(device)
    theirs = textbook.TextbookSupernet(channels, 10, size.space.cells, size.space.channels).to(device)
    theirs.load_per_edge(per_edge(ours, ours.state_dict()))
    with torch.no_grad():
        outputs = [network.double().train()(images[0].double()) for network in (ours, theirs)]
    counts = [sum(one.numel() for one in weights) for weights in (theirs.weights(), _weights(ours))]
    if not torch.allclose(*outputs, rtol=0, atol=1e-9) or counts[0] != counts[1]:
        raise SystemExit(f"not the same network: {counts} weights, outputs differ by {_distance(*outputs):.1e}")
    theirs.load_per_edge(per_edge(ours, ours.state_dict()))
    return textbook.stepper(theirs.float(), (images[0], labels[0]), (images[1], labels[1]))


def _weights(supernet: torch.nn.Module) -> list[torch.Tensor]:
    return [one for name, one in supernet.named_parameters() if not name.startswith("alpha.")]


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def compared(
    first: Callable[[], None], second: Callable[[], None], rounds: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
    """Median seconds of each, and the median over rounds of second / first."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        began = clock()
        first()
        between = clock()
        second()
        if number:  # the first round warms up
            times.append((between - began, clock() - between))
    one, two = (statistics.median(column) for column in zip(*times, strict=True))
    return one, two, statistics.median(b / a for a, b in times)


def main() -> None:
    """Time both steps on every network and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, help="images of each half in a step; each is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    machine = Machine.measured()

    table = Table(
        title=f"plain first-order step, {arguments.threads} thread(s); measured peaks: "
        f"{machine.operations / 1e9:.0f} GFLOP/s, {machine.bytes / 1e9:.0f} GB/s"
    )
    for name in ("network", "batch", "step", "seconds", "x textbook", "GFLOP", "GB", "calls", "roofline"):
        table.add_column(name, justify="left" if name in ("network", "step") else "right")
    for name in arguments.size:
        size = NETWORKS[name]
        for batch in arguments.batch or [size.batch]:
            steps = {"textbook": textbook_stepper(size, batch), "ours": stepper(size, batch)}
            *seconds, ratio = compared(*steps.values(), arguments.rounds, clock)
            for (step, once), took, multiple in zip(steps.items(), seconds, (1.0, ratio), strict=True):
                work = counted(once)
                table.add_row(
                    name,
                    str(batch),
                    step,
                    f"{took:.3f}",
                    f"{multiple:.2f}",
                    f"{work.operations / 1e9:.2f}",
                    f"{work.bytes / 1e9:.2f}",
                    str(work.calls),
                    f"{machine.least_seconds(work) / took:.0%}",
                )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
