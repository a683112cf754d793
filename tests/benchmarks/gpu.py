"""Everything that the documents say of a GPU, measured in one run of under ten minutes: the tables of docs/gpu.md.

    python tests/benchmarks/gpu.py                         on the first CUDA device
    python tests/benchmarks/gpu.py --quick --device cpu    the same at a small size: does it go through?
    python tests/benchmarks/gpu.py --only steps plain      some of the topics

    agreement      the hypergradient on the device and on the CPU, and what attacks and certificates say there
    plain          our plain step and that of the textbook's supernet; the share of what the device can do
    steps          seconds and memory of a search step of every method, and the 50 epochs that this implies
    memory         what a step takes beside the estimate of `robustnas plan --memory`
    training       images a second of training a network of 20 cells
    evaluation     images a second of attacks and certificates
    compile        a compiled step, and how long compiling takes

The step is that of CIFAR-10 at the paper's size: 8 cells and 16 channels, once in the space of DARTS with 64 images of
either half, once in that of PC-DARTS with 256, as in recipes/cifar10.yaml.
What the parts of the speed layer gain of it is told by `python tests/benchmarks/fast.py --device cuda`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from plain_step import textbook_stepper
from rich.console import Console
from rich.table import Table
from roofline import Machine, counted
from search_step import PLAIN, methods
from stepping import SIZES, Size, prepared, stepper
from torch import Tensor, nn

from robustnas import certify, train
from robustnas.attack import Conditions, evaluate
from robustnas.data.images import InMemory
from robustnas.nn.normalize import PixelNetwork
from robustnas.registry import REGIMES
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.precision import Precision, full_precision, policy
from robustnas.runtime.report import silent
from robustnas.search import SearchTask
from robustnas.search.footprint import step_bytes
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas.train.settings import Train
from robustnas_plugins.attacks.autoattack import AutoAttack
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.attacks.pgd import PGD
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.pc_darts import PcDarts

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")

EPOCHS, HALF = 50, 25_000
"""Of the search on CIFAR-10: epochs, and images of either half."""

TARGETS = {"dsrna-jacobian, one row": 20, "dsrna-cb, crown-ibp": 45}
"""Minutes that the search of a method is to take."""

OUT_OF_REACH = 1e-7
"""A radius at which no attack succeeds, so that every image is attacked to the end."""


@frozen
class Setting:
    """What is measured where.

    Args:
        sizes: of the search steps.
        network: discrete, of which space: cells, channels.
        rounds: timed repetitions.
        images: attacked and certified.
    """

    device: torch.device
    sizes: dict[str, Size]
    space: Darts
    shape: tuple[int, int, int]
    train_batch: int
    rounds: int
    images: int


def full(device: torch.device) -> Setting:
    """The paper's size."""
    sizes = {
        "darts, 64 + 64": evolve(SIZES["cifar10"], batch=64),
        "pc-darts, 256 + 256": Size(PcDarts(cells=8, channels=16, partial=4), (3, 32, 32), 256, 1e-6),
    }
    space = Darts(network_cells=20, network_channels=36)
    return Setting(device, sizes, space, (3, 32, 32), 128, 7, 256)


def quick(device: torch.device) -> Setting:
    """Small enough for a CPU."""
    sizes = {
        "darts, 4 + 4": Size(Darts(cells=4, channels=4), (1, 8, 8), 4, 1e-5),
        "pc-darts, 4 + 4": Size(PcDarts(cells=2, channels=4, partial=2), (1, 8, 8), 4, 1e-5),
    }
    return Setting(device, sizes, Darts(network_cells=2, network_channels=4), (1, 8, 8), 8, 1, 4)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(compute: Callable[[], Any], device: torch.device, rounds: int, warm: int = 2) -> float:
    """The median of several rounds."""
    times = []
    for number in range(warm + rounds):
        wait(device)
        began = time.perf_counter()
        compute()
        wait(device)
        if number >= warm:
            times.append(time.perf_counter() - began)
    return statistics.median(times) if times else 0.0


@contextmanager
def alone(device: torch.device) -> Iterator[None]:
    """What was held before is let go, and the peak of memory is that of what is inside."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield


def gigabytes(device: torch.device) -> str:
    return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}" if device.type == "cuda" else ""


def tried(compute: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What is computed, or the first words of what went wrong: one row must not cost the others."""
    try:
        return compute(*given, **options)
    except torch.OutOfMemoryError:
        return "out of memory"
    except Exception as fault:
        return f"{type(fault).__name__}: {str(fault)[:60]}"


def step_seconds(
    setting: Setting, size: Size, method: tuple[Any, Any], precision: Precision = "float32", **options: Any
) -> float:
    """Of a fresh search's step; `options` are those of `stepping.prepared`."""
    order, metrics = method
    once = stepper(size, None, order, metrics, setting.device, precision, **options)
    return seconds(once, setting.device, setting.rounds)


def columns(title: str, *names: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption)
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left")
    return table


def number(value: Any, form: str) -> str:
    return value if isinstance(value, str) else format(value, form)


def agreement(setting: Setting) -> Iterator[Table]:
    """The hypergradient of every method on the device beside the CPU's, in every precision; evaluation beside it."""
    table = columns(
        "the hypergradient's distance from the CPU's in float32, as a share of its norm", "method", *PRECISIONS
    )
    size = SIZES["quickstart"] if setting.device.type == "cpu" else SIZES["digits"]

    def gradient(order: Any, metrics: Any, device: torch.device, precision: Precision) -> Tensor:
        step, _ = prepared(size, 16, metrics, device, precision, draws="cpu")
        with seeding.seeded(0, "rows"), policy(precision):
            found = order.gradient(step).gradients
        return torch.cat([tensor.detach().cpu().double().flatten() for tensor in found])

    def distance(order: Any, metrics: Any, precision: Precision, expected: Tensor) -> float:
        found = gradient(order, metrics, setting.device, precision)
        return float((found - expected).norm() / expected.norm())

    for name, (order, metrics) in methods(size).items():
        expected = gradient(order, metrics, torch.device("cpu"), "float32")
        row = [tried(distance, order, metrics, precision, expected) for precision in PRECISIONS]
        table.add_row(name, *(number(one, ".1e") for one in row))
    yield table

    table = columns("one network on the device and on the CPU", "what", "images", "same answer", "largest difference")
    network = discrete(evolve(setting, space=Darts(network_cells=6, network_channels=8)), torch.device("cpu"))
    images = drawn(setting, min(setting.images, 64))
    labels = answers(network, images)
    there, away = copy.deepcopy(network).to(setting.device), images.to(setting.device)

    def both(
        what: str, compute: Callable[[nn.Module, Tensor, Tensor], Tensor], close: Callable[[Tensor], Tensor]
    ) -> None:
        first = compute(network, images, labels).cpu().double()
        second = compute(there, away, labels.to(setting.device)).cpu().double()
        same = float((close(first) == close(second)).double().mean())
        table.add_row(what, str(len(images)), f"{same:.1%}", f"{float((first - second).abs().max()):.1e}")

    def logits(model: nn.Module, some: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad(), full_precision():
            return model(some)

    both("logits", logits, lambda found: found.argmax(1))
    for name, factory in {"pgd-20": PGD(20, 1e-3), "autoattack, a tenth": AutoAttack(steps=10, queries=500)}.items():
        threat = ThreatModel("linf", 4e-3)

        def fooled(
            model: nn.Module, some: Tensor, truth: Tensor, factory: Any = factory, threat: Any = threat
        ) -> Tensor:
            attack = factory.build(threat)
            return evaluate(model, some.cpu(), truth.cpu(), attack, threat, Conditions(label="a")).success

        both(name, fooled, lambda found: found)
    for method in ("crown-ibp", "alpha-crown"):
        threat = ThreatModel("linf", 1e-6)
        both(
            f"margins at 1e-6, {method}",
            lambda model, some, truth, method=method, threat=threat: certify.margins(
                model, some, truth, threat, method
            ),
            lambda found: found.amin(1) > 0,
        )
    yield table


def discrete(setting: Setting, device: torch.device) -> PixelNetwork:
    """An untrained network of the space, in eval mode, its batch norms as one batch of images leaves them."""
    space, channels = setting.space, setting.shape[0]
    with seeding.seeded(0, "network"):
        inner = space.network(space.published["DARTS_V2"], setting.shape, 10)
        images = torch.rand(64, *setting.shape)
    network = PixelNetwork(inner, (0.5,) * channels, (0.25,) * channels)
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network(images.to(device))
    return network.eval()


def drawn(setting: Setting, count: int) -> Tensor:
    return torch.rand(count, *setting.shape, generator=torch.Generator().manual_seed(1))


def answers(network: nn.Module, images: Tensor) -> Tensor:
    device = next(network.parameters()).device
    with torch.no_grad(), full_precision():
        return torch.cat([network(some.to(device)).argmax(1).cpu() for some in images.split(256)])


def plain(setting: Setting) -> Iterator[Table]:
    """Our plain step beside the textbook's, and how much of the device either uses."""
    device = setting.device
    size = next(iter(setting.sizes.values()))
    machines = {}
    for precision in ("float32", "tf32"):
        with policy(precision):
            machines[precision] = Machine.measured(device)
    peaks = (f"{name} {m.operations / 1e12:.1f} TFLOP/s, {m.bytes / 1e9:.0f} GB/s" for name, m in machines.items())
    table = columns(
        f"plain first-order step, {next(iter(setting.sizes))}",
        "step", "precision", "seconds", "x textbook", "GFLOP", "GB", "calls", "share of peak",
        caption="measured peaks: " + "; ".join(peaks),
    )  # fmt: skip
    for precision, machine in machines.items():
        steps = {
            "textbook": textbook_stepper(size, size.batch, device),
            "ours": stepper(size, device=device, precision=precision),
        }
        with policy(precision):
            times = {name: seconds(once, device, setting.rounds) for name, once in steps.items()}
            for name, once in steps.items():
                work = tried(counted, once)
                said = ["", "", "", work]
                if not isinstance(work, str):
                    share = machine.least_seconds(work) / times[name]
                    said = [f"{work.operations / 1e9:.1f}", f"{work.bytes / 1e9:.2f}", str(work.calls), f"{share:.0%}"]
                table.add_row(name, precision, f"{times[name]:.4f}", f"{times[name] / times['textbook']:.2f}", *said)
    yield table


def minutes(size: Size, step: float) -> float:
    """Of a search of CIFAR-10."""
    return EPOCHS * -(-HALF // size.batch) * step / 60


def steps(setting: Setting) -> Iterator[Table]:
    """Every method in every precision."""
    for name, size in setting.sizes.items():
        table = columns(
            f"one search step, {name}: seconds, and memory in float32",
            "method", *PRECISIONS, "x plain", "peak GB", f"{EPOCHS} epochs, minutes", "target",
            caption="x plain, memory: float32.  Minutes: in float32 and at best.",
        )  # fmt: skip
        base: Any = None
        for method, chosen in methods(size).items():
            found: dict[str, Any] = {}
            held = ""
            for precision in PRECISIONS:
                with alone(setting.device):
                    found[precision] = tried(step_seconds, setting, size, chosen, precision)
                    held = held or gigabytes(setting.device)
            exact = found["float32"]
            base = exact if method == PLAIN else base
            multiple, took = "", ""
            if not isinstance(exact, str):
                multiple = "" if isinstance(base, str) else f"{exact / base:.2f}"
                best = min(one for one in found.values() if not isinstance(one, str))
                took = f"{minutes(size, exact):.0f} / {minutes(size, best):.0f}"
            target = f"< {TARGETS[method]}" if method in TARGETS else ""
            table.add_row(method, *(number(one, ".4f") for one in found.values()), multiple, held, took, target)
        yield table


def memory(setting: Setting) -> Iterator[Table]:
    """What a step takes, and what was foreseen."""
    table = columns("memory of a step, float32, GB", "method", "size", "measured", "estimate", "ratio")
    for name, size in setting.sizes.items():
        for method in (PLAIN, "darts, unrolled", *TARGETS):
            order, metrics = methods(size)[method]
            with alone(setting.device):
                tried(step_seconds, evolve(setting, rounds=0), size, (order, metrics))
                measured = gigabytes(setting.device)
            data, wanted = Drawn(setting.shape, 2 * size.batch), Search(batch=size.batch, order=order)
            task = SearchTask(data, size.space, metrics, ThreatModel("linf", "8/255"), wanted, 0)
            foreseen = tried(step_bytes, task)
            ratio = f"{foreseen / 1e9 / float(measured):.2f}" if measured and not isinstance(foreseen, str) else ""
            said = foreseen if isinstance(foreseen, str) else f"{foreseen / 1e9:.1f}"
            table.add_row(method, name, measured, said, ratio)
    yield table


@frozen
class Drawn:
    """Random images as a dataset."""

    shape: tuple[int, int, int]
    count: int
    classes = 10

    @property
    def mean(self) -> tuple[float, ...]:
        return (0.5,) * self.shape[0]

    @property
    def std(self) -> tuple[float, ...]:
        return (0.25,) * self.shape[0]

    def split(self, name: str) -> InMemory:
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (self.count, *self.shape), dtype=torch.uint8, generator=draw)
        return InMemory(pixels, torch.arange(self.count) % 10)


def training(setting: Setting) -> Iterator[Table]:
    """Images a second of the second epoch of a training, as its record says."""
    cells, channels = setting.space.network_cells, setting.space.network_channels
    table = columns(
        f"training, {cells} cells, {channels} channels, batch {setting.train_batch}: images a second",
        "regime", *PRECISIONS, "peak GB",
    )  # fmt: skip
    regimes = {
        "standard": REGIMES.load("standard")(),
        "adversarial, 7 steps": REGIMES.load("adversarial")(),
        "trades, 10 steps": REGIMES.load("trades")(),
        "certified, ibp": REGIMES.load("certified")(epsilon=1e-9, warmup_epochs=0.0, ramp_epochs=0.0, beta_start=0.0),
        "certified, crown-ibp": REGIMES.load("certified")(
            epsilon=1e-9, warmup_epochs=0.0, ramp_epochs=0.0, beta_start=1.0, beta_end=1.0
        ),
    }
    data = Drawn(setting.shape, 12 * setting.train_batch)

    def rate(regime: Any, precision: Precision) -> float:
        wanted = Train(
            epochs=2, batch=setting.train_batch, regime=regime, precision=precision, crop=4, flip=True, lr=1e-6,
            auxiliary=0.4 if setting.shape[1] >= 32 else 0.0,
        )  # fmt: skip
        task = train.TrainTask(
            data, setting.space, setting.space.published["DARTS_V2"], ThreatModel("linf", "8/255"), wanted, 0
        )
        with tempfile.TemporaryDirectory() as folder:
            train.run(task, StageFolder(Path(folder)), setting.device, silent)
            first, second = (float(record["total_seconds"]) for record in StageFolder(Path(folder)).history())
        return data.count / (second - first)

    for name, regime in regimes.items():
        row, held = [], ""
        for precision in PRECISIONS:
            with alone(setting.device):
                row.append(tried(rate, regime, precision))
                held = held or gigabytes(setting.device)
        table.add_row(name, *(number(one, ".0f") for one in row), held)
    yield table


def evaluation(setting: Setting) -> Iterator[Table]:
    """Images a second of attacks and certificates on a network of 20 cells, float32 proper."""
    device, count = setting.device, setting.images
    cells, channels = setting.space.network_cells, setting.space.network_channels
    table = columns(
        f"evaluation, {cells} cells, {channels} channels",
        "what", "images", "seconds", "images/s", "passes/s", "peak GB",
        caption="attacks at a radius at which none succeeds: every image to the end",
    )  # fmt: skip
    network, images = discrete(setting, device), drawn(setting, count)
    labels, threat = answers(network, images), ThreatModel("linf", OUT_OF_REACH)

    def attacked(factory: Any, warm: int) -> tuple[float, int]:
        spent: list[int] = []

        def once() -> None:
            attack = factory.build(threat)
            found = evaluate(network, images, labels, attack, threat, Conditions(batch=256, label="a"))
            spent.append(found.evaluations)

        return seconds(once, device, 1, warm), spent[-1]

    def certified(method: str, few: int, warm: int) -> float:
        some, truth = images[:few].to(device), labels[:few].to(device)
        return seconds(lambda: certify.margins(network, some, truth, threat, method), device, 1, warm)

    attacks = {
        "fgsm": (FGSM(), 1),
        "pgd-20": (PGD(20, OUT_OF_REACH / 8), 1),
        "autoattack, a tenth": (AutoAttack(steps=10, queries=500), 0),
    }
    for name, (factory, warm) in attacks.items():
        with alone(device):
            found = tried(attacked, factory, warm)
            row = [found, "", ""] if isinstance(found, str) else [
                f"{found[0]:.2f}", f"{count / found[0]:.1f}", f"{found[1] / found[0]:.0f}"
            ]  # fmt: skip
            table.add_row(name, str(count), *row, gigabytes(device))
    for method, few in {"ibp": count, "crown-ibp": max(count // 4, 1), "crown": 2, "alpha-crown": 2}.items():
        with alone(device):
            took = tried(certified, method, few, int(few > 2))
            rate = "" if isinstance(took, str) else f"{few / took:.2f}"
            table.add_row(f"margins, {method}", str(few), number(took, ".2f"), rate, "", gigabytes(device))
    yield table


def compiling(setting: Setting) -> Iterator[Table]:
    """A compiled step: what it takes, and what compiling takes."""
    name, size = next(iter(setting.sizes.items()))
    table = columns(f"compiled plain passes, {name}", "precision", "plain s", "compiled s", "compiling s", "peak GB")
    precisions: tuple[Precision, ...] = ("tf32", "bfloat16")
    for precision in precisions:
        with alone(setting.device):
            usual = seconds(stepper(size, device=setting.device, precision=precision), setting.device, setting.rounds)
        with alone(setting.device):
            step = stepper(size, device=setting.device, precision=precision, compiled=True)
            began = time.perf_counter()
            tried(seconds, step, setting.device, 0, 3)
            spent = time.perf_counter() - began
            took = tried(seconds, step, setting.device, setting.rounds)
            table.add_row(
                precision, f"{usual:.4f}", number(took, ".4f"), f"{spent:.0f}", gigabytes(setting.device)
            )  # fmt: skip
    yield table


TOPICS: dict[str, Callable[[Setting], Iterator[Table]]] = {
    "plain": plain,
    "steps": steps,
    "agreement": agreement,
    "evaluation": evaluation,
    "training": training,
    "memory": memory,
    "compile": compiling,
}


def main() -> None:
    """Measure and print one table a topic, each as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--quick", action="store_true", help="a small size, one round")
    parser.add_argument("--only", nargs="+", choices=TOPICS, default=list(TOPICS))
    given = parser.parse_args()
    device = torch.device(given.device)
    setting = quick(device) if given.quick else full(device)
    console = Console(width=150)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    console.print(f"{name}, torch {torch.__version__}, {setting.rounds} rounds, medians")
    for topic in given.only:
        began = time.perf_counter()
        for table in TOPICS[topic](setting):
            console.print(table)
        console.print(f"{topic}: {time.perf_counter() - began:.0f} s\n")


if __name__ == "__main__":
    main()
