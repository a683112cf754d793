"""The one way out to the terminal: every text is shown as it is, no character of it acts, and none of it is markup."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from robustnas.runtime import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Cell = str | tuple[str, str]
"""A text, or a text and its style."""


def tell(text: str, *, error: bool = False) -> None:
    """Print lines on stdout, or on stderr."""
    print(printable.lines(text), file=sys.stderr if error else sys.stdout, flush=error)


def write(text: str) -> None:
    """Print a result as it would be written to a file; its writer has seen to its characters."""
    sys.stdout.write(text)


def say(console: Console, text: str, style: str | None = None, *, wrap: bool = False) -> None:
    """Print lines on a console; a long one is broken by the terminal, or by us where it is to `wrap`."""
    console.print(printable.lines(text), style=style, markup=False, highlight=False, emoji=False, soft_wrap=not wrap)


def show(table: Table, console: Console, **how: Any) -> None:
    """Print a table."""
    console.print(table, **how)


@contextmanager
def working(text: str, quiet: bool = False) -> Iterator[None]:
    """Show on stderr, where it is a terminal, that something is under way."""
    from rich.console import Console

    with Console(stderr=True, quiet=quiet).status(_text(text)):
        yield


def table(
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    right: Collection[int] = (),
    broken: Collection[int] = (),
    framed: bool = True,
    padding: tuple[int, int, int, int] = (0, 1, 0, 1),
    title: str | None = None,
) -> Table:
    """Lay out a table for a terminal.

    Args:
        titles: of the columns; an end of a line stays one.
        rows: of cells, in which it does so too.
        right: columns that are aligned to the right.
        broken: columns whose cells go on in another line where the terminal is narrow.
        framed: with a line under the titles.
        padding: around each cell, as rich has it.
        title: above the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD if framed else None, padding=padding, title=title, title_justify="left")
    for place, head in enumerate(titles):
        wraps = place in broken
        made.add_column(
            _text(head),
            justify="right" if place in right else "left",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    for row in rows:
        made.add_row(*map(_text, row))
    return made


def _text(cell: Cell) -> Any:
    from rich.text import Text

    text, style = (cell, "") if isinstance(cell, str) else cell
    return Text(printable.lines(text), style=style)


def full_width(made: Table) -> int:
    """Columns that a table needs on one line a row."""
    from rich.console import Console

    return Console(width=10_000).measure(made).maximum
