"""A tracker: figures of a run as they come, a line each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas.options import option


@define
class Example:
    """Writes `figures.csv`: stage, unit, where it counts to, figure, value."""

    digits: int = option(6, "significant digits", at_least=1)
    _file: Path | None = field(default=None, init=False)

    contract = 1

    def start(self, run: TrackedRun) -> None:
        """A run begins, or goes on: then the file is there, and lines are added."""
        self._file = run.folder / "figures.csv"

    def begin(self, stage: TrackedStage) -> None:
        """A stage begins; others may be under way."""
        self._write([[stage.title, "begins", "", "", ""]])

    def log(self, stage: TrackedStage, unit: str, at: int, figures: Mapping[str, float]) -> None:
        """`unit` is `epoch` (means), `step` (some, counted over all epochs), `image` and the like."""
        self._write([stage.title, unit, at, name, f"{value:.{self.digits}g}"] for name, value in figures.items())

    def finish(self, stage: TrackedStage, result: Mapping[str, Any] | None) -> None:
        """`result` is what the stage's `result.json` holds, None where it failed."""
        self._write([[stage.title, "failed" if result is None else "done", "", "", ""]])

    def end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """`rows` are those of `table.json`, in which a figure that was not measured is None."""
        self._write([row["method"], "table", "", "clean", (row.get("clean") or {}).get("mean")] for row in rows)

    def _write(self, lines: Iterable[Sequence[Any]]) -> None:
        assert self._file is not None
        with self._file.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
