"""The search from the first epoch to the genotype: data, schedule, history, checkpoint, resume.

Each step takes a batch of either half of the training images and moves alpha, then w.  The validation batches
go round in a fresh random order each time they are through.  Both halves are augmented alike, as in DARTS.

Every epoch starts from generators derived from the seed and the epoch, and ends with a checkpoint; so a
search that is stopped and goes on gives, bit for bit, the result of one that never stopped (on one machine,
with the same versions and number of threads).  The genotype is that of alpha after the last step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas import seeding
from robustnas.artifacts import StageFolder
from robustnas.augment import augment
from robustnas.contracts import Context, Images
from robustnas.errors import DataError
from robustnas.images import halves, on_device, shuffled
from robustnas.normalize import PixelSupernet
from robustnas.report import Report
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.checkpoint import Progress, restore, save
from robustnas.search.figures import Figures
from robustnas.search.hypergradient import ORDERS, Step
from robustnas.search.objective import Batch, Objective
from robustnas.search.task import SearchTask
from robustnas.search.weights import weights


def run(task: SearchTask, folder: StageFolder, device: torch.device, report: Report) -> dict[str, Any]:
    """Search a genotype, or go on with a search that was stopped.

    Args:
        task: what determines the result.
        folder: gets `checkpoint.pt` and the history, an epoch at a time.
        device: where the supernet and the images live.
        report: is told after each epoch.

    Returns:
        Plain data: `genotype`; `alpha`, tables by name; `epochs`; `parameters`, the supernet's trainable
        weights (without alpha); `search_seconds`, over all sittings.

    Raises:
        RunError: a loss, a score or a gradient is not finite; the checkpoint of the last good epoch stays.
        RunDirectoryError: the checkpoint is damaged or belongs to another search.
        OptionError: metrics that cannot be combined.
    """
    settings, seed = task.settings, task.seed
    objective = Objective(task.metrics, task.threat, settings.gamma)
    hypergradient = ORDERS[settings.order]
    images = on_device(task.dataset.split("train"), device)
    parts = halves(len(images.labels), settings.train_share, seeding.generator(seed, "search", "halves"))
    _check_halves(parts, settings.train_share)

    with seeding.seeded(seed, "search", "weights"):
        supernet = PixelSupernet(
            task.space.supernet(task.dataset.shape, task.dataset.classes),  # type: ignore[arg-type]
            task.dataset.mean,
            task.dataset.std,
        )
    # convolutions of few channels run up to 1.6 times as fast with channels last, on the CPU too
    supernet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    w = weights(supernet)
    w_optimizer = torch.optim.SGD(
        w.parameters, settings.w_lr, momentum=settings.w_momentum, weight_decay=settings.w_decay
    )
    alpha_optimizer = torch.optim.Adam(
        list(supernet.alpha.values()),
        settings.alpha_lr,
        betas=(0.5, 0.999),
        weight_decay=settings.alpha_decay,
    )
    progress = Progress(supernet, w_optimizer, alpha_optimizer, seed, settings.epochs)
    restore(progress, folder)

    report(progress.epoch, settings.epochs, "epoch")
    while progress.epoch < settings.epochs:
        started, epoch = time.perf_counter(), progress.epoch
        w_lr = _cosine(settings.w_lr, settings.w_lr_min, epoch / settings.epochs)
        w_optimizer.param_groups[0]["lr"] = w_lr
        inner, outer = (
            Context(
                epoch / settings.epochs,
                seeding.generator(seed, "search", use, epoch, device=device),
                F.cross_entropy,
            )
            for use in ("inner", "outer")
        )
        with seeding.seeded(seed, "search", "global", epoch):
            batches = _Batches(task, images, device, epoch)
            order = shuffled(parts[0], settings.batch, seeding.generator(seed, "search", "train order", epoch))
            vals = _round(parts[1], settings.batch, seeding.generator(seed, "search", "val order", epoch))
            figures = Figures(epoch, settings.epochs, len(order), device)
            for train_indices, val_indices in zip(order, vals, strict=False):
                step = Step(
                    supernet,
                    objective,
                    w,
                    w_optimizer,
                    batches.take(train_indices),
                    batches.take(val_indices),
                    inner,
                    outer,
                )
                seen = None
                if epoch >= settings.warmup_epochs:
                    seen = outer_step(step, hypergradient, alpha_optimizer)
                moved = inner_step(step, settings.w_clip)
                figures.note((len(train_indices), len(val_indices)), seen, moved)
            record = {
                "epoch": epoch + 1,
                **figures.means(),
                "w_lr": w_lr,
                "alpha_entropy": _entropy(supernet),
            }
        seconds = time.perf_counter() - started
        progress.done({**record, "epoch_seconds": seconds}, seconds)
        save(progress, folder)
        told = {name: value for name, value in record.items() if name != "epoch" and value is not None}
        report(progress.epoch, settings.epochs, "epoch", **told)

    with torch.no_grad():
        genotype = task.space.genotype(supernet)
    return {
        "genotype": genotype,
        "alpha": {name: table.tolist() for name, table in supernet.alpha.items()},
        "epochs": progress.epoch,
        "parameters": sum(parameter.numel() for parameter in w.parameters),
        "search_seconds": progress.seconds,
    }


def _check_halves(parts: tuple[Tensor, Tensor], share: float) -> None:
    if min(len(part) for part in parts) < 2:
        raise DataError(
            f"search.train_share {share:g} splits {len(parts[0]) + len(parts[1])} training images into "
            f"{len(parts[0])} and {len(parts[1])}: each half needs at least 2"
        )


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`, constant within an epoch (Loshchilov and Hutter 2017)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _round(indices: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end: all indices in random order, then all again in another."""
    while True:
        yield from shuffled(indices, batch, generator)


def _entropy(supernet: PixelSupernet) -> float:
    """Mean entropy of the rows of the mixing weights, in nats: log(O) undecided, 0 decided."""
    with torch.no_grad():
        rows = torch.cat([torch.special.entr(rows).sum(dim=-1).flatten() for rows in supernet.mixing().values()])
    return float(rows.mean())


class _Batches:
    """Images and labels of one epoch, augmented."""

    def __init__(self, task: SearchTask, images: Images, device: torch.device, epoch: int):
        self.images = images
        self.labels = images.labels.to(device)
        self.settings = task.settings
        # On the CPU: the same seed gives the same augmented images on every device.
        self.generator = seeding.generator(task.seed, "search", "augment", epoch)
        self.fill = torch.tensor(task.dataset.mean, device=device)

    def take(self, indices: Tensor) -> Batch:
        settings = self.settings
        images = self.images.take(indices)
        images = augment(
            images,
            self.generator,
            crop=settings.crop,
            flip=settings.flip,
            cutout=settings.cutout,
            fill=self.fill,
        )
        labels = self.labels[indices.to(self.labels.device)]
        return images.contiguous(memory_format=torch.channels_last), labels
