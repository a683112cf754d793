"""Where results of commands go: to the terminal, or to a file that is not there yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from robustnas.errors import InputError
from robustnas.runtime import printable, terminal
from robustnas.runtime.terminal import tell, write


def given(text: str, path: Path | None) -> int:
    """Print a text, or write it to a file that is not there yet."""
    if path is None:
        write(text)
        return 0
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} is there already, and nothing is overwritten; another --output would do") from None
    except OSError as fault:
        raise InputError(f"{path}: cannot be written: {fault.strerror}; another --output would do") from None
    tell(str(path))
    return 0


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table: framed by rich in a terminal, else aligned plain text in which nothing is cut."""
    rows = [[printable.line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console

        terminal.show(terminal.table(heads, rows, broken=range(len(heads))), Console())
        return
    widths = [max(len(row[index]) for row in (heads, *rows)) for index in range(len(heads))]
    for row in (heads, *rows):
        tell("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
