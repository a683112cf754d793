"""The forms of the table: JSON, Markdown, CSV and the terminal; best value marked, notes underneath."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from robustnas.runtime import printable, terminal
from robustnas.table.columns import Printed, of_csv_alone, of_table, percent
from robustnas.table.comparisons import REFERENCE, decides, marked, of_column
from robustnas.table.lines import FLAGGED, under
from robustnas.table.rows import Comparison
from robustnas.table.statistics.paired import LEVEL

SCHEMA = 2
OF_A_SEARCH = ("parameters", "match", "search_seconds")
"""Figures that all trainings of one search share."""


def cells(comparison: Comparison) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Make the titles, and for each row its cells (text, is marked as best).

    A row of a classifier that ignores its images (`robustnas.attack.review.flag.BLIND`) is not compared.
    """
    columns = of_table(comparison)
    marks = [marked(comparison, column) for column in columns]
    body: list[list[tuple[str, bool]]] = []
    for r in comparison.rows:
        name = printable.line(str(r["method"]))
        line = [(f"{name} {FLAGGED}" if r["flags"] else name, False), (_seeds(r), False)]
        for column, methods in zip(columns, marks, strict=True):
            found = column.pick(r)
            line.append(("-", False) if found is None else (_cell(column, found), r["method"] in methods))
        body.append(line)
    return ["method", "seeds", *[printable.line(column.title) for column in columns]], body


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


def differences(comparison: Comparison) -> tuple[str, list[str], list[list[tuple[str, bool]]]] | None:
    """Lay out how far each method is from the first one, with intervals; None where too few seeds give one."""
    columns = [column for column in of_table(comparison) if column.keys[0] not in ("attacks", "parameters")]
    families = {column: of_column(comparison, column, REFERENCE) for column in columns}
    shown = [column for column, family in families.items() if any(one["interval"] for one in family.values())]
    if not shown:
        return None
    reference, body = comparison.rows[0]["method"], []
    for r in comparison.rows[1:]:
        line = [(printable.line(str(r["method"])), False)]
        for column in shown:
            one = families[column].get(r["method"])
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


def json_data(comparison: Comparison) -> dict[str, Any]:
    """Give the table as plain data: what `table.json` holds (documented in docs/results.md)."""
    return {
        "schema": SCHEMA,
        "threat": comparison.threat,
        "attacks": {
            a.label: {"threat": str(a.threat), "worst_case": a.worst_case, "spared": a.spared}
            for a in comparison.attacks
        },
        "epsilons": comparison.epsilons,
        "certified_epsilons": comparison.certified_epsilons,
        "notes": comparison.notes,
        "contradictions": comparison.contradictions,
        "rows": comparison.rows,
        "comparisons": comparison.comparisons,
    }


def markdown(comparison: Comparison) -> str:
    """Write the table in Markdown, best values bold, notes underneath."""
    parts = [_markdown_table(*cells(comparison))]
    parts += ["\n".join(f"- {printable.paragraph(note)}" for note in under(comparison))]
    apart = differences(comparison)
    parts += [] if apart is None else [printable.paragraph(apart[0]), _markdown_table(*apart[1:])]
    for title, names, lines in matrices(comparison):
        body = [[(text, False) for text in (name, *line)] for name, line in lines]
        parts += [printable.paragraph(title), _markdown_table(["", *names], body)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Write the table as CSV, unrounded: a mean and a std column a figure, and where training seeds are below search
    seeds a std within these; empty where not measured."""
    columns = [*of_table(comparison), *of_csv_alone(comparison)]
    nested = any(isinstance(r["seeds"], dict) for r in comparison.rows)
    wanted = ("mean", "std", "std_within") if nested else ("mean", "std")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [_head(column, what) for column in columns for what in wanted]
    writer.writerow(map(printable.cell, ["method", "seeds", *heads]))
    for r in comparison.rows:
        seeds = r["seeds"]
        text = "; ".join(f"{k} {' '.join(map(str, v))}" for k, v in seeds.items()) if isinstance(seeds, dict) else None
        line: list[Any] = [printable.cell(str(r["method"])), text or " ".join(map(str, seeds))]
        for column in columns:
            found = column.pick(r) or {}
            line += ["" if found.get(what) is None else found[what] for what in wanted]
        writer.writerow(line)
    return out.getvalue()


def _head(column: Printed, what: str) -> str:
    """Name a column of CSV; those that depend on the machine end in seconds."""
    if column.keys == ("search_seconds",):
        return "search_seconds" if what == "mean" else f"search_{what}_seconds"
    return f"{_name(column)}_{what}"


def _name(column: Printed) -> str:
    """Write a column's title as the name of a column of CSV."""
    return column.title.removesuffix(" %").replace(" ", "_")


def comparisons_csv(comparison: Comparison) -> str:
    """Write the comparisons as CSV, a line each, unrounded; empty where there is no such figure."""
    titles = {column.keys: _name(column) for column in of_table(comparison)}
    keys = ("method", "against", "role", "difference", "low", "high", "p", "p_holm", "pairs", "mcnemar_together")
    out = io.StringIO()
    writer = csv.DictWriter(out, ("column", *keys), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in comparison.comparisons:
        low, high = one["interval"] or (None, None)
        line = {**one, "column": titles[tuple(one["column"])], "low": low, "high": high}
        writer.writerow({k: printable.cell(v) if isinstance(v, str) else v for k, v in line.items()})
    return out.getvalue()


def render(comparison: Comparison, width: int | None = None) -> list[RichTable]:
    """Lay out the table for a terminal; the best of a column carries a star.

    It is one table where that fits `width` (None: any width does).  In a narrower terminal deviations go to a second
    line; in a still narrower one columns are spread over several tables, so that no figure is ever cut.
    """
    return laid_out(*cells(comparison), width)


def laid_out(titles: list[str], body: list[list[tuple[str, bool]]], width: int | None) -> list[RichTable]:
    """Lay out a table of titles and cells, as `render` says."""
    everything = list(range(1, len(titles)))
    limit = math.inf if width is None else width
    for compact in (False, True):
        table = _grid(titles, body, everything, compact=compact)
        if terminal.full_width(table) <= limit:
            return [table]
    tables: list[RichTable] = []
    while everything:
        count = len(everything)
        while count > 1 and terminal.full_width(_grid(titles, body, everything[:count], compact=True)) > limit:
            count -= 1
        tables.append(_grid(titles, body, everything[:count], compact=True))
        everything = everything[count:]
    return tables


def _grid(titles: list[str], body: list[list[tuple[str, bool]]], chosen: list[int], *, compact: bool) -> RichTable:
    """Lay out the methods and the chosen columns."""

    def cell(text: str, best: bool) -> terminal.Cell:
        text = re.sub(r" (?=[±(\[])", "\n", text) if compact else text
        mean, space, rest = re.fullmatch(r"(\S*)(\s?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        return (f"{mean}*{space}{rest}", "bold") if best else text

    heads = [titles[index].replace(" ", "\n") if compact else titles[index] for index in (0, *chosen)]
    rows = [[line[0][0], *(cell(*line[index]) for index in chosen)] for line in body]
    return terminal.table(heads, rows, right=range(1, len(heads)))


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, its notes and its matrices; where stdout is no terminal, as wide as the table is."""
    width = console.width if console.is_terminal else None
    tables = render(comparison, width)
    if not console.is_terminal:
        console = Console(file=console.file, width=max(map(terminal.full_width, tables)))
    terminal.say(console, f"threat: {comparison.threat}", wrap=True)
    for table in tables:
        terminal.show(table, console)
    for note in (*under(comparison), *filter(None, [comparison.kept])):
        terminal.say(console, f"- {printable.line(note)}", wrap=console.is_terminal)
    apart = differences(comparison)
    if apart is not None:
        terminal.say(console, f"\n{printable.line(apart[0])}", wrap=True)
        for table in laid_out(*apart[1:], width):
            terminal.show(table, console)
    for title, names, body in matrices(comparison):
        terminal.say(console, f"\n{printable.line(title)}", wrap=True)
        heads = ["", *map(printable.line, names)]
        rows = [[printable.line(method), *line] for method, line in body]
        terminal.show(terminal.table(heads, rows, right=range(1, len(heads))), console)


Matrix = tuple[str, list[str], list[tuple[str, list[str]]]]
"""A title, the columns' names, and rows of a name and its figures."""


def matrices(comparison: Comparison) -> list[Matrix]:
    """Lay out variants by methods, in percent, for each attack that has some: who was fooled by whose images, say."""
    matrices_of_columns: list[Matrix] = []
    for column in comparison.attacks:
        shares = {str(r["method"]): r["variants"].get(column.label, []) for r in comparison.rows}
        names = dict.fromkeys(name for seeds in shares.values() for by_variant in seeds for name in by_variant or ())
        body = []
        for name in names:
            known = [[one[name] for one in seeds if one and name in one] for seeds in shares.values()]
            body.append((name, [percent(statistics.fmean(values)) if values else "-" for values in known]))
        if body:
            matrices_of_columns.append((f"{column.label}: percent right under each", list(shares), body))
    return matrices_of_columns


def _markdown_table(titles: Sequence[str], body: Sequence[Sequence[tuple[str, bool]]]) -> str:
    lines = [_markdown_line(titles), "|" + "|".join(["---"] + ["---:"] * (len(titles) - 1)) + "|"]
    lines += [_markdown_line([text for text, _ in line], [best for _, best in line]) for line in body]
    return "\n".join(lines)


def _markdown_line(texts: Sequence[str], best: Sequence[bool] = ()) -> str:
    """Write a line of a table in Markdown, the best of its cells bold."""
    marks = ["**" if mark else "" for mark in best or [False] * len(texts)]
    shown = [f"{mark}{printable.markdown(text)}{mark}" for text, mark in zip(texts, marks, strict=True)]
    return "|" + "|".join(f" {text} " if text else " " for text in shown) + "|"
