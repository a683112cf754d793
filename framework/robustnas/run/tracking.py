"""Tells trackers of a run: here, whichever process does a stage, and one thing after the other.

Workers send what they report through their pipes in any case, so there is one writer, whatever `--jobs`; a tracker that
raises is left out from then on, and the run goes on.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import Factory, define

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas.plan import Stage
from robustnas.recipe.noting import Noting
from robustnas.recipe.schema import Use
from robustnas.run.directory import RunDirectory
from robustnas.runtime import interrupt, seeding, terminal
from robustnas.runtime.artifacts import real_folder, write_text
from robustnas.runtime.strangers import traced, unchanged

FOLDER = "trackers"
"""The folder of the run directory in which each tracker has one of its own."""

OBEYS = {
    "search": ("search_space", "search", "metric", "strategy"),
    "supernet": ("search_space", "search"),
    "candidate": ("search_space", "train", "best_of"),
    "choose": ("best_of",),
    "train": ("search_space", "train"),
    "clean": ("evaluate",),
    "probe": ("evaluate",),
    "certify": ("certify",),
    "attack": ("evaluate",),
    "smooth": ("smoothing",),
    "score": ("rank",),
}
"""The keys of a recipe that each kind of stage obeys, beside dataset and threat."""


def check(trackers: Sequence[Use], note: Noting) -> None:
    """Ask each tracker that can tell whether it will start."""
    for place, use in enumerate(trackers):
        own = getattr(use.plugin, "check", None)
        if own is not None:
            note.attempt(own, f"trackers.{place}")


@define(eq=False)
class Tracking:
    """The trackers of one run that have not failed, by name.

    Args:
        settings: the recipe as plain data, with every default.
        rows: those of the table, once there is one.
    """

    directory: RunDirectory
    settings: Mapping[str, Any] = Factory(dict)
    trackers: dict[str, Any] = Factory(dict)
    rows: Sequence[Mapping[str, Any]] = ()

    @contextmanager
    def of(self, name: str) -> Iterator[Tracking]:
        """Start the trackers inside, and end them however that ends.

        Args:
            name: of the run.
        """
        for tracker in list(self.trackers):
            folder = self.directory.path / FOLDER / tracker
            for one in (folder.parent, folder):
                real_folder(one)
                one.mkdir(exist_ok=True)
            self._tell("start", TrackedRun(name, self.directory.path, folder, self.settings), only=tracker)
        try:
            yield self
        finally:
            self._tell("end", self.rows)

    def started(self, stage: Stage) -> None:
        """Tell that a stage is under way."""
        self._tell("begin", self._told_of(stage))

    def reported(
        self, stage: Stage, done: int, unit: str, step: tuple[int, int] | None, figures: Mapping[str, float]
    ) -> None:
        """Tell the figures that a stage reports, if any."""
        if figures:
            at = (unit, done) if step is None else ("step", done * step[1] + step[0])
            self._tell("log", self._told_of(stage), *at, figures)

    def ended(self, stage: Stage, *, done: bool) -> None:
        """Tell that a stage is done, or failed."""
        if self.trackers:
            self._tell("finish", self._told_of(stage), self.directory.folder(stage).result() if done else None)

    def _told_of(self, stage: Stage) -> TrackedStage:
        own = self.settings["methods"][stage.method]
        keys = ("dataset", "threat", *OBEYS[stage.kind])
        settings = {key: own.get(key, self.settings.get(key)) for key in keys if key in own or key in self.settings}
        if stage.column is not None:
            label = stage.column.label
            settings["attack"] = next(one for one in self.settings["attacks"] if one["label"] == label)
        return TrackedStage(stage.title, stage.folder, stage.kind, stage.method, stage.seed_text, settings)

    def _tell(self, what: str, *about: Any, only: str | None = None) -> None:
        """Call a method of every tracker, or of one; one that raises is left out from now on, and that is told."""
        for name in [only] if only else list(self.trackers):
            try:
                with unchanged(), seeding.untouched():
                    getattr(self.trackers[name], what)(*about)
            except BaseException as fault:
                if interrupt.wanted(fault):
                    raise
                del self.trackers[name]
                kept = self.directory.path / FOLDER / f"{name}-error.txt"
                write_text(kept, "".join(traceback.format_exception(fault)))
                terminal.tell(
                    f"robustnas: tracker {name} failed in {what} and is left out from now on; the run goes on: "
                    f"{traced(fault)}; the traceback is in {kept}",
                    error=True,
                )
