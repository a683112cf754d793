"""The search from the first epoch to the genotype: data, schedule, history, checkpoint, resume.

Each step takes a batch of either half of the training images and moves alpha, then w.  The validation batches
go round in a fresh random order each time they are through.  Both halves are augmented alike, as in DARTS.

Every epoch starts from generators derived from the seed and the epoch, and ends with a checkpoint; asked to stop, the
search saves one after the step it is in.  So a search that is stopped and goes on gives, bit for bit, the result of one
that never stopped (on one machine, with the same versions, processes and number of threads).  The genotype is that of
alpha after the last step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Context
from robustnas.data.batches import Batches
from robustnas.data.order import shuffled
from robustnas.data.prefetch import Prefetcher
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.recompute import recompute
from robustnas.nn.synchronised import synchronise
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.device import can_fuse
from robustnas.runtime.memory import Peak, highest
from robustnas.runtime.precision import policy
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.checkpoint import SearchState, restore, save
from robustnas.search.compiled import Compiled
from robustnas.search.data import divided, notes
from robustnas.search.figures import Figures
from robustnas.search.hypergradient import Hypergradient, Step, hypergradient
from robustnas.search.objective import Objective
from robustnas.search.task import SearchTask
from robustnas.search.weights import Weights, weights

MOST = 0.5
"""The share of images without a score that is worth a warning."""


def run(
    task: SearchTask, folder: StageFolder, device: torch.device, report: Report, processes: Processes = ALONE
) -> dict[str, Any]:
    """Search a genotype, or go on with a search that was stopped.

    Args:
        task: what determines the result.
        folder: gets `checkpoint.pt` and the history, an epoch at a time.
        device: where the supernet and the images live.
        report: is told after each epoch.
        processes: the processes that share each batch; all of them call this alike.

    Returns:
        Plain data: `genotype`; `alpha`, tables by name; `epochs`; `parameters`, the supernet's trainable
        weights (without alpha); `search_seconds`, over all sittings; `peak_memory` in bytes, see
        `robustnas.runtime.memory.Peak`; `notes` on the division of the images and on the metric; where asked for,
        `compiled`: yes, or why not.

    Raises:
        RunError: a loss, a score or a gradient is not finite; the checkpoint of the last good epoch stays.
        RunDirectoryError: the checkpoint is damaged or belongs to another search.
        OptionError: metrics that cannot be combined.
        InputError: batches that these processes cannot share.
        Interrupted: the process was asked to stop; the checkpoint holds the last step.
    """
    with policy(task.settings.precision):
        search = _Search.prepared(task, folder, device, processes)
        progress = search.progress
        report(progress.epoch, task.settings.epochs, "epoch")
        with search.batches.feed:
            while progress.epoch < task.settings.epochs:
                record = search.epoch()
                told = {name: value for name, value in record.items() if name != "epoch" and value is not None}
                report(progress.epoch, task.settings.epochs, "epoch", **told)
    compiled = search.objective.compiled
    with torch.no_grad():
        genotype = task.space.genotype(progress.supernet)
    return {
        "genotype": genotype,
        "alpha": {name: table.tolist() for name, table in progress.supernet.alpha.items()},
        "epochs": progress.epoch,
        "parameters": sum(parameter.numel() for parameter in search.w.parameters),
        "search_seconds": progress.seconds,
        **highest(progress.records),
        "notes": [*search.notes, *_floored(progress.records)],
        **({} if compiled is None else {"compiled": compiled.why_not or "yes"}),
    }


def _floored(records: list[dict[str, Any]]) -> list[str]:
    """A note where most scores of the last epoch were the least there is."""
    share = (records[-1].get("floored") if records else None) or 0.0
    if share <= MOST:
        return []
    text = (
        f"in the last epoch of the search the robustness of {100 * share:.0f} % of the images was the least that the "
        "metric tells, and had no gradient: they were classified wrongly, or bounds were too wide for the number "
        "format.  For most images this was a search without the metric; more epochs, a wider network, fewer cells, or "
        "precision: float64 of the metric, would do"
    )
    return [text]


@frozen(eq=False)
class _Search:
    """A search under way: what stays the same from step to step, and the progress, which does not."""

    task: SearchTask
    folder: StageFolder
    device: torch.device
    processes: Processes
    objective: Objective
    gradient: Callable[[Step], Hypergradient]
    w: Weights
    progress: SearchState
    parts: tuple[Tensor, Tensor]
    notes: list[str]
    batches: Batches
    peak: Peak

    @classmethod
    def prepared(cls, task: SearchTask, folder: StageFolder, device: torch.device, processes: Processes) -> _Search:
        """Supernet, optimisers and data, as the seed makes them or as the checkpoint left them."""
        settings, seed, dataset = task.settings, task.seed, task.dataset
        peak = Peak(device)
        images = dataset.split("train")
        parts = divided(images.labels, settings, seed, processes)
        with seeding.seeded(seed, "search", "weights"):
            supernet = PixelSupernet(
                task.space.supernet(dataset.shape, dataset.classes),  # type: ignore[arg-type]
                dataset.mean,
                dataset.std,
            )
        if processes.size > 1:
            synchronise(supernet)
        if settings.recompute_cells:
            recompute(supernet.supernet, "search.recompute_cells")
        # convolutions of few channels run up to 1.6 times as fast with channels last, on the CPU too
        supernet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        w = weights(supernet)
        progress = SearchState(
            supernet,
            torch.optim.SGD(
                w.parameters,
                settings.w_lr,
                momentum=settings.w_momentum,
                weight_decay=settings.w_decay,
                fused=can_fuse(device),
            ),
            torch.optim.Adam(
                list(supernet.alpha.values()),
                settings.alpha_lr,
                betas=(0.5, 0.999),
                weight_decay=settings.alpha_decay,
                fused=can_fuse(device),
            ),
            seed,
            settings.epochs,
            processes=processes,
        )
        restore(progress, folder)

        batches = Batches(
            Prefetcher(images, device),
            dataset.shape[1:],
            settings.crop,
            settings.flip,
            settings.cutout,
            dataset.mean,
            settings.accumulate,
            processes,
        )
        compiled = Compiled(supernet) if settings.compile else None
        objective = Objective(task.metrics, task.threat, settings.gamma, settings.precision, compiled)
        return cls(
            task,
            folder,
            device,
            processes,
            objective,
            hypergradient(settings.order),
            w,
            progress,
            parts,
            notes(images.labels, parts),
            batches,
            peak,
        )

    def epoch(self) -> dict[str, Any]:
        """One epoch, or the rest of one, and its checkpoint.  Returns its record."""
        settings, seed, progress = self.task.settings, self.task.seed, self.progress
        started, epoch = time.perf_counter(), progress.epoch
        w_lr = _cosine(settings.w_lr, settings.w_lr_min, epoch / settings.epochs)
        progress.w_optimizer.param_groups[0]["lr"] = w_lr
        inner, outer = (
            Context(
                epoch / settings.epochs,
                seeding.generator(seed, "search", use, epoch, device=self.device),
                F.cross_entropy,
                self.processes.average,
            )
            for use in ("inner", "outer")
        )
        # augmentation is drawn on the CPU: the same seed gives the same augmented images on every device
        augmenting = seeding.generator(seed, "search", "augment", epoch)
        generators = {"augment": augmenting, "inner": inner.generator, "outer": outer.generator}
        trains = shuffled(self.parts[0], settings.batch, seeding.generator(seed, "search", "train order", epoch))
        endless = _round(self.parts[1], settings.batch, seeding.generator(seed, "search", "val order", epoch))
        vals = list(islice(endless, len(trains)))
        figures = Figures(epoch, settings.epochs, len(trains), self.device, progress.supernet)
        self.peak.reset()
        self.batches.feed.reset()
        before = 0.0
        with seeding.seeded(seed, "search", "global", epoch):
            done = 0
            if progress.middle is not None:
                done, before = int(progress.middle["steps"]), float(progress.middle["seconds"])
                figures.restore(progress.middle["figures"])
                seeding.put_back(progress.middle["generators"], generators, self.device)
            pairs = zip(
                self.batches.of(trains[done:], augmenting), self.batches.of(vals[done:], augmenting), strict=True
            )
            for number, (train_batch, val_batch) in enumerate(pairs, done + 1):
                step = Step(
                    progress.supernet,
                    self.objective,
                    self.w,
                    progress.w_optimizer,
                    train_batch,
                    val_batch,
                    inner,
                    outer,
                    self.processes,
                )
                seen = None
                if epoch >= settings.warmup_epochs:
                    seen = outer_step(step, self.gradient, progress.alpha_optimizer)
                moved = inner_step(step, settings.w_clip)
                figures.note((len(trains[number - 1]), len(vals[number - 1])), seen, moved)
                if number < len(trains) and self.processes.any(interrupt.asked()):
                    figures.check()
                    progress.middle = {
                        "steps": number,
                        "seconds": before + time.perf_counter() - started,
                        "figures": figures.state(),
                        "generators": seeding.states(generators, self.device),
                    }
                    save(progress, self.folder)
                    raise interrupt.Interrupted
            record = {
                "epoch": epoch + 1,
                **figures.means(),
                "w_lr": w_lr,
                "alpha_entropy": _entropy(progress.supernet),
            }
        seconds = before + time.perf_counter() - started
        machine = {"waiting": self.batches.feed.waited / seconds, **self.peak.read(), "epoch_seconds": seconds}
        progress.done({**record, **machine}, seconds)
        save(progress, self.folder)
        if self.processes.any(interrupt.asked()):
            raise interrupt.Interrupted
        return record


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
