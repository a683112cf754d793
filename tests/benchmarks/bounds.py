"""Cost of the bounds on a DARTS supernet, as multiples of a plain forward, and of forward and backward.

    python tests/benchmarks/bounds.py [--size 8] [--cells 3] [--channels 8] [--batch 8] [--epsilon 1e-3]

`value` is a margin bound without gradients, over the plain forward pass; `gradient` is the bound with its
gradient in alpha and weights, over the plain forward and backward pass; both against the strongest wrong
class.  Everything is timed in turn, round by round, so a busy machine slows both sides of a ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from robustnas.bounds import margins
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts


def seconds(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for index in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if index > 0:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--cells", type=int, default=3)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epsilon", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()

    torch.manual_seed(0)
    shape = (3, given.size, given.size)
    images, labels = torch.rand(given.batch, *shape), torch.randint(0, 10, (given.batch,))
    net = Darts(cells=given.cells, channels=given.channels).supernet(shape, 10)
    with torch.no_grad():
        net.train()(images)
    net.eval()
    wanted = list(net.parameters())

    def loss() -> None:
        torch.autograd.grad(F.cross_entropy(net(images), labels), wanted, allow_unused=True)

    def plain() -> None:
        with torch.no_grad():
            net(images)

    work: dict[str, Callable[[], object]] = {"plain value": plain, "plain gradient": loss}
    found: dict[tuple[str, str], float] = {}
    for norm in ("linf", "l2"):
        threat = ThreatModel(norm, given.epsilon)
        for method in ("ibp", "crown-ibp"):

            def value(method: str = method, threat: ThreatModel = threat) -> torch.Tensor:
                with torch.no_grad():
                    return margins(net, images, labels, threat, method, "strongest")

            def gradient(method: str = method, threat: ThreatModel = threat) -> None:
                bound = margins(net, images, labels, threat, method, "strongest").mean()
                torch.autograd.grad(bound, wanted, allow_unused=True)

            work[f"{norm} {method} value"], work[f"{norm} {method} gradient"] = value, gradient
            found[norm, method] = float(value().mean())
    taken = seconds(work, given.rounds)
    table = Table("norm", "method", "mean margin bound", "value / forward", "gradient / forward + backward")
    for (norm, method), bound in found.items():
        value_ratio = taken[f"{norm} {method} value"] / taken["plain value"]
        gradient_ratio = taken[f"{norm} {method} gradient"] / taken["plain gradient"]
        table.add_row(norm, method, f"{bound:.4g}", f"{value_ratio:.1f}", f"{gradient_ratio:.1f}")
    console = Console()
    console.print(
        f"{given.cells} cells, {given.channels} channels, {given.size}x{given.size}, batch {given.batch}: "
        f"plain forward {taken['plain value']:.3f} s, forward + backward {taken['plain gradient']:.3f} s"
    )
    console.print(table)


if __name__ == "__main__":
    main()
