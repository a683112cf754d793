"""A small network on the shipped digits, trained in a second, and recipes that evaluate it: tests of the harness."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.attack.outcomes import FILE
from robustnas.cli import main
from robustnas.runtime.seeding import seeded
from robustnas_plugins.datasets.digits import Digits

SOURCE = """\
import torch
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


class Likely(nn.Softmax):
    def forward(self, logits):
        return super().forward(logits).sinh().asinh()  # the same, by functions that have no bound


def likely():
    return nn.Sequential(*make(), Likely(dim=1))
"""
"""A module of networks made elsewhere: `make` returns logits, `likely` probabilities."""


def built() -> nn.Sequential:
    """The network before training."""
    space: dict[str, Any] = {}
    exec(SOURCE, space)
    with seeded(0, "evaluated digits"):
        network: nn.Sequential = space["make"]()
    return network


@cache
def weights() -> dict[str, Tensor]:
    """Those of the trained network: about nine of ten test images are right."""
    network, train = built(), Digits().split("train")
    images = train.take(torch.arange(len(train.labels)))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network(images), train.labels).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def trained() -> nn.Sequential:
    """A network of its own, trained, in eval mode."""
    network = built()
    network.load_state_dict(weights())
    return network.eval()


def some(count: int) -> tuple[Tensor, Tensor]:
    """The first test images and their labels."""
    test = Digits().split("test")
    return test.take(torch.arange(count)), test.labels[:count]


RECIPE = """\
dataset: digits
threat: {norm: linf, epsilon: 0.06}
methods:
  net: {network: "evaluated_nets:make", weights: weights.pt}
"""


def prepare(folder: Path, text: str) -> None:
    """Write the module of networks, the weights and a recipe into a folder, which is to be the working directory."""
    (folder / "evaluated_nets.py").write_text(SOURCE)
    torch.save(weights(), folder / "weights.pt")
    (folder / "r.yaml").write_text(RECIPE + text)


def run(folder: Path, *overrides: str, out: str = "run") -> int:
    """`robustnas run`, quiet; the exit status."""
    sets = [word for override in overrides for word in ("--set", override)]
    return main(["run", str(folder / "r.yaml"), "--out", str(folder / out), "--device", "cpu", "--quiet", *sets])


def stage(folder: Path, label: str, method: str = "net") -> Path:
    """The folder of one attack of a run directory."""
    (found,) = folder.glob(f"attack/{method}-seed0-{label}-*")
    return found


def columns(folder: Path, label: str, method: str = "net") -> dict[str, Any]:
    """What one attack of a run directory did, as NumPy reads it."""
    with np.load(stage(folder, label, method) / FILE, allow_pickle=False) as arrays:
        return dict(arrays)


def table(folder: Path) -> dict[str, Any]:
    """The table of a run directory, its only row."""
    (row,) = json.loads((folder / "table.json").read_text())["rows"]
    found: dict[str, Any] = row
    return found
