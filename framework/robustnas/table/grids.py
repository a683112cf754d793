"""What every form shows, as texts: the table itself, and the grids below it.

A grid has a title, the titles of its columns, and rows of cells (text, is marked).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any

from robustnas.runtime import printable
from robustnas.table.columns import Printed, of_table, percent
from robustnas.table.comparisons import REFERENCE, decides, marked, of_column
from robustnas.table.lines import FLAGGED, PUBLISHED
from robustnas.table.rows import Comparison, name
from robustnas.table.statistics.paired import LEVEL

Body = list[list[tuple[str, bool]]]
Grid = tuple[str, list[str], Body]
"""A title, the titles of the columns, and rows."""

OF_A_SEARCH = ("parameters", "match", "search_seconds")
"""Figures that all trainings of one search share."""


def cells(comparison: Comparison) -> tuple[list[str], Body]:
    """Make the titles, and for each row its cells (text, is marked as best).

    A row of a classifier that ignores its images (`robustnas.attack.review.flag.BLIND`) is not compared.
    """
    columns = of_table(comparison)
    marks = [marked(comparison, column) for column in columns]
    body: Body = []
    for r in comparison.rows:
        method = printable.line(str(r["method"]))
        line = [(f"{method} {FLAGGED}" if r["flags"] else method, False), (_seeds(r), False)]
        line[:0] = [(printable.line(r["run"]), False)] if "run" in r else []
        for column, methods in zip(columns, marks, strict=True):
            found = column.pick(r)
            line.append(("-", False) if found is None else (_cell(column, found), name(r) in methods))
        body.append(line)
    names = comparison.names
    for one in comparison.published:
        values = [column.reported(one.figures) for column in columns]
        texts = ["-" if value is None else column.write(value) for column, value in zip(columns, values, strict=True)]
        texts = [*["-"] * (len(names) - 1), f"{printable.line(one.name)} {PUBLISHED}", "-", *texts]
        body.append([(text, False) for text in texts])
    return [*names, "seeds", *[printable.line(column.title) for column in columns]], body


def leading(titles: Sequence[str]) -> int:
    """Count the first columns of a grid that hold names: the method's, and before it that of its run."""
    return 2 if titles[0] == "run" else 1


def _seeds(row: dict[str, Any]) -> str:
    """Write how many seeds a row has, those of searches first."""
    seeds = row["seeds"]
    return " x ".join(str(len(one)) for one in (seeds.values() if isinstance(seeds, dict) else [seeds]))


def _cell(column: Printed, found: dict[str, Any]) -> str:
    """Write a figure: its mean, the spread between searches, that between trainings, and whether some are missing."""
    within = None if column.keys[0] in OF_A_SEARCH else found["std_within"]
    spreads = [found["std"], *([] if within is None else [within])]
    text = column.write(found["mean"])
    if any(spread is not None for spread in spreads):
        text += "".join(f" ± {'-' if spread is None else column.write(spread)}" for spread in spreads)
    networks = [value for below in found["within"] for value in below]
    known = sum(value is not None for value in networks)
    return text if known == len(networks) else f"{text} ({known} of {len(networks)} seeds)"


def split(text: str) -> tuple[str, str]:
    """Split a cell into its mean, which a mark is for, and the rest: spreads, an interval, how many seeds there are."""
    mean, blank, rest = re.match(r"(\S*)(\s?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return mean, blank + rest


def differences(comparison: Comparison) -> Grid | None:
    """Lay out how far each method is from the first one, with intervals; None where too few seeds give one."""
    columns = [column for column in of_table(comparison) if column.keys[0] not in ("attacks", "parameters")]
    families = {column: of_column(comparison, column, REFERENCE) for column in columns}
    shown = [column for column, family in families.items() if any(one["interval"] for one in family.values())]
    if not shown:
        return None
    reference = next(one["against"] for one in comparison.comparisons if one["role"] == REFERENCE)
    body = []
    for r in comparison.rows:
        if name(r) == reference:
            continue
        line = [(printable.line(name(r)), False)]
        for column in shown:
            one = families[column].get(name(r))
            if one is None or one["interval"] is None:
                line.append(("-", False))
                continue
            mean, low, high = (_signed(column, value) for value in (one["difference"], *one["interval"]))
            line.append((f"{mean} ({low} to {high})", decides(families[column].values()) and one["p_holm"] <= LEVEL))
        body.append(line)
    title = f"less {reference}: mean difference over pairs of equal seeds (95 % interval); marked where p_holm <= 0.05"
    return title, ["method", *(printable.line(column.title) for column in shown)], body


def _signed(column: Printed, value: float) -> str:
    """Write a difference, with its sign."""
    return ("-" if value < 0 else "+") + column.write(abs(value))


def below(comparison: Comparison) -> list[Grid]:
    """Lay out what stands below the table: differences from the first method, and matrices of attacks' variants."""
    apart = differences(comparison)
    grids = [] if apart is None else [apart]
    for title, methods, lines in matrices(comparison):
        body = [[(printable.line(text), False) for text in (name, *line)] for name, line in lines]
        grids.append((title, ["", *map(printable.line, methods)], body))
    return [(printable.line(title), titles, body) for title, titles, body in grids]


Matrix = tuple[str, list[str], list[tuple[str, list[str]]]]
"""A title, the columns' names, and rows of a name and its figures."""


def matrices(comparison: Comparison) -> list[Matrix]:
    """Lay out variants by methods, in percent, for each attack that has some: who was fooled by whose images, say."""
    shown = {column.keys for column in of_table(comparison)}
    matrices_of_columns: list[Matrix] = []
    for column in comparison.attacks:
        if ("attacks", column.label) not in shown:
            continue
        shares = {name(r): r["variants"].get(column.label, []) for r in comparison.rows}
        variants = dict.fromkeys(one for seeds in shares.values() for by_variant in seeds for one in by_variant or ())
        body = []
        for variant in variants:
            known = [[one[variant] for one in seeds if one and variant in one] for seeds in shares.values()]
            body.append((variant, [percent(statistics.fmean(values)) if values else "-" for values in known]))
        if body:
            matrices_of_columns.append((f"{column.label}: percent right under each", list(shares), body))
    return matrices_of_columns
