"""Our bounds beside auto_LiRPA's: the same networks, images and radii, one thread, in one process, in turn.

    python tests/benchmarks/auto_lirpa.py --path CLONE                    two networks, three norms, two methods
    python tests/benchmarks/auto_lirpa.py --path CLONE --methods crown    without the minutes of alpha-crown

CLONE is https://github.com/Verified-Intelligence/auto_LiRPA; --path may be given again for what it needs (appdirs,
graphviz, packaging, pyyaml, sortedcontainers, tqdm).  Without --path it is imported as it is installed.

    margin            mean over the images of the least margin, ours / theirs
    tighter           images whose least margin is larger by more than `--share` of its size, equal, and smaller; the
                      share of the image that comes out worst
    certified         images all of whose margins are above 0
    seconds           of the processor, the least of `--repeats`
    MB                by how much the process had to grow beyond the most that it had held before

Their optimised slopes start on the border of a clamp whose gradient is 0 from torch 2.14 on; they are put 1e-4 inside,
without which none of them moves.  They take as many iterations as our ascent takes steps.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustnas.bounds import margins
from robustnas.runtime import seeding
from robustnas.threat import ThreatModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.their_bounds import THEIRS, moving_slopes, theirs


class Residual(nn.Module):
    """Two blocks with batch norm beside the identity and a shortcut, for images of 8x8."""

    def __init__(self) -> None:
        super().__init__()
        wide = (nn.Conv2d(1, 8, 3, padding=1, bias=False), *(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in "ab"))
        self.convs = nn.ModuleList([*wide, nn.Conv2d(8, 16, 3, 2, 1, bias=False)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(each.out_channels, momentum=1.0) for each in self.convs)
        self.short, self.head = nn.Conv2d(8, 16, 1, 2, bias=False), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        layers = [
            lambda x, conv=conv, norm=norm: norm(conv(x)) for conv, norm in zip(self.convs, self.norms, strict=True)
        ]
        x = torch.relu(layers[0](x))
        x = torch.relu(x + layers[2](torch.relu(layers[1](x))))
        x = torch.relu(self.short(x) + layers[3](x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def convolutional() -> nn.Module:
    layers = (nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], int, int, dict[str, float], dict[str, float]]] = {
    "MNIST CNN": (convolutional, 28, 8, {"linf": 0.03, "l2": 0.3, "l1": 0.5}, {"linf": 0.03, "l2": 0.3, "l1": 0.5}),
    "residual": (Residual, 8, 4, {"linf": 0.02, "l2": 0.2, "l1": 0.5}, {"linf": 0.01, "l2": 0.1, "l1": 0.2}),
}
"""How the network is made, the size of its images, how many of them, and the radii of `crown` and of `alpha-crown`."""


def made(build: Callable[[], nn.Module], size: int, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of random weights with the statistics of 64 random images, the first of them, and its own labels."""
    with seeding.seeded(0, "benchmark"):
        network, images = build(), torch.rand(64, 1, size, size)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
        images = images[:count].clone()
        return network, images, network.eval()(images).argmax(1)


def measured(compute: Callable[[], Tensor], repeats: int) -> tuple[Tensor, float, float]:
    """What it gives, the least seconds of the processor, and by how many MB the process's largest size grew."""
    before, least = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, math.inf
    for _ in range(repeats):
        began = time.process_time()
        found = compute()
        least = min(least, time.process_time() - began)
    return found, least, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", action="append", default=[], help="where auto_LiRPA is, and what it needs")
    parser.add_argument("--repeats", type=int, default=3, help="of crown; alpha-crown is computed once")
    parser.add_argument("--share", type=float, default=0.01, help="of a margin's size: less is no difference")
    parser.add_argument("--networks", nargs="*", default=[*CASES], choices=CASES)
    parser.add_argument("--methods", nargs="*", default=["crown", "alpha-crown"], choices=THEIRS)
    given = parser.parse_args()
    sys.path[:0] = given.path[:1]
    sys.path += given.path[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    moving_slopes()
    columns = ("network", "threat", "method", "margin", "tighter, equal, looser", "least share", "certified", "seconds")
    table = Table(*columns, "ratio", "MB", title="ours / theirs")
    for name, (build, size, count, fixed, optimised) in CASES.items():
        if name not in given.networks:
            continue
        network, images, labels = made(build, size, count)
        for method in given.methods:
            for norm, epsilon in (optimised if method == "alpha-crown" else fixed).items():
                threat = ThreatModel(norm, epsilon)
                repeats = 1 if method == "alpha-crown" else given.repeats
                with torch.no_grad():
                    own = measured(lambda: margins(network, images, labels, threat, method), repeats)  # noqa: B023
                other = theirs(network, images, labels, threat, method)
                reference = measured(other, repeats)
                least = [each[0].amin(dim=1) for each in (own, reference)]
                share = (least[0] - least[1]) / least[1].abs()
                counts = (share > given.share, share.abs() <= given.share, share < -given.share)
                # one by one, as alpha-crown takes minutes of theirs
                row = (
                    name,
                    f"{norm} {epsilon:g}",
                    method,
                    " / ".join(f"{float(each.mean()):.4f}" for each in least),
                    ", ".join(str(int(each.sum())) for each in counts),
                    f"{float(share.min()):+.2%}",
                    " / ".join(str(int((each > 0).sum())) for each in least),
                    f"{own[1]:.3f} / {reference[1]:.3f}",
                    f"{own[1] / reference[1]:.2f}",
                    f"{own[2]:.0f} / {reference[2]:.0f}",
                )
                print(" | ".join(row), file=sys.stderr, flush=True)
                table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
