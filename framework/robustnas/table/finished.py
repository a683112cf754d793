"""Reads a run directory whose stages are done: its table, its records, its entry for RobustBench.

Nothing here imports torch, so that a table appears at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from attrs import define

from robustnas.errors import DiskFullError, RunDirectoryError, VerdictError
from robustnas.run import layout
from robustnas.run.directory import RunDirectory
from robustnas.runtime import terminal
from robustnas.runtime.artifacts import write_json, write_text
from robustnas.runtime.artifacts.files import regular
from robustnas.runtime.strangers import text_of
from robustnas.table import forms, results
from robustnas.table.rows import Comparison

Alone = Callable[[], AbstractContextManager[object]]
"""Makes a context in which no other process writes the directory's own files."""

RESTS = 50
"""After it was written during a run, the table rests so many times as long as that took: 2 % of the time at most."""


def rebuilt(path: Path) -> Comparison:
    """Build the table of a run directory again from the results it holds, and write it there.

    Where it cannot be written, a line on stderr says so.

    Raises:
        RunDirectoryError: it is not a run directory.
    """
    directory = opened(path)
    compared = results.comparison(directory)
    try:
        _write(directory, compared)
    except (RunDirectoryError, DiskFullError) as fault:
        tell([f"the table is shown and not written: {text_of(fault).splitlines()[0]}"])
    return compared


def records(directory: Path) -> str:
    """Write as CSV what each attack did to each image of a run: a line an image, attack, and radius or variant.

    Raises:
        RunDirectoryError: it is not a run directory.
    """
    text, without = results.records(opened(directory))
    tell(without)
    return text


def leaderboard(directory: Path, method: str, **about: Any) -> str:
    """Write a method's result in the form of RobustBench's files.

    Args:
        about: facts that the run does not know, as `robustnas.table.robustbench.entry` takes them.

    Raises:
        InputError: no such method, or no result of AutoAttack.
    """
    return results.leaderboard(opened(directory), method, about)


def write(directory: RunDirectory, alone: Alone = nullcontext, *, quiet: bool = False) -> list[dict[str, Any]]:
    """Write the table, and print it; returns the rows of its JSON form.

    Of several processes that end, the last one's table holds what all have done.

    Args:
        alone: keeps other processes from writing meanwhile.

    Raises:
        VerdictError: results contradict each other; the table is written first, without these.
    """
    compared = _anew(directory, alone)
    if not quiet:  # a reader who takes his time over a pipe keeps nobody waiting
        forms.show(compared)
    agree(compared)
    return compared.rows


def agree(compared: Comparison) -> None:
    """Require that no results contradict each other.

    Raises:
        VerdictError: some do.
    """
    if compared.contradictions:
        raise VerdictError("\n".join(compared.contradictions))


@define
class Refresh:
    """Writes the table anew while a run goes on, each time it is called and has rested long enough.

    Args:
        alone: keeps other processes from writing meanwhile.
    """

    directory: RunDirectory
    alone: Alone = nullcontext
    due: float = 0.0

    def __call__(self) -> None:
        began = time.monotonic()
        if began >= self.due:
            _anew(self.directory, self.alone)  # contradictions are told at the end
            took = time.monotonic() - began
            self.due = began + took * (1 + RESTS)


def _anew(directory: RunDirectory, alone: Alone) -> Comparison:
    """Compute the table, which may take seconds, and then write it alone."""
    before, compared = _written(directory), results.comparison(directory)
    with alone():
        if _written(directory) != before:  # whoever wrote it meanwhile may know more
            compared = results.comparison(directory)
        _write(directory, compared)
    return compared


def _written(directory: RunDirectory) -> bytes | None:
    """The table as it was last written; None where there is none."""
    with suppress(RunDirectoryError), regular(directory.path / "table.json") as file:
        return file.read()
    return None


def _write(directory: RunDirectory, compared: Comparison) -> None:
    """Write the table in its forms."""
    write_json(directory.path / "table.json", forms.json_data(compared))
    write_text(directory.path / "table.md", forms.markdown(compared))
    write_text(directory.path / "table.csv", forms.csv_text(compared))
    if compared.comparisons:
        write_text(directory.path / "comparisons.csv", forms.comparisons_csv(compared))


def tell(notes: list[str]) -> None:
    """Print notes on stderr, so that stdout holds results alone."""
    for note in notes:
        terminal.tell(f"robustnas: {note}", error=True)


def opened(path: Path) -> RunDirectory:
    """Open the run directory at a path.

    Raises:
        RunDirectoryError: it is no run directory, or something in it was changed.
    """
    if not os.path.lexists(path / "layout.json"):
        raise RunDirectoryError(
            f"{path} is not a run directory: it has no layout.json; `robustnas run RECIPE` makes one in runs/"
        )
    directory = RunDirectory(path)
    tell(directory.verify(layout.read(directory).folders(directory)))
    return directory
