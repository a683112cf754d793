"""AutoAttack beside the reference implementation: which images stand, evaluations and seconds, on four networks.

    python tests/benchmarks/autoattack_reference.py --path CLONE                       all networks, versions and norms
    python tests/benchmarks/autoattack_reference.py --path CLONE --versions standard   without `plus` and `rand`

CLONE is https://github.com/fra31/auto-attack; without --path the module `autoattack` is imported as it is installed.
Networks are trained on digits, on images of one random-start gradient-sign step; both sides are given the same --images
test images that the network is right on, one batch, one thread, and --queries of Square in its reference variant (on
networks with gradients it seldom breaks what the parts before it left, and takes most of the time).  Theirs is
deterministic by its seed, ours by the images; so an image near the border may fall to one of them alone.

    stand         images that no part broke, ours / theirs
    differ        images that stand under one of them alone
    evaluations   forward passes of an image, ours / theirs
    seconds       of the processor, ours / theirs
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from attacks import convolutional, trained  # the benchmark beside this one
from auto_lirpa import Residual
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustnas.attack import predict
from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.autoattack import VERSIONS, AutoAttack
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.search_spaces.darts import Darts

TRAINED = ThreatModel("linf", 0.1)
RADII = {"linf": 0.15, "l2": 0.8, "l1": 2.5}
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def perceptron(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two hidden layers of 64."""
    inputs = shape[0] * shape[1] * shape[2]
    hidden = (nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(64, classes))


def residual(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The residual network that bounds are compared on; its running statistics are of many batches."""
    network = Residual()
    for norm in network.norms:
        norm.momentum = 0.1
    return network


def cells(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two cells of DARTS_V2, 4 channels."""
    space = Darts(network_cells=2, network_channels=4)
    return space.network(space.published["DARTS_V2"], shape, classes, auxiliary=False)


NETWORKS: dict[str, Callable[[tuple[int, int, int], int], nn.Module]] = {
    "CNN": convolutional,
    "perceptron": perceptron,
    "residual": residual,
    "DARTS_V2, 2 cells": cells,
}

Found = tuple[Tensor, float, float]
"""(N,) bool, what stands; evaluations of an image; seconds."""


def measured(network: nn.Module, images: Tensor, labels: Tensor, attack: Callable[[nn.Module], Tensor]) -> Found:
    """What stands when the attack's images are looked at again."""
    counted, began = Counted(network), time.process_time()
    found = attack(counted)
    seconds = time.process_time() - began
    return predict(network, found) == labels, counted.images / len(images), seconds


def ours(images: Tensor, labels: Tensor, threat: ThreatModel, version: str, queries: int) -> Callable[..., Tensor]:
    def attack(network: nn.Module) -> Tensor:
        built = AutoAttack(version, square_variant="reference", queries=queries).build(threat)
        draws = PerImageRandom.of_images(0, "benchmark", torch.arange(len(images)))
        found: Tensor = built.perturbed(network, images, labels, threat, draws)
        return threat.project(found, images)

    return attack


def theirs(
    module: Any, images: Tensor, labels: Tensor, threat: ThreatModel, version: str, queries: int
) -> Callable[..., Tensor]:
    def attack(network: nn.Module) -> Tensor:
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            made = module.AutoAttack(
                network, norm=THEIRS[threat.norm], eps=threat.epsilon, seed=0, verbose=False, version=version,
                device="cpu",
            )  # fmt: skip
            made.square.n_queries = queries
            found: Tensor = made.run_standard_evaluation(images, labels, bs=len(images))
        return threat.project(found, images)

    return attack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", action="append", default=[], help="where the reference implementation is")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--versions", nargs="*", choices=list(VERSIONS), default=list(VERSIONS))
    parser.add_argument("--norms", nargs="*", choices=list(RADII), default=list(RADII))
    arguments = parser.parse_args()
    sys.path[:0] = arguments.path
    try:
        import autoattack as module
    except ModuleNotFoundError:
        parser.error("the reference implementation is not installed; --path CLONE, with a clone of it, would do")

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = Digits()
    test = data.split("test")
    table = Table(title=f"AutoAttack on {arguments.images} digits, ours / theirs")
    for title in ("network", "version", "threat", "stand", "differ", "evaluations", "seconds", "ratio"):
        table.add_column(title)
    for name in arguments.networks:
        network = trained(data, TRAINED, arguments.steps, make=NETWORKS[name]).requires_grad_(False)
        shown = test.take(torch.arange(len(test.labels)))
        right = (predict(network, shown) == test.labels).nonzero().squeeze(1)[: arguments.images]
        images, labels = shown[right], test.labels[right]
        for version in arguments.versions:
            for norm in arguments.norms:
                given = images, labels, ThreatModel(norm, RADII[norm]), version, arguments.queries
                a = measured(network, images, labels, ours(*given))
                b = measured(network, images, labels, theirs(module, *given))
                row = (
                    *(name, version, f"{norm} {RADII[norm]}", f"{int(a[0].sum())} / {int(b[0].sum())}"),
                    *(str(int((a[0] != b[0]).sum())), f"{a[1]:,.0f} / {b[1]:,.0f}"),
                    *(f"{a[2]:.1f} / {b[2]:.1f}", f"{a[2] / b[2]:.2f}"),
                )
                table.add_row(*row)
                print(" | ".join(row), flush=True)  # it takes minutes: each row as it comes
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
