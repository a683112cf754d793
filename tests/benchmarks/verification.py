"""How many images complete verification decides that bounds leave open, and what it takes.

    python tests/benchmarks/verification.py                      100 digits, two networks, 30 seconds an image
    python tests/benchmarks/verification.py --seconds 5 --images 50

Both networks are trained here on the digits that ship with the package, by PGD at half the radius they are verified at:
a convolutional one of four layers at l_inf 0.07, and a residual one with batch norm at 0.03.  All methods see the same
images:

    proved     no admissible image is classified otherwise
    refuted    one is, and is known: wrong when clean, found by PGD of 40 steps, or by branch and bound
    open       neither
    seconds    of the clock, of all images; branch and bound includes what it takes to prepare
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustnas import certify
from robustnas.attack.pgd import pgd
from robustnas.bounds import Branching
from robustnas.threat import ThreatModel
from robustnas_plugins.datasets.digits import Digits

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")


def convolutional() -> nn.Sequential:
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


class Block(nn.Module):
    """Two convolutions with batch norm beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norms[0](self.first(x)))
        return F.relu(x + self.norms[1](self.second(inner)))


def residual() -> nn.Sequential:
    stem = (nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, Block(8), Block(8), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))


def trained(network: nn.Module, epsilon: float, epochs: int) -> nn.Module:
    """Train on PGD images of 5 steps; half of the radius, because at all of it these networks learn little."""
    split = Digits().split("train")
    images, labels = split.take(torch.arange(len(split.labels))), split.labels
    threat, draws = ThreatModel("linf", epsilon / 2), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for some in torch.randperm(len(labels), generator=draws).split(64):
            x, y = images[some], labels[some]
            worse = pgd(network, x, lambda z, y=y: F.cross_entropy(z, y), threat, steps=5, generator=draws)  # type: ignore[misc]
            optimizer.zero_grad()
            F.cross_entropy(network.train()(worse), y).backward()
            optimizer.step()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="budget of an image")
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    split = Digits().split("test")
    chosen = torch.arange(min(given.images, len(split.labels)))
    images, labels = split.take(chosen), split.labels[chosen]
    table = Table("network", "method", "proved", "refuted", "open", "seconds", title=f"{len(chosen)} digits")
    for name, build, epsilon in (("convolutional", convolutional, 0.07), ("residual", residual, 0.03)):
        torch.manual_seed(0)
        network, threat = trained(build(), epsilon, given.epochs), ThreatModel("linf", epsilon)
        for method in METHODS:
            began = time.perf_counter()
            proved = (certify.margins(network, images, labels, threat, method) > 0).all(dim=1)
            took = time.perf_counter() - began
            table.add_row(name, method, f"{int(proved.sum())}", "", "", f"{took:.1f}")
        began = time.perf_counter()
        found = certify.verify(network, images, labels, threat, Branching(seconds=given.seconds))
        took, left = time.perf_counter() - began, ~(found.certified | found.refuted)
        figures = (int(flags.sum()) for flags in (found.certified, found.refuted, left))
        table.add_row(name, f"bab, {given.seconds:g} s", *(str(figure) for figure in figures), f"{took:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
