"""Trackers that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from robustnas.errors import InputError
from robustnas.testing import ConformanceError, check_tracker
from support.kept_promises import wrong


@define
class Lines:
    """Writes a line for everything it is told."""

    _file: Any = field(default=None, init=False)

    def start(self, run):
        self._file = run.folder / "lines.txt"
        self._file.touch()

    def begin(self, stage):
        self._line("begin", stage.title)

    def log(self, stage, unit, at, figures):
        self._line(stage.title, unit, at, dict(figures))

    def finish(self, stage, result):
        self._line("finish", stage.title, result is not None)

    def end(self, rows):
        self._line("end", len(rows))

    def _line(self, *words):
        with self._file.open("a") as file:
            print(*words, file=file)


def refusing(self: Any) -> None:
    raise InputError("tracker lines needs the package lines")


def first_only(self: Any, run: Any) -> None:
    self._file = run.folder / "lines.txt"
    self._file.touch(exist_ok=False)


def elsewhere(self: Any, run: Any) -> None:
    Lines.start(self, run)
    (run.directory / "lines.txt").write_text("")


def overwriting(self: Any, run: Any) -> None:
    Lines.start(self, run)
    Path(run.directory / "result.json").write_text("[]")


def consuming(self: Any, run: Any) -> None:
    Lines.start(self, run)
    run.settings.pop("methods", None)


def finite(self: Any, stage: Any, unit: str, at: int, figures: Any) -> None:
    assert all(value == value for value in figures.values())


WRONG = {
    "first only": ({"start": first_only}, "start takes a run that goes on"),
    "elsewhere": ({"start": elsewhere}, "writes into its own folder"),
    "overwriting": ({"start": overwriting}, "leaves the rest as it was"),
    "consuming": ({"start": consuming}, "leaves what it is told as it was"),
    "finite": ({"log": finite}, "figures that are not finite"),
    "failing": ({"finish": lambda self, stage, result: result["notes"]}, "that a stage failed"),
    "answering": ({"check": lambda self: True}, "check returns nothing"),
    "demanding": ({"end": lambda self, rows: rows[0]}, "end takes a run without a table"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_tracker_is_caught(what: str) -> None:
    parts, promise = WRONG[what]
    with pytest.raises(ConformanceError, match=promise):
        check_tracker(wrong(Lines, **parts))


def test_one_that_keeps_its_promises_is_not_and_one_that_cannot_start_says_why() -> None:
    check_tracker(Lines)
    with pytest.raises(InputError, match="needs the package lines"):
        check_tracker(wrong(Lines, check=refusing))
