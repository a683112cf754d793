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
from robustnas.runtime import printable, terminal
from robustnas.runtime.report import Report

PLAIN_SECONDS = 10.0
"""Outside a terminal a working stage writes a line at most this often."""


TITLES = ("method", "seed", "stage", "progress", "figures", "time left")
"""Titles of the live table's columns."""


@attrs.define
class _Working:
    """A stage under way."""

    stage: Stage
    began: float
    last_line: float
    done: int = 0
    total: int = 0
    unit: str = ""
    figures: dict[str, float] = attrs.Factory(dict)
    first: tuple[int, float] | None = None  # units done at the first report, and when: a resume starts above 0
    reported: float = 0.0  # when the last report came

    def time_left(self, now: float) -> float | None:
        """Seconds left at the pace between the first report and the last; it runs down until the next unit is due."""
        if self.first is None or self.done <= self.first[0]:
            return None
        pace = (self.reported - self.first[1]) / (self.done - self.first[0])
        return (self.total - self.done) * pace - min(now - self.reported, pace if self.done < self.total else 0.0)


@attrs.define
class Progress:
    """Follows a run; with `quiet` it shows nothing but failures."""

    quiet: bool = False
    console: Console = attrs.Factory(lambda: Console(stderr=True))
    clock: Callable[[], float] = time.monotonic
    _working: dict[str, _Working] = attrs.Factory(dict)
    _finished: int = 0
    _total: int = 0
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

    def plan(self, total: int, done_before: int) -> None:
        """Take note of the number of stages in all, and of those done before."""
        self._total, self._finished = total, done_before
        if done_before:
            self._say(f"{done_before} of {total} stages were done before")

    def started(self, stage: Stage) -> None:
        now = self.clock()
        self._working[stage.key] = _Working(stage, now, now)
        if self._live is None and stage.kind in ("search", "train"):
            self._say(f"{stage.title} ...")

    def reporter(self, stage: Stage) -> Report:
        """Make the function by which a stage reports."""

        def report(done: int, total: int, unit: str, **figures: float) -> None:
            working, now = self._working[stage.key], self.clock()
            if working.first is None or unit != working.unit:  # another unit is another part, with a pace of its own
                working.first = (done, now)
            working.done, working.total, working.unit, working.figures = done, total, unit, figures
            working.reported = now
            if self._live is None and now - working.last_line >= PLAIN_SECONDS:
                working.last_line = now
                self._say(f"{stage.title}: {_describe(working, now)}")

        return report

    def finished(self, stage: Stage) -> None:
        working = self._working.pop(stage.key)
        self._finished += 1
        now = self.clock()
        figures = "  ".join(f"{name} {value:.4g}" for name, value in working.figures.items())
        self._say(
            f"[{self._finished}/{self._total}] {stage.title}: {_duration(now - working.began)}  {figures}".rstrip()
        )

    def failed(self, stage: Stage, why: str) -> None:
        """Show that a stage failed, even when quiet."""
        self._working.pop(stage.key, None)
        terminal.say(self.console, f"failed: {stage.title}: {why}", "red")

    def skipped(self, stage: Stage) -> None:
        """Show that a stage cannot be done because one that it needs failed."""
        self._say(f"left out: {stage.title}, which needs a stage that failed")

    def _say(self, line: str) -> None:
        if not self.quiet:
            terminal.say(self.console, line)

    def _render(self) -> Table:
        now = self.clock()
        rows = []
        for working in self._working.values():
            stage = working.stage
            what = f"attack {stage.column.label}" if stage.column else stage.kind
            left = working.time_left(now)
            cells = (
                stage.method,
                stage.seed_text,
                what,
                f"{working.unit} {working.done}/{working.total}" if working.total else "starting",
                "  ".join(f"{name} {value:.4g}" for name, value in working.figures.items()),
                "" if left is None else _duration(left),
            )
            rows.append(tuple(map(printable.line, cells)))
        title = f"{self._finished} of {self._total} stages done"
        # only the figures may wrap in a narrow terminal
        return terminal.table(TITLES, rows, broken=[TITLES.index("figures")], framed=False, title=title)


def _describe(working: _Working, now: float) -> str:
    parts = [f"{working.unit} {working.done}/{working.total}"]
    parts += [f"{name} {value:.4g}" for name, value in working.figures.items()]
    left = working.time_left(now)
    if left is not None:
        parts.append(f"{_duration(left)} left")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    """Write seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
