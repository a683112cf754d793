"""Certified radii of test images of a trained discrete network: seconds and bound evaluations an image.

    python tests/benchmarks/radius.py --folder FOLDER                   6 cells on 28x28 MNIST, 32 test images
    python tests/benchmarks/radius.py --folder FOLDER --images 1000 --method ibp --norm linf l2

FOLDER holds the files of MNIST; without --folder they are looked for as the dataset `mnist` does (the variable
ROBUSTNAS_DATA, then ./data).  Where they are not, the 8x8 digits that ship with the package are enlarged to 28x28, and
the title says so.

The network is trained first, for a few hundred steps of SGD, so that most images are classified rightly: only these
have a search.  Intervals of a network of many cells widen so much that after standard training no radius worth a search
is left (--epsilon 0 shows it: the first two bounds end it), so the training is certified, with intervals alone, up to
a radius of --epsilon.  The stem is that of the imagenet form, because on 28x28 pixels such a training takes long;
--form cifar has the other.  --keep FILE keeps the weights, or reads them where the file exists.

`bounds` is the mean number of bounds that `certify.radius` computes for an image that is right, in
float32 while it searches and in float64 to confirm; seconds are those of the clock, over all images.  Nothing is
extrapolated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from attrs import field, frozen
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas import certify
from robustnas.bounds import METHODS, margins_within
from robustnas.contracts import Images, TrainingContext
from robustnas.data.images import InMemory
from robustnas.errors import DataError
from robustnas.nn.normalize import PixelNetwork
from robustnas.runtime import seeding
from robustnas.threat import NORMS, ThreatModel
from robustnas.train.regimes.certified import Certified
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.datasets.torchvision_sets import MNIST
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.sizes import FORMS


def _plain(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of standard training, and the logits."""
    logits = network(images)
    return F.cross_entropy(logits, labels), logits


RATE = 0.1
"""Of SGD with momentum at its highest."""


@frozen(eq=False)
class Data:
    """Digits of 28x28 pixels, to train with and to certify.

    Args:
        name: what they are, for titles.
    """

    name: str
    train: Images
    test: Images

    @classmethod
    def found(cls, folder: str | None) -> Data:
        """MNIST, or the digits of the package where its files are missing."""
        mnist = MNIST(folder)
        try:
            return cls("MNIST", mnist.split("train"), mnist.split("test"))
        except DataError as fault:
            Console(stderr=True).print(f"{fault}\n  enlarged 8x8 digits take their place", markup=False)
        digits = Digits()
        return cls("digits enlarged to 28x28", *(_enlarged(digits.split(name)) for name in ("train", "test")))

    def tests(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` test images and their labels."""
        indices = torch.arange(min(count, len(self.test.labels)))
        return self.test.take(indices), self.test.labels[indices]


def _enlarged(images: Images) -> Images:
    pixels = images.take(torch.arange(len(images.labels)))
    return InMemory(F.interpolate(pixels, (28, 28), mode="bilinear").clamp(0.0, 1.0), images.labels)


@frozen
class Net:
    """A discrete network, and how briefly it is trained.

    Args:
        genotype: a published cell.
        form: of the stem: `cifar`, or `imagenet` with one that divides the size by eight.
        steps: of SGD, at a rate that rises for a tenth of them and then falls.
        epsilon: l_inf radius, pixel units, at the end of certified training with intervals; 0 trains as usual.
        batch: training images in a step.
    """

    cells: int
    channels: int
    genotype: str
    form: str
    steps: int
    epsilon: float = 0.0
    batch: int = 64

    def trained(self, data: Data, device: torch.device) -> PixelNetwork:
        """The network in eval mode, with channels last."""
        with seeding.seeded(0, "benchmark"):
            network = self.built()
            order = torch.randint(len(data.train.labels), (self.steps, self.batch))
        network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=0.9, weight_decay=3e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, max(self.steps, 1), pct_start=0.1)
        regime = Certified(beta_start=0.0)
        for number, indices in enumerate(order):
            images, labels = data.train.take(indices).to(device), data.train.labels[indices].to(device)
            optimizer.zero_grad()
            if self.epsilon == 0:
                F.cross_entropy(network(images), labels).backward()
            else:
                with ExitStack() as held:
                    now = number / self.steps
                    context = TrainingContext(now, 1, torch.Generator(), F.cross_entropy, _plain, held.enter_context)
                    regime.loss(network, images, labels, ThreatModel("linf", self.epsilon), context).loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        return network.eval()

    def built(self) -> PixelNetwork:
        """The network before training."""
        space = Darts(network_cells=self.cells, network_channels=self.channels, form=self.form)
        network = space.network(space.published[self.genotype], MNIST.shape, MNIST.classes)
        return PixelNetwork(network, MNIST.mean, MNIST.std)

    def kept(self, file: Path | None, data: Data, device: torch.device) -> PixelNetwork:
        """As `trained`, or read from the file where it exists; else the file is written."""
        if file is None:
            return self.trained(data, device)
        if file.is_file():
            state = torch.load(file, weights_only=True)
            if state["net"] != str(self):
                raise SystemExit(f"{file} holds {state['net']}, not {self}; another file would do")
            network = self.built()
            network.load_state_dict(state["weights"])
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            return network.eval()
        network = self.trained(data, device)
        torch.save({"net": str(self), "weights": network.state_dict()}, file)
        return network

    def __str__(self) -> str:
        regime = f"certified at {self.epsilon:g}" if self.epsilon else "standard"
        return (
            f"{self.genotype}, {self.cells} cells, {self.channels} ch, {self.form} form, "
            f"{self.steps} steps of {self.batch}, {regime}"
        )


@frozen(eq=False)
class Count:
    """Images whose bounds were computed, by number format."""

    images: dict[torch.dtype, int] = field(factory=lambda: {torch.float32: 0, torch.float64: 0})


@contextmanager
def counted() -> Iterator[Count]:
    """Counts what `certify` asks of the bounds inside."""
    count = Count()

    def counting(network: Any, images: Tensor, *rest: Any) -> Tensor:
        count.images[images.dtype] += len(images)
        return margins_within(network, images, *rest)

    with patch.object(certify, "margins_within", counting):
        yield count


def right(network: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    """(N,) whether each image is classified as its label."""
    with torch.no_grad():
        return torch.cat([network(part).argmax(dim=1) for part in images.split(batch)]) == labels


def main() -> None:
    """Train, certify and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network(parser, cells=6, channels=8, steps=300)
    parser.add_argument("--images", type=int, default=32, help="test images, from the first")
    parser.add_argument("--method", nargs="+", choices=METHODS, default=["ibp", "crown-ibp"])
    parser.add_argument("--norm", nargs="+", choices=NORMS, default=["linf"])
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=64, help="images certified at once")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device, data, net = torch.device(given.device), Data.found(given.folder), asked(given)
    network = net.kept(given.keep, data, device)
    images, labels = (some.to(device) for some in data.tests(given.images))
    rights = right(network, images, labels, given.batch)

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{given.threads} thread(s)"
    table = Table(
        title=f"certified radius on {data.name}: {net}\n{int(rights.sum())} of {len(images)} test images right; "
        f"tolerance {given.tolerance:g}, {given.batch} at once, {place}"
    )
    titles = ("norm", "method", "mean radius", "seconds an image", "all images", "bounds float32", "float64")
    for title in titles:
        table.add_column(title, justify="left" if title in titles[:2] else "right")
    for norm in given.norm:
        for method in given.method:
            with counted() as count:
                began = time.perf_counter()
                radii = certify.radius(network, images, labels, norm, method, given.tolerance, given.batch)
                taken = time.perf_counter() - began
            searched = max(int(rights.sum()), 1)
            # the first pass at radius 0 takes every image, right or wrong
            single = count.images[torch.float32] - len(images)
            table.add_row(
                norm,
                method,
                f"{float(radii[rights].mean()):.3e}",
                f"{taken / len(images):.3f}",
                f"{taken:.1f} s",
                f"{single / searched:.1f}",
                f"{count.images[torch.float64] / searched:.1f}",
            )
    Console(width=120).print(table)


def add_network(parser: argparse.ArgumentParser, cells: int, channels: int, steps: int) -> None:
    """The arguments that `asked` reads, and those of the machine."""
    parser.add_argument("--folder", help="that holds the files of MNIST")
    parser.add_argument("--cells", type=int, default=cells)
    parser.add_argument("--channels", type=int, default=channels)
    parser.add_argument("--genotype", default="DARTS_V2", choices=sorted(Darts().published), metavar="NAME")
    parser.add_argument("--form", choices=FORMS, default="imagenet", help="of the stem")
    parser.add_argument("--steps", type=int, default=steps, help="of training")
    parser.add_argument("--epsilon", type=float, default=0.02, help="of certified training; 0: standard training")
    parser.add_argument("--keep", type=Path, help="file of the trained network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")


def asked(given: argparse.Namespace) -> Net:
    """The network the arguments describe."""
    return Net(given.cells, given.channels, given.genotype, given.form, given.steps, given.epsilon)


if __name__ == "__main__":
    main()
