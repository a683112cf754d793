"""Shows a run at work: by a live table in a terminal, by plain lines elsewhere, and not at all when quiet.

Messages go to stderr, so that stdout holds the result alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
from rich.console import Console
from rich.live import Live
from rich.table import Table

from robustnas.plan import Stage
from robustnas.run import remaining
from robustnas.run.tracking import Tracking
from robustnas.runtime import printable, terminal
from robustnas.runtime.report import Report

PLAIN_SECONDS = 10.0
"""Outside a terminal a working stage writes a line at most this often."""


TITLES = ("method", "seed", "stage", "progress", "figures", "time left")
"""Titles of the live table's columns."""

UNSHOWN = ("lr",)
"""Figures that a person is not shown: they are known beforehand."""


@attrs.define
class _Working:
    """A stage under way."""

    stage: Stage
    began: float
    last_line: float
    done: float = 0  # units, of which the last may be done in part
    total: int = 0
    unit: str = ""
    step: tuple[int, int] | None = None
    figures: dict[str, float] = attrs.Factory(dict)
    first: tuple[float, float] | None = None  # units done at the first report, and when: a resume starts above 0
    reported: float = 0.0  # when the last report came

    @property
    def pace(self) -> float | None:
        """Seconds a unit, between the first report and the last."""
        if self.first is None or self.done <= self.first[0]:
            return None
        return (self.reported - self.first[1]) / (self.done - self.first[0])

    def time_left(self, now: float) -> float | None:
        """Seconds left at that pace; it runs down until the next unit is due."""
        if self.pace is None:
            return None
        due = min(now - self.reported, self.pace if self.done < self.total else 0.0)
        return (self.total - self.done) * self.pace - due

    def cost(self, now: float) -> remaining.Working:
        """What it tells of the cost of stages like it: epochs are those of the whole stage, images those of a part."""
        pace, left = (self.pace, self.time_left(now)) if self.unit == "epoch" else (None, None)
        return remaining.Working(self.stage, now - self.began, pace, left)

    def took(self, now: float) -> float | None:
        """Seconds that all of it would have taken; None where too little of it was done in this sitting."""
        if self.unit != "epoch" or self.first is None:
            return now - self.began
        here = self.total - self.first[0]
        return (now - self.began) * self.total / here if here >= 1 else None

    @property
    def place(self) -> str:
        """Where it is: `epoch 3/10`, or in the middle of it `epoch 3/10 step 12/40`."""
        if self.step is None:
            return f"{self.unit} {self.done:.0f}/{self.total}"
        return f"{self.unit} {int(self.done) + 1}/{self.total} step {self.step[0]}/{self.step[1]}"

    @property
    def figures_text(self) -> str:
        """The figures in words."""
        shown = {name: value for name, value in self.figures.items() if name not in UNSHOWN and "/" not in name}
        return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())


@attrs.define
class Progress:
    """Follows a run; with `quiet` it shows nothing but failures."""

    quiet: bool = False
    console: Console = attrs.Factory(lambda: Console(stderr=True))
    clock: Callable[[], float] = time.monotonic
    tracking: Tracking | None = None
    log: Callable[[Stage, str], None] = lambda stage, line: None
    _working: dict[str, _Working] = attrs.Factory(dict)
    _finished: int = 0
    _total: int = 0
    _remaining: remaining.Remaining | None = None
    _live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show the live view, if this is a terminal, for as long as the context lasts."""
        if self.quiet or not self.console.is_terminal:
            yield self
            return
        with Live(get_renderable=self._render, console=self.console, refresh_per_second=4, transient=True) as live:
            self._live = live
            try:
                yield self
            finally:
                self._live = None

    def plan(self, total: int, done_before: int, left: remaining.Remaining | None = None) -> None:
        """Take note of the number of stages in all, of those done before, and of those that are left."""
        self._total, self._finished, self._remaining = total, done_before, left
        if done_before:
            self._say(f"{done_before} of {total} stages were done before")

    def started(self, stage: Stage) -> None:
        now = self.clock()
        self._working[stage.key] = _Working(stage, now, now)
        self.log(stage, "begins")
        if self.tracking is not None:
            self.tracking.started(stage)
        if self._live is None and stage.kind in ("search", "train"):
            self._say(f"{stage.title} ...")

    def reporter(self, stage: Stage) -> Report:
        """Make the function by which a stage reports."""

        def report(done: int, total: int, unit: str, step: tuple[int, int] | None = None, **figures: float) -> None:
            working, now = self._working[stage.key], self.clock()
            working.done = done if step is None else done + step[0] / step[1]
            if working.first is None or unit != working.unit:  # another unit is another part, with a pace of its own
                working.first = (working.done, now)
            working.total, working.unit, working.step, working.figures = total, unit, step, figures
            working.reported = now
            if self.tracking is not None:
                self.tracking.reported(stage, done, unit, step, figures)
            if now - working.last_line >= PLAIN_SECONDS:
                working.last_line = now
                self.log(stage, _describe(working, now))
                if self._live is None:
                    self._say(f"{stage.title}: {_describe(working, now)}")

        return report

    def finished(self, stage: Stage) -> None:
        working = self._working.pop(stage.key)
        if self.tracking is not None:
            self.tracking.ended(stage, done=True)
        self._finished += 1
        now = self.clock()
        if self._remaining is not None:
            self._remaining.ended(stage, working.took(now))
        self.log(stage, f"done after {_duration(now - working.began)}  {working.figures_text}".rstrip())
        parts = (_duration(now - working.began), working.figures_text, self._time_left(now))
        self._say(f"[{self._finished}/{self._total}] {stage.title}: {'  '.join(filter(None, parts))}")

    def found(self, stage: Stage) -> None:
        """Show that another process did a stage."""
        self._finished += 1
        self._gone(stage)
        self._say(f"[{self._finished}/{self._total}] {stage.title}: done by another process")

    def elsewhere(self, stage: Stage, who: str) -> None:
        """Show that another process is at a stage for which this one waits."""
        self._say(f"{stage.title}: waiting for {who}, which is at it")

    def taken_over(self, stage: Stage) -> None:
        """Show that another process has taken over a stage that this one was at."""
        self._working.pop(stage.key, None)
        self.log(stage, "taken over by another process: this one showed no sign of life")
        self._say(f"{stage.title}: taken over by another process, because this one showed no sign of life for so long")

    def doing(self) -> tuple[list[dict[str, str]], str]:
        """What is being done, for whoever looks from elsewhere, and the time left; any thread may ask."""
        now, working = self.clock(), list(self._working.values())
        stages = [
            {"key": one.stage.key, "stage": one.stage.title, "place": _describe(one, now) if one.total else "starting"}
            for one in working
        ]
        return stages, self._time_left(now)

    def failed(self, stage: Stage, why: str) -> None:
        """Show that a stage failed, even when quiet."""
        if self._working.pop(stage.key, None) is not None:
            self.log(stage, f"failed: {why}")
            if self.tracking is not None:
                self.tracking.ended(stage, done=False)
        self._gone(stage)
        terminal.say(self.console, f"failed: {stage.title}: {why}", "red")

    def skipped(self, stage: Stage) -> None:
        """Show that a stage cannot be done because one that it needs failed."""
        self._gone(stage)
        self._say(f"left out: {stage.title}, which needs a stage that failed")

    def _gone(self, stage: Stage) -> None:
        if self._remaining is not None:
            self._remaining.ended(stage)

    def _time_left(self, now: float) -> str:
        """Write the time left of the whole run; empty where nothing is known of it."""
        if self._remaining is None:
            return ""
        return self._remaining.text(working.cost(now) for working in list(self._working.values()))

    def _say(self, line: str) -> None:
        if not self.quiet:
            terminal.say(self.console, line)

    def _render(self) -> Table:
        now = self.clock()
        rows = []
        for working in list(self._working.values()):
            stage = working.stage
            what = f"attack {stage.column.label}" if stage.column else stage.kind
            left = working.time_left(now)
            cells = (
                stage.method,
                stage.seed_text,
                what,
                working.place if working.total else "starting",
                working.figures_text,
                "" if left is None else _duration(left),
            )
            rows.append(tuple(map(printable.line, cells)))
        title = ", ".join(filter(None, (f"{self._finished} of {self._total} stages done", self._time_left(now))))
        # only the figures may wrap in a narrow terminal
        return terminal.table(TITLES, rows, broken=[TITLES.index("figures")], framed=False, title=title)


def _describe(working: _Working, now: float) -> str:
    left = working.time_left(now)
    parts = (working.place, working.figures_text, "" if left is None else f"{_duration(left)} left")
    return "  ".join(filter(None, parts))


def _duration(seconds: float) -> str:
    """Write seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
