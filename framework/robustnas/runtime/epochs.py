"""The epochs of a search or a training: gone on with, stopped between two steps, recorded.

The stage supplies an `Epoch`, which does the steps.  Everything around a step is here: the checkpoint after each epoch,
and in the middle of one when the process is asked to stop, with the figures so far and the state of every generator;
the history; time, waiting and memory.

Every epoch starts from generators that are derived from the seed and its number.  So a stage that is stopped and goes
on gives, bit for bit, what one gives that never stopped (on one CPU, with the same versions, processes and number
of threads).  The history is part of the checkpoint: the two cannot disagree after a crash between their writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from attrs import Factory, define
from torch import Tensor, nn

from robustnas.errors import RunDirectoryError
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.memory import Peak
from robustnas.runtime.processes import ALONE, Processes, other_processes
from robustnas.runtime.report import Report, silent
from robustnas.runtime.strangers import first_line

FILE = "checkpoint.pt"

TOLD_APART = ("epoch", "done", "total", "unit", "step")
"""Names of figures that a report has a place of its own for, or would take for one."""

REPORT_SECONDS = 1.0
"""A step is reported at most so often: its figures are on the device, which waits while they are read."""


class Figures(Protocol):
    """The figures of the steps of an epoch so far."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint in the middle of the epoch keeps of them."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the steps of `state`."""

    def latest(self) -> dict[str, float]:
        """Those of the last step, by the names that they have in the record."""

    def check(self) -> None:
        """Refuse to save what has diverged.

        Raises:
            RunError: a figure is not finite.
        """


class Epoch(Protocol):
    """One pass over the images, as a search or a training supplies it."""

    steps: int
    """How many steps it has."""

    words: tuple[str | int, ...]
    """What torch's global generators are seeded for, beside the seed."""

    generators: Mapping[str, torch.Generator]
    """The other generators that its steps draw from."""

    @property
    def figures(self) -> Figures:
        """Those of its steps so far."""

    def run(self, done: int) -> Iterator[None]:
        """Do the steps after the first `done`, one at each turn."""

    def record(self) -> dict[str, Any]:
        """The figures of the whole epoch, after its last step."""


class Feed(Protocol):
    """Where batches come from, as far as the time is concerned that is spent waiting for them."""

    @property
    def waited(self) -> float:
        """Seconds since `reset`."""

    def reset(self) -> None:
        """Count from 0 again."""


@define(eq=False)
class Epochs:
    """The epochs of one stage.

    The peak of memory counts from the moment this is made, so it is made before images and networks are.

    Args:
        kind: `search` or `training`, for messages.
        seed: of the stage.
        epochs: of the stage.
        folder: gets the checkpoint and the history.
        device: where the stage computes.
        report: is told after each epoch, and of steps now and then.
        processes: the processes that share each batch; random draws for an image depend on how many they are.

    Attributes:
        records: the history, one record an epoch.
        seconds: time spent on the epochs that are done, over all sittings.
        middle: the state in the epoch under way, where the stage stopped inside one.
    """

    kind: str
    seed: int
    epochs: int
    folder: StageFolder
    device: torch.device
    report: Report = silent
    processes: Processes = ALONE
    records: list[dict[str, Any]] = Factory(list)
    seconds: float = 0.0
    middle: dict[str, Any] | None = None
    peak: Peak = Factory(lambda self: Peak(self.device), takes_self=True)

    def run(
        self,
        begin: Callable[[int], Epoch],
        parts: Mapping[str, Any],
        feed: Feed,
        enough: Callable[[Sequence[Mapping[str, Any]]], bool] = lambda records: False,
    ) -> None:
        """Do the epochs that are left.

        Args:
            begin: makes the epoch of a number, counted from 0.
            parts: what changes from step to step, by name: modules and optimisers.
            feed: where the steps' batches come from.
            enough: whether the stage ends after these records, before its last epoch.

        Raises:
            RunError: a figure is not finite; the checkpoint of the last good epoch stays.
            RunDirectoryError: the checkpoint is damaged, or of another stage.
            Interrupted: the process was asked to stop; the checkpoint holds the last step.
        """
        self._restore(parts)
        if self.middle is None:
            self.report(len(self.records), self.epochs, "epoch")
        while len(self.records) < self.epochs and not enough(self.records):
            record = self._epoch(begin, parts, feed)
            self.report(len(self.records), self.epochs, "epoch", step=None, **_figures(record))
            if self.processes.any(interrupt.asked()):
                raise interrupt.Interrupted

    def _epoch(self, begin: Callable[[int], Epoch], parts: Mapping[str, Any], feed: Feed) -> dict[str, Any]:
        """Do one epoch, or the rest of one, and save a checkpoint.  Returns the stage's own part of its record."""
        started, before, done = time.perf_counter(), 0.0, 0
        epoch = begin(len(self.records))
        self.peak.reset()
        feed.reset()
        with seeding.seeded(self.seed, *epoch.words):
            if self.middle is not None:
                done, before = int(self.middle["steps"]), float(self.middle["seconds"])
                epoch.figures.restore(self.middle.get("figures", self.middle))  # trainings once kept them one level up
                seeding.put_back(self.middle["generators"], epoch.generators, self.device)
                self.report(len(self.records), self.epochs, "epoch", step=(done, epoch.steps))
            told = time.perf_counter()
            for step, _ in enumerate(epoch.run(done), done + 1):
                if step < epoch.steps and time.perf_counter() - told >= REPORT_SECONDS:
                    self.report(
                        len(self.records),
                        self.epochs,
                        "epoch",
                        step=(step, epoch.steps),
                        **_figures(epoch.figures.latest()),
                    )
                    told = time.perf_counter()
                if step < epoch.steps and self.processes.any(interrupt.asked()):
                    epoch.figures.check()
                    self.middle = {
                        "steps": step,
                        "seconds": before + time.perf_counter() - started,
                        "generators": seeding.states(epoch.generators, self.device),
                        "figures": epoch.figures.state(),
                    }
                    self._save(parts)
                    raise interrupt.Interrupted
        epoch.figures.check()
        record = {"epoch": len(self.records) + 1, **epoch.record()}
        seconds = before + time.perf_counter() - started
        self.seconds += seconds
        times = {"epoch_seconds": seconds, "total_seconds": self.seconds}
        self.records.append({**record, "waiting": feed.waited / seconds, **self.peak.read(), **times})
        self.middle = None
        self._save(parts)
        return record

    def _save(self, parts: Mapping[str, Any]) -> None:
        """Write the checkpoint, then the history."""
        state = {
            "seed": self.seed,
            "epochs": self.epochs,
            "processes": self.processes.size,
            **{name: part.state_dict() for name, part in parts.items()},
            "records": self.records,
            "seconds": self.seconds,
            "middle": self.middle,
        }
        self.folder.save_tensors(FILE, state)
        self.folder.rewrite_history(self.records)

    def _restore(self, parts: Mapping[str, Any]) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        state = self.folder.load_tensors(FILE)
        if state is None:
            return
        path = self.folder.path / FILE
        if isinstance(state.get("state"), dict):  # as trainings wrote it once
            state = {**state, **state["state"]}
        for name, expected in (("seed", self.seed), ("epochs", self.epochs)):
            if state.get(name, expected) != expected:
                raise RunDirectoryError(
                    f"{path} belongs to another {self.kind}: its {name} is {state[name]}, here {expected}; "
                    f"delete that folder to do the {self.kind} again, or choose another run directory"
                )
        if state.get("processes") != self.processes.size:
            raise RunDirectoryError(other_processes(path, state.get("processes"), self.processes))
        try:
            # loading copies values into the tensors that are there, and refuses what does not fit
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.records, self.seconds = list(state["records"]), float(state["seconds"])
            self.middle = state["middle"]
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as fault:
            why = f"it is not a checkpoint of this {self.kind}, or does not fit it: {first_line(fault)}"
            raise RunDirectoryError(damaged(path, why)) from fault
        self.folder.rewrite_history(self.records)


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record by name; those of a mapping have its name before a slash."""
    figures: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            figures |= {f"{name}/{key}": number for key, number in _figures(value).items()}
        elif isinstance(value, int | float) and name not in TOLD_APART:
            figures[name] = value
    return figures


def sum_gradients(parameters: Iterable[nn.Parameter], figures: Tensor, processes: Processes) -> Tensor:
    """Make the gradients those of the whole batch, of which each process computed its share; likewise the figures.

    A weight that no loss depends on has no gradient, here as in any other process.
    """
    if processes.size == 1:
        return figures
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    *sums, figures = processes.sum([*gradients, figures])
    for gradient, total in zip(gradients, sums, strict=True):
        # in place: fused optimisers take for granted that a gradient lies in memory as its parameter does
        gradient.copy_(total)
    return figures
