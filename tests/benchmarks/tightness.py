"""How much each bound method certifies of one trained network, and what it takes.

    python tests/benchmarks/tightness.py --run runs/mnist METHOD --few 5    a network that `robustnas run` trained
    python tests/benchmarks/tightness.py --folder FOLDER                    a small one, trained here on MNIST
    python tests/benchmarks/tightness.py ... --threat linf:0.1 l2:0.5 --methods crown-ibp crown

Without --run the network is the one of `radius.py` in small; FOLDER is as there.

All methods are run on the first --few test images, so that their figures can be compared; those that need no backward
pass a neuron (ibp, crown-ibp) also on the first --images.  For each threat, written NORM:EPSILON in pixel units:

    margin       mean over the images classified rightly of the least certified margin, in logits
    certified    share of all images that are certified at epsilon, wrong ones counted as not
    radius       mean certified radius of the images classified rightly, by bisection to --tolerance
    seconds      of the clock, an image, of margins and of radii

PGD's row is what the attack leaves: no certified share lies above it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from radius import Data, add_network, asked, right
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustnas import attack, certify
from robustnas.attack.conditions import Conditions
from robustnas.bounds import METHODS
from robustnas.data.images import InMemory
from robustnas.errors import RobustnasError
from robustnas.run.asked import known_method, known_seed
from robustnas.run.directory import RunDirectory
from robustnas.run.evaluated import planned, trained
from robustnas.runtime.precision import full_precision
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.pgd import PGD

CHEAP = ("ibp", "crown-ibp")
STEPS = 40
"""Of PGD, each a tenth of epsilon."""


@frozen(eq=False)
class Subject:
    """What is certified: a network in eval mode and test images, all on one device.

    Args:
        name: for the title.
    """

    name: str
    network: nn.Module
    images: Tensor
    labels: Tensor


def of_run(run: Path, method: str, seed: int | None, count: int, device: torch.device) -> Subject:
    """A network that a run trained, and the first test images of its dataset.

    Raises:
        SystemExit: the run has no such network.
    """
    try:
        arranged = planned(run)
        named = known_seed(run, arranged.seeds_of(known_method(run, method, arranged.methods)), seed)
        network = trained(RunDirectory(run), arranged, method, named)
    except RobustnasError as fault:
        raise SystemExit(str(fault)) from None
    split = arranged.dataset.split("test")
    indices = torch.arange(min(count, len(split.labels)))
    name = f"{run.name}, {method} seed {named}: {arranged.methods[method].search_space}"
    return Subject(name, network.to(device), split.take(indices).to(device), split.labels[indices].to(device))


def trained_here(given: argparse.Namespace, count: int, device: torch.device) -> Subject:
    """The network that the arguments describe, trained briefly."""
    data, net = Data.found(given.folder), asked(given)
    images, labels = data.tests(count)
    return Subject(f"{data.name}: {net}", net.kept(given.keep, data, device), images.to(device), labels.to(device))


@frozen
class Figures:
    """What one method certifies of some images."""

    margin: float
    certified: float
    radius: float
    margin_seconds: float
    radius_seconds: float


def figures(subject: Subject, count: int, threat: ThreatModel, method: str, tolerance: float, batch: int) -> Figures:
    """Of the first `count` images."""
    network, images, labels = subject.network, subject.images[:count], subject.labels[:count]
    rights = right(network, images, labels, batch)
    began = time.perf_counter()
    least = certify.margins(network, images, labels, threat, method, batch).amin(dim=1)
    between = time.perf_counter()
    radii = certify.radius(network, images, labels, threat.norm, method, tolerance, batch)
    ended = time.perf_counter()
    return Figures(
        float(least[rights].mean()),
        float((least > 0).float().mean()),
        float(radii[rights].mean()),
        (between - began) / len(images),
        (ended - between) / len(images),
    )


def attacked(subject: Subject, count: int, threat: ThreatModel, batch: int) -> float:
    """Share of the first `count` images that PGD leaves classified rightly."""
    pgd = PGD(steps=STEPS, step_size=4 * threat.epsilon / STEPS).build(threat)
    images = InMemory(subject.images[:count].cpu(), subject.labels[:count].cpu())
    device = subject.images.device
    conditions = Conditions(label="pgd", batch=batch, device=device)
    outcomes = attack.evaluate(subject.network, images, images.labels, pgd, threat, conditions)
    return float((torch.as_tensor(outcomes.prediction) == images.labels).float().mean())


def threat(text: str) -> ThreatModel:
    """`linf:8/255` as a threat model."""
    norm, _, epsilon = text.partition(":")
    try:
        return ThreatModel(norm, epsilon)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"{text!r}: {fault}; linf:8/255 would do") from None


def main() -> None:
    """Certify by every method and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=2, metavar=("RUN", "METHOD"), help="a run directory and a method of its recipe")
    parser.add_argument("--seed", type=int, help="of the run; default its first")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    default = [threat("linf:0.05"), threat("l2:0.15"), threat("l1:0.2")]
    parser.add_argument("--threat", nargs="+", type=threat, default=default, metavar="NORM:EPSILON")
    parser.add_argument("--images", type=int, default=100, help="for ibp and crown-ibp")
    parser.add_argument("--few", type=int, default=5, help="for all methods")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of radii, relative")
    parser.add_argument("--batch", type=int, default=64, help="images at once")
    add_network(parser, cells=1, channels=4, steps=300)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, most = torch.device(given.device), max(given.images, given.few)
    if given.run:
        subject = of_run(Path(given.run[0]), given.run[1], given.seed, most, device)
    else:
        subject = trained_here(given, most, device)

    cheap = tuple(method for method in given.methods if method in CHEAP)
    parts: list[tuple[int, tuple[str, ...]]] = [(given.few, tuple(given.methods))]
    if given.images > given.few and cheap:
        parts.append((given.images, cheap))
    table = Table(title=f"{subject.name}\n{given.threads} thread(s), {given.batch} at once")
    columns: list[tuple[str, Any]] = [("threat", "left"), ("images", "right"), ("method", "left")]
    columns += [(name, "right") for name in ("margin", "certified", "radius", "s, margins", "s, radii")]
    for title, side in columns:
        table.add_column(title, justify=side)
    with full_precision():
        for count, methods in parts:
            rights = right(subject.network, subject.images[:count], subject.labels[:count], given.batch)
            table.add_row("none", str(count), "clean", "", f"{float(rights.float().mean()):.2f}")
            for given_threat in given.threat:
                named = (str(given_threat), str(count))
                left = attacked(subject, count, given_threat, given.batch)
                table.add_row(*named, f"PGD, {STEPS} steps", "", f"{left:.2f}")
                for method in methods:
                    found = figures(subject, count, given_threat, method, given.tolerance, given.batch)
                    margin = f"{found.margin:.4g}" if math.isfinite(found.margin) else "-inf"
                    table.add_row(
                        *named,
                        method,
                        margin,
                        f"{found.certified:.2f}",
                        f"{found.radius:.3e}",
                        f"{found.margin_seconds:.3f}",
                        f"{found.radius_seconds:.3f}",
                    )
            table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
