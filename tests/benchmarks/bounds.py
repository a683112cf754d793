"""Cost of the bounds in time and memory, as multiples of plain passes of the same network, beside their tightness.

    python tests/benchmarks/bounds.py                                   supernet 8x8, 4 cells, 16 channels, batch 16
    python tests/benchmarks/bounds.py --network discrete --image 32x32x3 --cells 20 --channels 36 --batch 1 4
    python tests/benchmarks/bounds.py --suite small                     a fixed list; also cpu, paper
    python tests/benchmarks/bounds.py --suite paper --device cuda

`value` is the bound without gradients over the plain forward pass, `gradient` the bound with its gradient over the
plain forward and backward pass with the gradients of the same parameters: alpha alone for a supernet, as in the outer
level of a search; all weights for a discrete network.  Both sides run in eval mode on the statistics of one batch of
random images, whose labels are what the network says, with channels last, as the search and the training do.

All runs in turn, round by round; a ratio is the median over rounds of the ratio of one round, so a machine that is
busy for a while slows both sides of it.  With one thread on the CPU the time is that of the processor, which other
programs disturb less than the clock on the wall.  The device is waited for before the clock is read.

`MB` is the most that is held at once beside network and images: on CUDA as torch's allocator counts it, work space
included; elsewhere the bytes of all tensors alive (`robustnas.runtime.tally.Tally`), work space not included.

`margin` is the mean bound of the margin, in logits, and `width` the mean over images of the decimal logarithm of how
far it lies below the clean margin; the weights are random, so these compare methods, not networks.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import evolve, frozen
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from robustnas.bounds import METHODS, log_widths, margins
from robustnas.bounds.inputs import TARGETS
from robustnas.nn.normalize import PixelNetwork, PixelSupernet
from robustnas.runtime import seeding
from robustnas.runtime.precision import full_precision
from robustnas.runtime.tally import Tally
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.search_spaces.darts import Darts

CHEAP = ("ibp", "crown-ibp")
IMAGES = {"8x8x1": (1, 8, 8), "28x28x1": (1, 28, 28), "32x32x3": (3, 32, 32)}
CALIBRATION = 16
"""Images whose statistics the batch norms take: one image alone has too few pixels in the last cells."""

Work = dict[tuple[str, str], Callable[[], object]]
"""By method (or `plain`) and pass (`value` or `gradient`)."""


@frozen
class Case:
    """A network and a batch.

    Args:
        network: `supernet` or `discrete`.
        image: a key of IMAGES.
        cells, channels: of the network.
        batch: images in a pass.
        methods: whose bounds are computed.
        genotype: of a discrete network, a published cell.
    """

    network: str
    image: str
    cells: int
    channels: int
    batch: int
    methods: tuple[str, ...] = CHEAP
    genotype: str = "DARTS_V2"

    def build(self, device: torch.device) -> tuple[nn.Module, Tensor, Tensor, list[nn.Parameter]]:
        """The network in eval mode, images, the labels it gives them, and the parameters to differentiate in."""
        shape = IMAGES[self.image]
        mean, deviation = (0.5,) * shape[0], (0.25,) * shape[0]
        built: PixelNetwork | PixelSupernet
        with seeding.seeded(0, "benchmark"):
            if self.network == "supernet":
                space = Darts(cells=self.cells, channels=self.channels)
                built = PixelSupernet(space.supernet(shape, 10), mean, deviation)
                wanted = list(built.alpha.values())
            else:
                space = Darts(network_cells=self.cells, network_channels=self.channels)
                built = PixelNetwork(space.network(space.published[self.genotype], shape, 10), mean, deviation)
                wanted = list(built.parameters())
            images = torch.rand(max(self.batch, CALIBRATION), *shape)
        built.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        for layer in built.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = 1.0  # one pass sets the statistics
        with torch.no_grad():
            built.train()(images)
            images = images[: self.batch].contiguous(memory_format=torch.channels_last)
            labels = built.eval()(images).argmax(dim=1)
        return built, images, labels, wanted


SUITES = {
    "small": (
        Case("discrete", "8x8x1", 2, 4, 4, METHODS),
        Case("supernet", "8x8x1", 4, 16, 1),
        Case("supernet", "8x8x1", 4, 16, 16),
        Case("supernet", "28x28x1", 4, 8, 2),
        Case("discrete", "28x28x1", 6, 16, 4),
        Case("discrete", "32x32x3", 8, 16, 4),
    ),
    "cpu": (
        Case("supernet", "8x8x1", 4, 16, 1),
        Case("supernet", "8x8x1", 4, 16, 16),
        Case("supernet", "8x8x1", 4, 16, 64),
        Case("supernet", "28x28x1", 6, 8, 8),
        Case("supernet", "32x32x3", 8, 16, 4),
        Case("discrete", "28x28x1", 6, 16, 16),
        Case("discrete", "32x32x3", 20, 36, 1),
        Case("discrete", "32x32x3", 20, 36, 4),
    ),
    "paper": (
        Case("supernet", "8x8x1", 4, 16, 64),
        Case("supernet", "28x28x1", 8, 16, 64),
        Case("supernet", "32x32x3", 8, 16, 16),
        Case("supernet", "32x32x3", 8, 16, 64),
        Case("discrete", "28x28x1", 6, 16, 64),
        Case("discrete", "32x32x3", 20, 36, 1),
        Case("discrete", "32x32x3", 20, 36, 16),
        Case("discrete", "32x32x3", 20, 36, 64),
    ),
}
"""`small` takes a minute or two of one CPU core, `cpu` some more; `paper`, at the paper's sizes, is for a GPU."""


def passes(
    case: Case,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    wanted: Sequence[Tensor],
    threat: ThreatModel,
    targets: str,
) -> Work:
    """What is timed."""

    def loss() -> Tensor:
        return F.cross_entropy(network(images), labels)

    def bound(method: str) -> Tensor:
        return margins(network, images, labels, threat, method, targets).mean()

    def value(compute: Callable[[], Tensor]) -> Callable[[], object]:
        return torch.no_grad()(compute)

    def gradient(compute: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(compute(), wanted, allow_unused=True)

    def of(method: str) -> Callable[[], Tensor]:
        return loss if method == "plain" else lambda: bound(method)

    kinds: tuple[tuple[str, Callable[[Callable[[], Tensor]], Callable[[], object]]], ...]
    kinds = (("value", value), ("gradient", gradient))
    return {(method, name): make(of(method)) for method in ("plain", *case.methods) for name, make in kinds}


def timed(work: Work, rounds: int, device: torch.device) -> dict[tuple[str, str], list[float]]:
    """Seconds of each pass in every round; all in turn."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    found: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for _ in range(rounds):
        for key, run in work.items():
            _wait(device)
            began = clock()
            run()
            _wait(device)
            found[key].append(clock() - began)
    return found


def held(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that a pass holds at most, beside what was there before; also warms it up."""
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before: int = torch.cuda.memory_allocated(device)
        run()
        _wait(device)
        most: int = torch.cuda.max_memory_allocated(device)
        return most - before
    tally = Tally()
    with tally:
        run()
    return tally.peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(case: Case, threat: ThreatModel, targets: str, rounds: int, device: torch.device) -> list[list[str]]:
    """The table's rows of one case."""
    network, images, labels, wanted = case.build(device)
    work = passes(case, network, images, labels, wanted, threat, targets)
    memory = {key: held(run, device) for key, run in work.items()}
    times = timed(work, rounds, device)
    named = f"{case.network} {case.image}, {case.cells} cells, {case.channels} ch, batch {case.batch}"
    found = []
    for method in ("plain", *case.methods):
        tightness = ["", ""]
        if method != "plain":
            with torch.no_grad():
                margin = margins(network, images, labels, threat, method, targets).mean()
                width = log_widths(network, images, labels, threat, method, targets).mean() / math.log(10)
            tightness = [f"{float(margin):.4g}", f"{float(width):.2f}"]
        cost = []
        for name in ("value", "gradient"):
            own, plain = times[method, name], times["plain", name]
            ratio = statistics.median(a / b for a, b in zip(own, plain, strict=True))
            megabytes = memory[method, name] / 1e6
            cost += [f"{statistics.median(own):.4f}", f"{ratio:.2f}", f"{megabytes:.1f}"]
        found.append([named if method == "plain" else "", method, *tightness, *cost])
    return found


def _cases(given: argparse.Namespace) -> tuple[Case, ...]:
    """The suite, or one case for each batch size."""
    if given.suite:
        chosen = SUITES[given.suite]
        return tuple(evolve(case, methods=tuple(given.methods)) for case in chosen) if given.methods else chosen
    return tuple(
        Case(
            given.network,
            given.image,
            given.cells,
            given.channels,
            batch,
            tuple(given.methods or CHEAP),
            given.genotype,
        )
        for batch in given.batch
    )


def main() -> None:
    """Measure every case and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=sorted(SUITES), help="instead of --network to --batch")
    parser.add_argument("--network", choices=("supernet", "discrete"), default="supernet")
    parser.add_argument("--image", choices=list(IMAGES), default="8x8x1")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--genotype", default="DARTS_V2", choices=sorted(Darts().published), metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=int, default=[16], help="each is measured")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default ibp and crown-ibp, or the suite's")
    parser.add_argument("--norm", choices=NORMS, default="linf")
    parser.add_argument("--epsilon", default="1e-3", help="pixel units; 8/255 is understood")
    parser.add_argument("--targets", choices=TARGETS, default="strongest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, threat = torch.device(given.device), ThreatModel(given.norm, given.epsilon)

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{given.threads} thread(s)"
    table = Table(title=f"bounds at {threat}, targets {given.targets}; {place}, {given.rounds} rounds")
    columns: list[tuple[str, Any]] = [(name, "left") for name in ("network", "method")]
    columns += [(name, "right") for name in ("margin", "width", "value s", "x plain", "MB")]
    columns += [(name, "right") for name in ("gradient s", "x plain", "MB")]
    for title, side in columns:
        table.add_column(title, justify=side)
    with full_precision():
        for case in _cases(given):
            for row in rows(case, threat, given.targets, given.rounds, device):
                table.add_row(*row)
            table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
