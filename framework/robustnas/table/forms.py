"""The forms of the table: JSON, Markdown, CSV and the terminal; best value marked, notes underneath."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from robustnas.runtime import printable, terminal
from robustnas.table.columns import of_csv_alone, of_table, percent
from robustnas.table.lines import FLAGGED, under
from robustnas.table.rows import Comparison, figure

SCHEMA = 1


def cells(comparison: Comparison) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Make the titles, and for each row its cells (text, is best); ties share the mark, unless all rows tie.

    A row of a classifier that ignores its images (`robustnas.attack.review.flag.BLIND`) is not compared.
    """
    columns = of_table(comparison)
    body: list[list[tuple[str, bool]]] = []
    best: list[str | None] = []
    for column in columns:
        compared = filter(column.compared, comparison.rows)
        means = [f["mean"] for f in map(column.pick, compared) if f is not None]
        differ = len({column.write(mean) for mean in means}) > 1
        best.append(column.write(column.best(means)) if differ and column.best is not None else None)
    for r in comparison.rows:
        name = printable.line(str(r["method"]))
        line = [(f"{name} {FLAGGED}" if r["flags"] else name, False), (str(len(r["seeds"])), False)]
        for column, top_text in zip(columns, best, strict=True):
            measured_figure = column.pick(r)
            if measured_figure is None:
                line.append(("-", False))
                continue
            text = column.write(measured_figure["mean"])
            is_best = text == top_text and column.compared(r)
            if measured_figure["std"] is not None:
                text += f" ± {column.write(measured_figure['std'])}"
            count, measured = len(r["seeds"]), sum(value is not None for value in measured_figure["values"])
            if measured < count:
                text += f" ({measured} of {count} seeds)"
            line.append((text, is_best))
        body.append(line)
    return ["method", "seeds", *[printable.line(column.title) for column in columns]], body


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
    }


def markdown(comparison: Comparison) -> str:
    """Write the table in Markdown, best values bold, notes underneath."""
    titles, body = cells(comparison)
    lines = [_markdown_line(titles), "|" + "|".join(["---"] + ["---:"] * (len(titles) - 1)) + "|"]
    for line in body:
        lines.append(_markdown_line([text for text, _ in line], [best for _, best in line]))
    parts = ["\n".join([*lines, "", *(f"- {printable.paragraph(note)}" for note in under(comparison))])]
    parts += [_markdown_matrix(*one) for one in matrices(comparison)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Write the table as CSV: a mean and a std column a figure, unrounded; empty where not measured."""
    columns = [*of_table(comparison), *of_csv_alone(comparison)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["method", "seeds"]
    for column in columns:
        name = column.title.removesuffix(" %").replace(" ", "_")
        name = "search_seconds" if name == "search_s" else name
        header += (
            [f"{name}_mean", f"{name}_std"] if name != "search_seconds" else ["search_seconds", "search_std_seconds"]
        )
    writer.writerow(map(printable.cell, header))
    for r in comparison.rows:
        line: list[Any] = [printable.cell(str(r["method"])), " ".join(map(str, r["seeds"]))]
        for column in columns:
            found = column.pick(r)
            line += ["", ""] if found is None else [found["mean"], "" if found["std"] is None else found["std"]]
        writer.writerow(line)
    return out.getvalue()


def render(comparison: Comparison, width: int | None = None) -> list[RichTable]:
    """Lay out the table for a terminal; the best of a column carries a star.

    It is one table where that fits `width` (None: any width does).  In a narrower terminal deviations go to a second
    line; in a still narrower one columns are spread over several tables, so that no figure is ever cut.
    """
    titles, body = cells(comparison)
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
        text = text.replace(" ±", "\n±").replace(" (", "\n(") if compact else text
        mean, space, rest = re.fullmatch(r"(\S*)(\s?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        return (f"{mean}*{space}{rest}", "bold") if best else text

    heads = [titles[index].replace(" ", "\n") if compact else titles[index] for index in (0, *chosen)]
    rows = [[line[0][0], *(cell(*line[index]) for index in chosen)] for line in body]
    return terminal.table(heads, rows, right=range(1, len(heads)))


def show(comparison: Comparison, console: Console) -> None:
    """Print the table, its notes and its matrices; where stdout is no terminal, as wide as the table is."""
    tables = render(comparison, console.width if console.is_terminal else None)
    if not console.is_terminal:
        console = Console(file=console.file, width=max(map(terminal.full_width, tables)))
    terminal.say(console, f"threat: {comparison.threat}", wrap=True)
    for table in tables:
        terminal.show(table, console)
    for note in (*under(comparison), *filter(None, [comparison.kept])):
        terminal.say(console, f"- {printable.line(note)}", wrap=console.is_terminal)
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
            means = [figure([(by_variant or {}).get(name) for by_variant in seeds]) for seeds in shares.values()]
            body.append((name, ["-" if mean is None else percent(mean["mean"]) for mean in means]))
        if body:
            matrices_of_columns.append((f"{column.label}: percent right under each", list(shares), body))
    return matrices_of_columns


def _markdown_matrix(title: str, names: list[str], body: list[tuple[str, list[str]]]) -> str:
    lines = [printable.paragraph(title), "", _markdown_line(["", *names])]
    lines.append("|" + "|".join(["---"] + ["---:"] * len(names)) + "|")
    return "\n".join([*lines, *(_markdown_line([name, *line]) for name, line in body)])


def _markdown_line(texts: Sequence[str], best: Sequence[bool] = ()) -> str:
    """Write a line of a table in Markdown, the best of its cells bold."""
    marks = ["**" if mark else "" for mark in best or [False] * len(texts)]
    shown = [f"{mark}{printable.markdown(text)}{mark}" for text, mark in zip(texts, marks, strict=True)]
    return "|" + "|".join(f" {text} " if text else " " for text in shown) + "|"
