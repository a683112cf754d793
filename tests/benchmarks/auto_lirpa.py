"""Our bounds beside auto_LiRPA's: the same networks, images and radii, one thread, in one process, in turn.

    python tests/benchmarks/auto_lirpa.py --path CLONE                    all networks, norms and methods
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
without which none of them moves.  They take as many iterations as our ascent takes steps.  Cell networks are given one
image, because their patches mode mixes several there, and are traced without our speed layer, whose functions theirs
does not know.  What theirs refuses is a row of its own.
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
from attrs import field, frozen
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import bounds  # the benchmark beside this one
from robustnas.bounds import margins
from robustnas.nn.fast import plain
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


Radii = dict[str, float]


@frozen
class Case:
    """A network and the radii it is bounded at.

    Args:
        make: the network in eval mode, images and the labels it gives them.
        fixed: radii by norm of the methods that do not optimise.
        optimised: those of `alpha-crown`; none where it would take minutes.
        intervals: norms in which the interval-started methods are compared too.
    """

    make: Callable[[], tuple[nn.Module, Tensor, Tensor]]
    fixed: Radii
    optimised: Radii = field(factory=dict)
    intervals: tuple[str, ...] = ("linf",)

    def radii(self, method: str) -> Radii:
        if method == "alpha-crown":
            return self.optimised
        return self.fixed if method == "crown" else {norm: self.fixed[norm] for norm in self.intervals}


def cells(network: str, count: int, genotype: str = "DARTS_V2") -> Callable[[], tuple[nn.Module, Tensor, Tensor]]:
    """A network of cells of 4 channels, for one image of 8x8."""

    def make() -> tuple[nn.Module, Tensor, Tensor]:
        case = bounds.Case(network, "8x8x1", count, 4, 1, genotype=genotype)
        built, images, labels, _ = case.build(torch.device("cpu"))
        return built.requires_grad_(False), images.contiguous(), labels

    return make


CASES = {
    "MNIST CNN": Case(
        lambda: made(convolutional, 28, 8), {"linf": 0.03, "l2": 0.3, "l1": 0.5}, {"linf": 0.03, "l2": 0.3, "l1": 0.5}
    ),
    "residual": Case(
        lambda: made(Residual, 8, 4), {"linf": 0.02, "l2": 0.2, "l1": 0.5}, {"linf": 0.01, "l2": 0.05, "l1": 0.1}
    ),
    "S4 cell, 2 cells": Case(cells("discrete", 2, "SDARTS_ADV_S4_SVHN"), {"linf": 0.0003}),
    "S4 cell, 6 cells": Case(cells("discrete", 6, "SDARTS_ADV_S4_SVHN"), {"linf": 0.00003}),
    "DARTS_V2, 2 cells": Case(cells("discrete", 2), {"linf": 0.003}),
    "DARTS_V2, 6 cells": Case(cells("discrete", 6), {"linf": 0.0001}),
    "supernet, 4 cells": Case(cells("supernet", 4), {"linf": 0.0001}),
}


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
    parser.add_argument("--repeats", type=int, default=3, help="of a method; alpha-crown is computed once")
    parser.add_argument("--share", type=float, default=0.01, help="of a margin's size: less is no difference")
    parser.add_argument("--networks", nargs="*", default=[*CASES], choices=CASES)
    parser.add_argument("--methods", nargs="*", default=[*THEIRS], choices=THEIRS)
    given = parser.parse_args()
    sys.path[:0] = given.path[:1]
    sys.path += given.path[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    moving_slopes()
    columns = ("network", "threat", "method", "margin", "tighter, equal, looser", "least share", "certified", "seconds")
    table = Table(*columns, "ratio", "MB", title="ours / theirs")
    for name, case in CASES.items():
        if name not in given.networks:
            continue
        network, images, labels = case.make()
        for method in given.methods:
            for norm, epsilon in case.radii(method).items():
                threat = ThreatModel(norm, epsilon)
                # one by one, as alpha-crown takes minutes of theirs
                row = (name, f"{norm} {epsilon:g}", method, *compared(network, images, labels, threat, method, given))
                print(" | ".join(row), file=sys.stderr, flush=True)
                table.add_row(*row)
    Console(width=160).print(table)


def compared(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str,
    given: argparse.Namespace,
) -> tuple[str, ...]:
    """The cells of one row, from the margins on."""
    repeats = 1 if method == "alpha-crown" else given.repeats
    with torch.no_grad():
        own = measured(lambda: margins(network, images, labels, threat, method), repeats)
    mean = float(own[0].amin(dim=1).mean())
    try:
        with plain():
            other = theirs(network, images, labels, threat, method)
        reference = measured(other, repeats)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        refusal = f"{type(error).__name__}: {str(error)[:60].partition(chr(10))[0]}"
        certified = str(int((own[0] > 0).all(dim=1).sum()))
        return f"{mean:.4f} / refused", refusal, "", certified, f"{own[1]:.3f}", "", f"{own[2]:.0f}"
    least = [each[0].amin(dim=1) for each in (own, reference)]
    share = (least[0] - least[1]) / least[1].abs()
    counts = (share > given.share, share.abs() <= given.share, share < -given.share)
    return (
        " / ".join(f"{float(each.mean()):.4f}" for each in least),
        ", ".join(str(int(each.sum())) for each in counts),
        f"{float(share.min()):+.2%}",
        " / ".join(str(int((each > 0).sum())) for each in least),
        f"{own[1]:.3f} / {reference[1]:.3f}",
        f"{own[1] / reference[1]:.2f}",
        f"{own[2]:.0f} / {reference[2]:.0f}",
    )


if __name__ == "__main__":
    main()
