"""Attacks: model evaluations and seconds on survivors only, on everything, and of plain foolbox loops.

    python tests/benchmarks/attacks.py                                     digits, 200 test images
    python tests/benchmarks/attacks.py --suite mnist --folder FOLDER       FOLDER holds the files of MNIST
    python tests/benchmarks/attacks.py --suite cifar10 --folder FOLDER     FOLDER holds train/CLASS and test/CLASS

A small convolutional network is first trained for --steps steps on images of one random-start gradient-sign step, so
that attacks neither break all images nor few.  Then

    survivors    every attack from cheap to expensive on what the ones before it left standing; its images leave when
                 they are fooled
    everything   every attack on every image that is right when clean; its images leave when they are fooled
    every time   every image of the test set at full budget in every part, none ever leaves: as many evaluations as
                 `evaluations` of the attack says, not run

Loops of foolbox are its own attacks, called `attack(model, images, labels, epsilons=...)`, of equal steps, step size
and batch, on all images.  Both sides take turns, --rounds times after one that is not counted; figures are medians,
ratios those of medians.  The overhead is what `evaluate` takes beside the attack's own `run`.  AutoAttack is that of
--budget: 1 is the standard one, 0.1 a tenth of its steps and queries.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from attrs import field, frozen
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.attack import Conditions, Outcomes, evaluate, predict
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.network import Counted
from robustnas.attack.radii import at_radii
from robustnas.contracts import Dataset
from robustnas.data.images import InMemory
from robustnas.runtime import seeding
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy
from robustnas_plugins.attacks.autoattack import AutoAttack
from robustnas_plugins.attacks.deepfool import DeepFool
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.pgd import PGD
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.datasets.image_folder import ImageFolder
from robustnas_plugins.datasets.torchvision_sets import MNIST

TARGET = 0.15
"""By how much, at most, the share of evaluations of survivors only may exceed the robust accuracy."""


@frozen
class Suite:
    """Data, and the l_inf radius in pixel units that the network is trained and attacked at."""

    epsilon: float
    dataset: Callable[[str | None], Dataset]


SUITES = {
    "digits": Suite(0.1, lambda folder: Digits()),
    "mnist": Suite(0.2, MNIST),
    "cifar10": Suite(4 / 255, lambda folder: ImageFolder(folder)),  # type: ignore[arg-type]
}


def convolutional(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two convolutions that halve the image, and a linear layer."""
    channels, height, width = shape
    quarter = -(-height // 4) * -(-width // 4)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * quarter, classes),
    )


def trained(
    dataset: Dataset,
    threat: ThreatModel,
    steps: int,
    batch: int = 128,
    make: Callable[[tuple[int, int, int], int], nn.Module] = convolutional,
) -> nn.Module:
    """The network after some steps on images of one step from a random start; in eval mode.

    Args:
        make: is given an image's shape and the number of classes.
    """
    images = dataset.split("train")
    with seeding.seeded(0, "benchmark"):
        network = make(dataset.shape, dataset.classes)
        order = torch.randint(len(images.labels), (steps, batch))
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for indices in order:
            clean, labels = images.take(indices), images.labels[indices]
            start = threat.project(clean + threat.epsilon * (2 * torch.rand_like(clean) - 1), clean).requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(network(start), labels), start)
            shown = threat.project(start.detach() + 1.25 * threat.epsilon * gradient.sign(), clean)
            optimizer.zero_grad()
            F.cross_entropy(network(shown), labels).backward()
            optimizer.step()
    return network.eval()


@frozen(eq=False)
class Bench:
    """What all attacks meet.

    Args:
        clean: (N,) the network's answers.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    clean: Tensor
    threat: ThreatModel
    classes: int
    batch: int

    @property
    def right(self) -> Tensor:
        """(N,) bool."""
        return self.clean == self.labels

    def attacked(self, name: str, attack: Any, among: Tensor | None = None) -> Outcomes:
        """One attack by the harness."""
        return evaluate(
            self.network,
            self.images,
            self.labels,
            attack,
            self.threat,
            Conditions(batch=self.batch, label=name, clean=self.clean),
            among=among,
        )


@frozen(eq=False)
class Cost:
    """Seconds of every round, and model evaluations of one."""

    seconds: list[float] = field(factory=list)
    evaluations: list[int] = field(factory=list)
    fooled: list[int] = field(factory=list)

    def add(self, seconds: float, evaluations: int, fooled: int) -> None:
        self.seconds.append(seconds)
        self.evaluations.append(evaluations)
        self.fooled.append(fooled)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def chosen(epsilon: float, budget: float) -> dict[str, Any]:
    """The attacks of the first table, from cheap to expensive."""
    return {
        "fgsm": FGSM(),
        "mi-fgsm-10": MomentumFGSM(steps=10, step_size=epsilon / 5),
        "pgd-20": PGD(steps=20, step_size=epsilon / 8),
        "pgd-100": PGD(steps=100, step_size=epsilon / 20),
        "apgd-ce": AutoPGDCrossEntropy(),
        "autoattack": AutoAttack(steps=max(round(100 * budget), 1), queries=max(round(5000 * budget), 1)),
    }


def survivors(bench: Bench, attacks: dict[str, Any], rounds: int) -> Table:
    """Survivors only, everything, and every image every time."""
    spared, every = ({name: Cost() for name in attacks} for _ in range(2))
    left = bench.right
    for turn in range(-1, rounds):
        left = bench.right
        for name, factory in attacks.items():
            sides: list[tuple[Cost, Tensor | None]] = [(spared[name], left), (every[name], None)]
            for cost, among in sides if turn % 2 == 0 else reversed(sides):
                began = time.perf_counter()
                record = bench.attacked(name, factory.build(bench.threat), among)
                if turn >= 0:
                    cost.add(time.perf_counter() - began, record.evaluations, int(record.success.sum()))
                if among is not None:
                    left = left & ~record.success
    count = len(bench.labels)
    robust = float(left.double().mean())
    table = Table(
        title=f"evaluations an image of {count}, and seconds; clean {float(bench.right.double().mean()):.1%}, "
        f"robust {robust:.1%}"
    )
    titles = ("attack", "survivors", "everything", "every time", "of everything", "of every time")
    for title in (*titles, "survivors s", "everything s", "ratio"):
        table.add_column(title, justify="left" if title == "attack" else "right")
    rows = {
        name: (spared[name], every[name], float(factory.evaluations(bench.classes)))
        for name, factory in attacks.items()
    }
    for name, row in rows.items():
        _row(table, name, [row], count)
    table.add_section()
    _row(table, "all of these", list(rows.values()), count)
    table.caption = _target(bench, {name: attacks[name] for name in ("pgd-100", "autoattack")}, robust)
    return table


def _row(table: Table, name: str, rows: list[tuple[Cost, Cost, float]], count: int) -> None:
    """One attack, or several together: survivors only, everything, and evaluations at full budget."""
    few = sum(row[0].evaluations[0] for row in rows) / count
    all_ = sum(row[1].evaluations[0] for row in rows) / count
    full = sum(row[2] for row in rows)
    fast, slow = sum(row[0].median for row in rows), sum(row[1].median for row in rows)
    table.add_row(
        name,
        *(f"{few:.1f}", f"{all_:.1f}", f"{full:.0f}", f"{few / all_:.2f}", f"{few / full:.2f}"),
        *(f"{fast:.3f}", f"{slow:.3f}", f"{fast / slow:.2f}"),
    )


def _target(bench: Bench, attacks: dict[str, Any], robust: float) -> str:
    """PGD-100 and AutoAttack alone: the share of evaluations, beside what is aimed at."""
    left, spent, full = bench.right, 0, 0.0
    for name, factory in attacks.items():
        record = bench.attacked(name, factory.build(bench.threat), left)
        left, spent = left & ~record.success, spent + record.evaluations
        full += factory.evaluations(bench.classes)
    count, right = len(bench.labels), int(bench.right.sum())
    share, of_right = spent / (full * count), spent / (full * right)
    standing = float(left.double().mean())
    return (
        f"pgd-100 + autoattack, survivors / every image every time: {share:.3f} (of the images that are right when "
        f"clean: {of_right:.3f}); robust {standing:.3f}, aimed at: at most {standing + TARGET:.3f}"
    )


def foolbox_loops(bench: Bench, rounds: int) -> Table:
    """The harness and plain loops of foolbox with equal steps."""
    epsilon = bench.threat.epsilon
    linf, grid = load_foolbox().attacks, [epsilon * share for share in (0.25, 0.5, 1.0, 2.0)]
    pairs: dict[str, tuple[Any, Any, list[float]]] = {
        "fgsm": (FGSM(), linf.LinfFastGradientAttack(), [epsilon]),
        "mi-fgsm-10": (
            MomentumFGSM(steps=10, step_size=epsilon / 5),
            linf.LinfMomentumIterativeFastGradientMethod(steps=10, abs_stepsize=epsilon / 5),
            [epsilon],
        ),
        "pgd-20": (PGD(20, epsilon / 8), linf.LinfPGD(steps=20, abs_stepsize=epsilon / 8), [epsilon]),
        "pgd-100": (PGD(100, epsilon / 20), linf.LinfPGD(steps=100, abs_stepsize=epsilon / 20), [epsilon]),
        "pgd-20, four radii": (PGD(20, epsilon / 4), linf.LinfPGD(steps=20, abs_stepsize=epsilon / 4), grid),
        "deepfool, four radii": (DeepFool(steps=50), linf.LinfDeepFoolAttack(steps=50), grid),
    }
    table = Table(title="the harness and plain loops of foolbox, equal steps")
    titles = ("attack", "ours", "foolbox", "ratio", "ours s", "foolbox s", "ratio", "robust, ours", "foolbox")
    for title in titles:
        table.add_column(title, justify="left" if title == "attack" else "right")
    count = len(bench.labels)
    for name, (factory, loop, radii) in pairs.items():
        ours, theirs = Cost(), Cost()
        for turn in range(-1, rounds):
            for own in (True, False) if turn % 2 == 0 else (False, True):
                began = time.perf_counter()
                found = _ours(bench, factory, radii) if own else _theirs(bench, loop, radii)
                if turn >= 0:
                    (ours if own else theirs).add(time.perf_counter() - began, *found)
        robust = [
            float(bench.right.double().mean()) - ours.fooled[0] / count,
            1 - theirs.fooled[0] / count,  # what was wrong when clean counts as fooled there
        ]
        table.add_row(
            name,
            f"{ours.evaluations[0] / count:.1f}",
            f"{theirs.evaluations[0] / count:.1f}",
            f"{ours.evaluations[0] / theirs.evaluations[0]:.2f}",
            f"{ours.median:.3f}",
            f"{theirs.median:.3f}",
            f"{ours.median / theirs.median:.2f}",
            *(f"{one:.1%}" for one in robust),
        )
    table.caption = "robust at the largest radius; evaluations an image of the attack itself, judging not counted"
    return table


def _ours(bench: Bench, factory: Any, radii: list[float]) -> tuple[int, int]:
    records = at_radii(
        bench.network,
        InMemory(bench.images, bench.labels),
        bench.labels,
        factory.build,
        [ThreatModel("linf", radius) for radius in radii],
        Conditions(label="ours", batch=bench.batch),
        left=lambda _: torch.ones(len(bench.labels), dtype=torch.bool),
    )
    return sum(record.evaluations for record in records), int(records[-1].success.sum())


def _theirs(bench: Bench, attack: Any, radii: list[float]) -> tuple[int, int]:
    """Batches of the same size, as in foolbox's examples; its own judging is left out of the count."""
    counted = Counted(bench.network)
    model = load_foolbox().PyTorchModel(counted.eval(), bounds=(0, 1), device="cpu")
    fooled, judged = 0, 0
    for images, labels in zip(bench.images.split(bench.batch), bench.labels.split(bench.batch), strict=True):
        _, _, success = attack(model, images, labels, epsilons=radii)
        fooled += int(success[-1].sum())
        judged += len(images) * len(radii)
    return counted.images - judged, fooled


def overhead(bench: Bench, rounds: int) -> Table:
    """What `evaluate` takes beside the attack's own run."""
    epsilon = bench.threat.epsilon
    factories: dict[str, Any] = {
        "fgsm": FGSM(),
        "pgd-20": PGD(20, epsilon / 8),
        "pgd-100": PGD(100, epsilon / 20),
        "apgd-ce": AutoPGDCrossEntropy(),
    }
    table = Table(title=f"the harness beside the attack, {len(bench.labels)} images, {bench.batch} at once")
    for title in ("attack", "attack ms", "harness ms", "share of all"):
        table.add_column(title, justify="left" if title == "attack" else "right")
    for name, factory in factories.items():
        inside, whole = [], []
        for turn in range(-1, rounds):
            attack, spent = factory.build(bench.threat), [0.0]
            run = attack.run

            def timing(*given: Any, run: Any = run, spent: list[float] = spent, **named: Any) -> Any:
                began = time.perf_counter()
                found = run(*given, **named)
                spent[0] += time.perf_counter() - began
                return found

            object.__setattr__(attack, "run", timing)  # a plugin is frozen
            began = time.perf_counter()
            bench.attacked(name, attack)
            if turn >= 0:
                whole.append(time.perf_counter() - began)
                inside.append(spent[0])
        own, total = statistics.median(inside), statistics.median(whole)
        rest = statistics.median(w - i for w, i in zip(whole, inside, strict=True))
        table.add_row(name, f"{1e3 * own:.1f}", f"{1e3 * rest:.1f}", f"{rest / total:.1%}")
    return table


def main() -> None:
    """Train, attack and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, default="digits")
    parser.add_argument("--folder", help="that holds the data")
    parser.add_argument("--images", type=int, default=200, help="test images, from the first")
    parser.add_argument("--epsilon", type=float, help="l_inf radius in pixel units; default the suite's")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--batch", type=int, default=100, help="images attacked at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1.0, help="share of AutoAttack's steps and queries")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    suite = SUITES[given.suite]
    dataset = suite.dataset(given.folder)
    threat = ThreatModel("linf", suite.epsilon if given.epsilon is None else given.epsilon)
    network = trained(dataset, threat, given.steps)
    test = dataset.split("test")
    indices = torch.arange(min(given.images, len(test.labels)))
    images, labels = test.take(indices), test.labels[indices]
    bench = Bench(network, images, labels, predict(network, images), threat, dataset.classes, given.batch)
    console = Console(width=120)
    console.print(f"{given.suite}, {threat}, {given.threads} thread(s), medians of {given.rounds} rounds")
    console.print(survivors(bench, chosen(threat.epsilon, given.budget), given.rounds))
    console.print(foolbox_loops(bench, given.rounds))
    console.print(overhead(bench, 3 * given.rounds))


if __name__ == "__main__":
    main()
