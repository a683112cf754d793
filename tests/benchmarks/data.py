"""Images a second, and the share of time a consumer waits: our data path beside torchvision's in a DataLoader.

    python tests/benchmarks/data.py                     digits, 32x32x3 in memory, 64x64 JPEGs made for the purpose
    python tests/benchmarks/data.py --folder PATH       JPEGs of class folders in PATH (same size, or add --size)
    python tests/benchmarks/data.py --device cuda

Both crop and flip.  "images/s" is with a consumer that does nothing; "waiting" is the share of an epoch that one waits
who computes for --step milliseconds a batch.  Every way of reading runs in turn, several rounds, on one thread; figures
are medians, starting the workers not included.  Times depend on the machine; compare the multiples.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from robustnas.contracts import Images
from robustnas.data.augment.augmentation import Augmentation, apply
from robustnas.data.images import InMemory, Streamed
from robustnas.data.order import shuffled
from robustnas.data.prefetch import Prefetcher
from robustnas_plugins.datasets.class_folders import Files, scan
from robustnas_plugins.datasets.digits import Digits

Batches = Iterator[tuple[Tensor, Tensor]]


class Each:
    """The reference's dataset: one image at a time through torchvision's transforms, as PIL images."""

    def __init__(self, source: Any, labels: Tensor, crop: int, shape: tuple[int, int]):
        self.source, self.labels = source, labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(shape, padding=crop), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.source[index]), self.labels[index]


class Held:
    """Pixels in memory, handed out as PIL images, as torchvision's datasets do."""

    def __init__(self, pixels: Tensor):
        self.arrays = pixels.permute(0, 2, 3, 1).squeeze(3).contiguous().numpy()

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays[index])


class Opened:
    """Files, opened as torchvision's ImageFolder does; `size` resizes the shorter side and cuts a square."""

    def __init__(self, files: tuple[Path, ...], size: int | None):
        self.files, self.size = files, size

    def __getitem__(self, index: int) -> Image.Image:
        with Image.open(self.files[index]) as opened:
            image = opened.convert("RGB")
        if self.size is not None:
            image = transforms.functional.resize(image, self.size)
            image = transforms.functional.center_crop(image, [self.size, self.size])
        return image


def ours(images: Images, workers: int, batch: int, crop: int, device: torch.device) -> Callable[[], Batches]:
    """Epochs through a feed."""
    feed, epochs = Prefetcher(images, device, workers=workers), iter(range(10**6))
    everything = torch.arange(len(images.labels))

    def epoch() -> Batches:
        generator, augmentation = torch.Generator().manual_seed(next(epochs)), Augmentation(crop=crop, flip=True)
        for found, labels in feed.batches(shuffled(everything, batch, generator)):
            plan = augmentation.plan(len(labels), (found.shape[2], found.shape[3]), generator)
            yield apply(found, plan).contiguous(memory_format=torch.channels_last), labels

    return epoch


def usual(each: Each, workers: int, batch: int, device: torch.device) -> Callable[[], Batches]:
    """Epochs through a DataLoader over single images."""
    loader: DataLoader[Any] = DataLoader(
        each,  # type: ignore[arg-type]
        batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn" if workers else None,
    )

    def epoch() -> Batches:
        for images, labels in loader:
            images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            yield images, labels.to(device, non_blocking=True)

    return epoch


def settings(
    arguments: argparse.Namespace, made: Path, device: torch.device
) -> dict[str, dict[str, Callable[[], Batches]]]:
    """Every way of reading, by what is read."""
    batch, workers = arguments.batch, range(arguments.workers + 1)
    digits = Digits().split("train")
    assert isinstance(digits, InMemory)
    small = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8)
    held = {
        "digits, 8x8, in memory": ((digits.pixels * 255).round().to(torch.uint8), digits.labels, 1),
        "32x32x3, in memory": (small, torch.zeros(5000, dtype=torch.int64), 4),
    }
    found: dict[str, dict[str, Callable[[], Batches]]] = {}
    for name, (pixels, labels, crop) in held.items():
        each = Each(Held(pixels), labels, crop, (pixels.shape[2], pixels.shape[3]))
        found[name] = {f"torchvision, {count} workers": usual(each, count, batch, device) for count in workers}
        found[name]["feed"] = ours(InMemory(pixels, labels), 0, batch, crop, device)
    part = scan(Path(arguments.folder) if arguments.folder else generated(made, 64, 1500), "benchmark")
    source = Files(part.files, "benchmark", 3, arguments.size, arguments.size)
    height, width = source[0].shape[1:]
    crop = max(height // 8, 1)
    each = Each(Opened(part.files, arguments.size), part.label_tensor(), crop, (height, width))
    streamed = f"{len(source)} JPEGs, {height}x{width}, streamed"
    found[streamed] = {f"torchvision, {count} workers": usual(each, count, batch, device) for count in workers}
    for count in workers:
        images = Streamed(source, part.label_tensor(), count)
        found[streamed][f"feed, {count} workers"] = ours(images, count, batch, crop, device)
    return found


def generated(folder: Path, size: int, count: int) -> Path:
    """Class folders of JPEGs whose files are about as large as photographs of that size."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8))
        path = folder / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(path, quality=85)
    return folder


def timed(epoch: Callable[[], Batches], compute: Callable[[], None], device: torch.device) -> tuple[float, float, int]:
    """Seconds of an epoch, seconds of it spent waiting for batches, and its images."""
    seen, waited = 0, 0.0
    began = time.perf_counter()
    batches = epoch()
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        seen += len(batch[1])
        compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, waited, seen


def work(milliseconds: float, device: torch.device) -> Callable[[], None]:
    """Matrix products for about so long."""
    matrix = torch.rand(512, 512, device=device)

    def products(count: int) -> None:
        for _ in range(count):
            matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    products(20)
    began = time.perf_counter()
    products(50)
    count = max(round(milliseconds / 1000 / ((time.perf_counter() - began) / 50)), 1)
    return lambda: products(count)


def main() -> None:
    """Measure every way of reading and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="class folders of JPEGs")
    parser.add_argument("--size", type=int, help="resize the shorter side to this and cut a square")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="up to so many")
    parser.add_argument("--step", type=float, default=20.0, help="milliseconds that the consumer computes a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    table = Table(title=f"batches of {arguments.batch}, cropped and flipped; step {arguments.step:g} ms; {device}")
    for title in ("images", "read by", "images/s", "x torchvision, 0 workers", "waiting"):
        table.add_column(title, justify="left" if title in ("images", "read by") else "right")
    computing = work(arguments.step, device)
    with tempfile.TemporaryDirectory() as made:
        for name, ways in settings(arguments, Path(made), device).items():
            rates: dict[str, list[float]] = {way: [] for way in ways}
            waits: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(arguments.rounds + 1):  # the first round starts the workers and warms up
                for way, epoch in ways.items():
                    seconds, _, seen = timed(epoch, lambda: None, device)
                    whole, waited, _ = timed(epoch, computing, device)
                    if number:
                        rates[way].append(seen / seconds)
                        waits[way].append(waited / whole)
            plain = statistics.median(rates["torchvision, 0 workers"])
            for way in ways:
                rate, waited = statistics.median(rates[way]), statistics.median(waits[way])
                table.add_row(name, way, f"{rate:,.0f}", f"{rate / plain:.2f}", f"{waited:.1%}")
            table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
