"""The part of a table that somebody asks for: some of its columns, and its rows in the order of one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attrs import evolve

from robustnas.errors import InputError
from robustnas.runtime.quoted import quoted
from robustnas.runtime.suggest import did_you_mean
from robustnas.table.columns import Printed, of_table
from robustnas.table.comparisons import mean_of
from robustnas.table.rows import Comparison


def chosen(comparison: Comparison, columns: str | Sequence[str] | None = None, sort: str | None = None) -> Comparison:
    """Choose columns of a table, in the order in which they are named, and sort its rows.

    Figures, marks and tests of what is left stay as they are: each column is tested on its own.

    Args:
        columns: names, or a text with commas between them; default all.  `method` and `seeds` are always there.
        sort: the column to sort rows by, the best first, which need not be among `columns`; default their own order.

    Raises:
        InputError: the table has no such column.
    """
    every = of_table(comparison)
    if sort is not None:
        (by,) = _named(every, [sort], "--sort")
        comparison = evolve(comparison, rows=sorted(comparison.rows, key=lambda row: _place(by, row)))
    if columns is None:
        return comparison
    wanted = _named(every, columns.split(",") if isinstance(columns, str) else columns, "--columns")
    keys = list(dict.fromkeys(column.keys for column in wanted))
    norms = [norm for norm in comparison.norms if ("certified_radius", norm) in keys]
    tested = [one for one in comparison.comparisons if tuple(one["column"]) in keys]
    return evolve(comparison, shown=keys, norms=norms, comparisons=tested)


def _place(column: Printed, row: dict[str, Any]) -> tuple[int, float]:
    """Where a row stands: what is not compared comes behind, and what was not measured last."""
    if column.pick(row) is None:
        return (2, 0.0)
    mean = mean_of(column, row)
    return (0 if column.compared(row) else 1, -mean if column.best is max else mean)


def _named(every: Sequence[Printed], parts: Sequence[str], option: str) -> list[Printed]:
    """Find columns by their names; a name with a comma in it, an attack's label say, may be in several parts."""
    known: dict[str, Printed] = {}
    for column in every:
        for name in (column.name, column.title):
            known.setdefault(_fold(name), column)
    found: list[Printed] = []
    place = 0
    while place < len(parts):
        for end in range(len(parts), place, -1):
            name = _fold(",".join(parts[place:end]))
            if name in known:
                found.append(known[name])
                place = end
                break
        else:
            names = [one.name for one in every]
            word = parts[place].strip()
            raise InputError(
                f"{option}: found {quoted(word)}, a column that this table does not have; "
                f"{', '.join(names)} would do{did_you_mean(word, names)}"
            )
    return found


def _fold(name: str) -> str:
    """A name as it is compared: small letters, one blank between words, without a unit."""
    return re.sub(r"[\s_]+", " ", name).strip().casefold().removesuffix(" %")
