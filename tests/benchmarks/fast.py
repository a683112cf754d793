"""What each part of the speed layer (`robustnas.nn.fast`) gains of a search step: the step without it, over the step.

    python tests/benchmarks/fast.py                                          the quickstart's and the digits' supernet
    python tests/benchmarks/fast.py --supernet cifar10 --batch 4
    python tests/benchmarks/fast.py --device cuda --supernet cifar10 --batch 64 --seconds 110

One process, one search a method.  A step without a part is timed between two steps with all of them, and divided by
their mean; figures are the median over rounds and, in brackets, the middle half of them.  1.30 is a step that takes
30 % longer without the part, 1.00 a part that gains nothing.  `channels last` is the layout of images and weights in
memory, which a search always uses.  On one thread of a CPU the time is the processor's own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from search_step import PLAIN, methods
from stepping import SIZES, stepper

from robustnas.nn.fast import PARTS, plain

METHODS = (PLAIN, "dsrna-jacobian, one row", "dsrna-cb, crown-ibp", "darts, exact")

Ratios = dict[str, list[float]]


def ratios(
    once: Callable[[], None],
    others: dict[str, tuple[Callable[[], None], AbstractContextManager[None]]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[float, Ratios]:
    """Median seconds of a step, and for each other way of making it its time over that of the steps around it.

    Args:
        once: makes a step with everything on.
        others: what makes a step, and the context to make it in.
        rounds: at most so many, after one that warms up.
        seconds: after so many no further round begins, but for the first two.
        clock: in seconds.
    """

    def timed(step: Callable[[], None]) -> float:
        began = clock()
        step()
        return clock() - began

    usual: list[float] = []
    found: Ratios = {name: [] for name in others}
    began = time.monotonic()
    for number in range(rounds + 1):
        if number > 2 and time.monotonic() - began > seconds:
            break
        before = timed(once)
        for name, (step, context) in others.items():
            with context:
                without = timed(step)
            after = timed(once)
            if number:
                found[name].append(2 * without / (before + after))
                usual.append(after)
            before = after
    return statistics.median(usual), found


class Without(AbstractContextManager[None]):
    """`plain`, to be entered again and again."""

    def __init__(self, *parts: str):
        self.parts = parts

    def __enter__(self) -> None:
        self.context = plain(*self.parts)
        self.context.__enter__()

    def __exit__(self, *fault: object) -> None:
        self.context.__exit__(None, None, None)


def shown(values: list[float]) -> str:
    """Median and middle half."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f} {high:.2f}]"


def main() -> None:
    """Time every part with every method, one table for each supernet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", nargs="+", choices=sorted(SIZES), default=["quickstart", "digits"])
    parser.add_argument("--batch", type=int, help="images of each half in a step")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts; all if not given")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="about so many a supernet, fewer rounds then"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    clock = partial(waited, device) if device.type == "cuda" else time.perf_counter
    if device.type == "cpu" and arguments.threads == 1:
        clock = time.process_time
    for name in arguments.supernet:
        size = SIZES[name]
        table = Table(
            title=f"a search step without a part of the speed layer, over the step: {name} supernet, batch "
            f"{arguments.batch or size.batch}, {device}, {arguments.threads} thread(s), torch {torch.__version__}"
        )
        table.add_column("without")
        rows: dict[str, list[str]] = {"seconds of a step": [], **{part: [] for part in arguments.part}}
        rows |= {"channels last": [], "all parts": []}
        for method in METHODS:
            table.add_column(method, justify="right")
            make = partial(stepper, size, arguments.batch, *methods(size)[method], device=device)
            once = make()
            others = {part: (once, Without(part)) for part in arguments.part}
            others |= {
                "channels last": (make(layout=torch.contiguous_format), nullcontext()),
                "all parts": (once, Without()),
            }
            seconds, found = ratios(once, others, arguments.rounds, arguments.seconds / len(METHODS), clock)
            rows["seconds of a step"].append(f"{seconds:.3f}")
            for other, values in found.items():
                rows[other].append(shown(values))
        for first, cells in rows.items():
            table.add_row(first, *cells)
        Console(width=140).print(table)


def waited(device: torch.device) -> float:
    """The time when the device has done everything it was given."""
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
