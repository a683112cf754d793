"""Runs the search from the first epoch to the genotype: data, schedule, and the step.

Each step takes a batch of either half of the training images and moves alpha, then w.  The validation batches
go round in a fresh random order each time they are through.  Both halves are augmented alike, as in DARTS.

Checkpoints and history are the business of `robustnas.runtime.epochs`: a search that is stopped and goes on gives, bit
for bit, the result of one that never stopped.  The genotype is that of alpha after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor

from robustnas.contracts import Context, SearchSpace, candidates
from robustnas.data.augment.augmentation import Augmentation
from robustnas.data.batches import Batches
from robustnas.data.order import shuffled
from robustnas.data.prefetch import Prefetcher
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.optimizers import SGD, Adam
from robustnas.nn.recompute import recompute
from robustnas.nn.synchronised import synchronise
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.device import can_fuse
from robustnas.runtime.epochs import Epochs
from robustnas.runtime.memory import highest
from robustnas.runtime.precision import policy
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent
from robustnas.search import collapse
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.collapse import too_sharp
from robustnas.search.compiled import Compiled
from robustnas.search.data import divided, notes
from robustnas.search.figures import Figures
from robustnas.search.gap import gap, judging
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Objective
from robustnas.search.task import SearchTask
from robustnas.search.warnings import warnings
from robustnas.search.weights import weights

NONE = "none"
"""The name of the operation that leaves an edge out."""


def run(
    task: SearchTask,
    folder: StageFolder,
    device: torch.device,
    report: Report = silent,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Search a genotype, or go on with a search that was stopped.

    Args:
        task: what determines the result.
        folder: gets `checkpoint.pt` and the history, an epoch at a time.
        device: where the supernet and the images live.
        report: is told after each epoch, and of steps now and then.
        processes: the processes that share each batch; all of them call this alike.

    Returns:
        Plain data: `genotype`; `alpha`, tables by name; `operations`, those of each table's columns; `none`, the share
        of the mixing weights on the operation of that name (both where the space tells its operations); `epochs`;
        `parameters`, the supernet's trainable weights (without alpha); `search_seconds`, over all sittings;
        `peak_memory` in bytes, see `robustnas.runtime.memory.Peak`; `collapse`, see `robustnas.search.collapse`;
        `gap`, see `robustnas.search.gap`; `notes` on the division of the images, on the scores and on a collapse; where
        asked for, `compiled`: yes, or why not.

    Raises:
        RunError: a loss, a score or a gradient is not finite; the checkpoint of the last good epoch stays.
        RunDirectoryError: the checkpoint is damaged or belongs to another search.
        OptionError: metrics that cannot be combined.
        InputError: batches that these processes cannot share.
        Interrupted: the process was asked to stop; the checkpoint holds the last step.
    """
    with policy(task.settings.precision):
        epochs = Epochs("search", task.seed, task.settings.epochs, folder, device, report, processes)
        search = _Search(task, device, processes)
        with search.batches.feed:
            epochs.run(lambda number: _Epoch(search, number), search.parts, search.batches.feed, search.collapsed)
            stopped = too_sharp(epochs.records) if search.collapsed(epochs.records) else None
    compiled = search.objective.compiled
    if stopped is not None:
        _put_back(search.supernet, epochs.records[stopped - 1]["alpha"])
    with torch.no_grad():
        genotype = task.space.genotype(search.supernet)
    # no more memory than the search's own passes
    part = max(2, task.settings.batch // task.settings.accumulate // processes.size)
    by = judging(task.dataset.split("train"), search.halves[1], part, device, search.objective, task.seed)
    told = collapse.verdict(epochs.records, collapse.parameter_free(task.space, genotype))
    return {
        "genotype": genotype,
        "alpha": _tables(search.supernet),
        "operations": {table: list(ops) for table, ops in candidates(task.space).items()},
        **_on_none(task.space, search.supernet),
        "epochs": len(epochs.records),
        "parameters": sum(parameter.numel() for parameter in search.w.parameters),
        "search_seconds": epochs.seconds,
        **highest(epochs.records),
        "collapse": told,
        "gap": gap(search.supernet, task.space, genotype, by),
        "notes": [
            *search.notes,
            *warnings(epochs.records, task.settings.gamma),
            *collapse.notes(told, stopped),
        ],
        **({} if compiled is None else {"compiled": compiled.why_not or "yes"}),
    }


class _Search:
    """The supernet and optimisers, and everything that stays the same from step to step."""

    def __init__(self, task: SearchTask, device: torch.device, processes: Processes):
        settings, seed, dataset = task.settings, task.seed, task.dataset
        self.task, self.device, self.processes = task, device, processes
        images = dataset.split("train")
        self.halves = divided(images.labels, settings, seed, processes)
        self.notes = notes(images.labels, self.halves)
        with seeding.seeded(seed, "search", "weights"):
            self.supernet = PixelSupernet.of(task.space, dataset)
        if processes.size > 1:
            synchronise(self.supernet)
        if settings.recompute_cells:
            recompute(self.supernet.supernet, "search.recompute_cells")
        # convolutions of few channels run up to 1.6 times as fast with channels last, on the CPU too
        self.supernet.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.w = weights(self.supernet)
        self.w_optimizer = SGD(
            self.w.parameters,
            settings.w_lr,
            momentum=settings.w_momentum,
            weight_decay=settings.w_decay,
            fused=can_fuse(device),
        )
        self.alpha_optimizer = Adam(
            list(self.supernet.alpha.values()),
            settings.alpha_lr,
            betas=(0.5, 0.999),
            weight_decay=settings.alpha_decay,
            fused=can_fuse(device),
        )
        self.batches = Batches(
            Prefetcher(images, device),
            dataset.shape[1:],
            Augmentation(settings.crop, settings.flip, settings.cutout, dataset.mean),
            accumulate=settings.accumulate,
            processes=processes,
        )
        compiled = Compiled(self.supernet) if settings.compile else None
        self.objective = Objective(task.metrics, task.threat, settings.gamma, settings.precision, compiled)

    def collapsed(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the search is to end after these epochs, as it has become too sharp."""
        return self.task.settings.collapse == "stop" and too_sharp(records) is not None

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of a checkpoint: weights, alpha and running statistics, the optimisers with their moments, and
        the running means of balanced scores.
        """
        balancing = self.objective.balancing
        return {
            "supernet": self.supernet,
            "w_optimizer": self.w_optimizer,
            "alpha_optimizer": self.alpha_optimizer,
            **({} if balancing is None else {"balancing": balancing}),
        }


class _Epoch:
    """One epoch of a search, as `robustnas.runtime.epochs.Epoch` promises it."""

    def __init__(self, search: _Search, epoch: int):
        settings, seed = search.task.settings, search.task.seed
        self.search, self.epoch = search, epoch
        self.words: tuple[str | int, ...] = ("search", "global", epoch)
        self.w_lr = cosine(settings.w_lr, settings.w_lr_min, epoch / settings.epochs)
        search.w_optimizer.param_groups[0]["lr"] = self.w_lr
        self.inner, self.outer = (
            Context(
                epoch / settings.epochs,
                seeding.generator(seed, "search", use, epoch, device=search.device),
                F.cross_entropy,
                search.processes.average,
            )
            for use in ("inner", "outer")
        )
        # augmentation is drawn on the CPU: the same seed gives the same augmented images on every device
        augmenting = seeding.generator(seed, "search", "augment", epoch)
        self.generators: Mapping[str, torch.Generator] = {
            "augment": augmenting,
            "inner": self.inner.generator,
            "outer": self.outer.generator,
        }
        train, val = search.halves
        self.trains = shuffled(train, settings.batch, seeding.generator(seed, "search", "train order", epoch))
        endless = _round(val, settings.batch, seeding.generator(seed, "search", "val order", epoch))
        self.vals = list(islice(endless, len(self.trains)))
        self.steps = len(self.trains)
        self.figures = Figures(
            epoch, settings.epochs, self.steps, search.device, search.supernet, search.objective.names
        )

    def run(self, done: int) -> Iterator[None]:
        """Move alpha, unless the search is warming up, and w, for each pair of batches after the first `done`."""
        search, settings = self.search, self.search.task.settings
        trains, vals = (
            search.batches.of(order[done:], self.generators["augment"]) for order in (self.trains, self.vals)
        )
        for number, (train, val) in enumerate(zip(trains, vals, strict=True), done):
            step = Step(
                supernet=search.supernet,
                objective=search.objective,
                weights=search.w,
                w_optimizer=search.w_optimizer,
                train=train,
                val=val,
                inner=self.inner,
                outer=self.outer,
                processes=search.processes,
            )
            seen = None
            if self.epoch >= settings.warmup_epochs:
                seen = outer_step(step, settings.order, search.alpha_optimizer)
            moved = inner_step(step, settings.w_clip)
            self.figures.note((len(self.trains[number]), len(self.vals[number])), seen, moved)
            yield

    def record(self) -> dict[str, Any]:
        """The epoch's mean figures, alpha after it, and how undecided it is."""
        return {
            **self.figures.means(),
            "w_lr": self.w_lr,
            "alpha_entropy": _entropy(self.search.supernet),
            **_on_none(self.search.task.space, self.search.supernet),
            "parameter_free": self._parameter_free(),
            **self._eigenvalue(),
            "alpha": _tables(self.search.supernet),
        }

    def _parameter_free(self) -> float | None:
        """The share of operations without weights in the genotype that alpha stands for."""
        space = self.search.task.space
        with torch.no_grad():
            return collapse.parameter_free(space, space.genotype(self.search.supernet))

    def _eigenvalue(self) -> dict[str, float | None]:
        """As `eigenvalue`, the dominant one of the outer Hessian, on the epoch's first validation batch; if watched."""
        search, settings, seed = self.search, self.search.task.settings, self.search.task.seed
        if settings.collapse == "off":
            return {}
        if self.epoch < settings.warmup_epochs:
            return {"eigenvalue": None}
        drawing = seeding.generator(seed, "search", "eigenvalue", self.epoch)
        ((first, *others),) = search.batches.of(self.vals[:1], drawing)
        first = evolve(first, share=first.share * (1 + len(others)))  # one part of each process: graphs stay small
        return {"eigenvalue": collapse.dominant_eigenvalue(search.supernet, search.w, first, search.processes, drawing)}


def _put_back(supernet: PixelSupernet, tables: Mapping[str, list[list[float]]]) -> None:
    """Make alpha what it was after an earlier epoch."""
    with torch.no_grad():
        for name, table in supernet.alpha.items():
            table.copy_(torch.tensor(tables[name]))


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` to `end`, constant within an epoch (Loshchilov and Hutter 2017)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _round(indices: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end: all indices in random order, then all again in another."""
    while True:
        yield from shuffled(indices, batch, generator)


def _tables(supernet: PixelSupernet) -> dict[str, list[list[float]]]:
    """The tables of alpha by name, as lists."""
    return {name: table.tolist() for name, table in supernet.alpha.items()}


def _on_none(space: SearchSpace, supernet: PixelSupernet) -> dict[str, float]:
    """As `none`, the share of the mixing weights on the operation of that name: mean over the edges that have it."""
    with torch.no_grad():
        mixing = supernet.mixing()
        shares = [mixing[table][:, list(ops).index(NONE)] for table, ops in candidates(space).items() if NONE in ops]
    return {"none": float(torch.cat(shares).mean())} if shares else {}


def _entropy(supernet: PixelSupernet) -> float:
    """Mean entropy of the rows of the mixing weights, in nats: log(O) undecided, 0 decided."""
    with torch.no_grad():
        rows = torch.cat([torch.special.entr(rows).sum(dim=-1).flatten() for rows in supernet.mixing().values()])
    return float(rows.mean())
