"""The forms of the table: JSON, Markdown, CSV and the terminal; best value marked, notes underneath."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import frozen
from rich.console import Console
from rich.table import Table as RichTable

from robustnas.attack.column import Column
from robustnas.attack.review.flag import BLIND, SMOOTHED
from robustnas.runtime import printable, terminal
from robustnas.table.rows import Comparison, Figure, figure
from robustnas.threat import radius_text

SCHEMA = 1
FLAGGED = "(!)"
"""The mark behind the name of a method whose figures a reviewer would question; lines under the table say why."""


@frozen
class _Printed:
    """A printed column: where its figure is in a row, how it is written, and which direction is better."""

    title: str
    keys: tuple[str, ...]
    write: Callable[[float], str]
    largest_is_best: bool = True

    def pick(self, row: dict[str, Any]) -> Figure:
        """The column's figure in a row."""
        entry: Any = row
        for key in self.keys:
            entry = entry[key]
        return cast(Figure, entry)

    def compared(self, row: dict[str, Any]) -> bool:
        """Whether the row may be marked as best: not if a seed's classifier ignores its images."""
        blind = {flag["attack"] for flag in row["flags"] if flag["name"] in BLIND}
        return None not in blind and not (self.keys[0].startswith("smoothed") and SMOOTHED in blind)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _pixels(value: float) -> str:
    """Write three significant digits, without an exponent: radii of deep networks are small."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value)))}f}" if 0 < value < 1 else f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _columns(comparison: Comparison) -> list[_Printed]:
    """List the columns of the printed table, from left to right."""
    columns = [_Printed("clean %", ("clean",), _percent)]
    columns += [_Printed(_title(attack), ("attacks", attack.label), _percent) for attack in comparison.attacks]
    if any(attack.worst_case for attack in comparison.attacks):
        columns.append(_Printed("robust %", ("robust",), _percent))
    columns += [
        _Printed(f"robust at {radius_text(e)} %", ("robust_at", f"{e:g}"), _percent) for e in comparison.epsilons
    ]
    if any(row["certified"] is not None for row in comparison.rows):
        columns.append(_Printed("certified %", ("certified",), _percent))
    columns += [
        _Printed(f"certified at {radius_text(e)} %", ("certified_at", f"{e:g}"), _percent)
        for e in comparison.certified_epsilons
    ]
    columns += [_Printed(f"radius {norm}", ("certified_radius", norm), _pixels) for norm in comparison.norms]
    if comparison.smoothing is not None:
        columns += [_Printed(f"smoothed at {e:g} %", ("smoothed", f"{e:g}"), _percent) for e in comparison.smoothing]
        columns.append(_Printed("smoothed radius l2", ("smoothed_radius",), _pixels))
    columns.append(_Printed("parameters", ("parameters",), _count, largest_is_best=False))
    columns.append(_Printed("search s", ("search_seconds",), _seconds, largest_is_best=False))
    return columns


def _title(attack: Column) -> str:
    """The title of an attack's column."""
    return f"after {attack.label} %" if attack.spared else f"{attack.label} %"


def _columns_of_all(comparison: Comparison) -> list[_Printed]:
    """List columns that are printed not in the table but as lines under it, by `radii_of_all`."""
    return [_Printed(f"radius {norm} all", ("certified_radius_all", norm), _pixels) for norm in comparison.norms]


def cells(comparison: Comparison) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Make the titles, and for each row its cells (text, is best); ties share the mark, unless all rows tie.

    A row of a classifier that ignores its images (`robustnas.attack.review.flag.BLIND`) is not compared.
    """
    columns = _columns(comparison)
    body: list[list[tuple[str, bool]]] = []
    best: list[str | None] = []
    for column in columns:
        compared = filter(column.compared, comparison.rows)
        means = [f["mean"] for f in map(column.pick, compared) if f is not None]
        differ = len({column.write(mean) for mean in means}) > 1
        best.append(column.write(max(means) if column.largest_is_best else min(means)) if differ else None)
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
    parts = ["\n".join([*lines, "", *(f"- {printable.paragraph(note)}" for note in _under(comparison))])]
    parts += [_markdown_matrix(*one) for one in matrices(comparison)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Write the table as CSV: a mean and a std column a figure, unrounded; empty where not measured."""
    columns = [*_columns(comparison), *_columns_of_all(comparison)]
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
    for note in (*_under(comparison), *filter(None, [comparison.kept])):
        terminal.say(console, f"- {printable.line(note)}", wrap=console.is_terminal)
    for title, names, body in matrices(comparison):
        terminal.say(console, f"\n{printable.line(title)}", wrap=True)
        heads = ["", *map(printable.line, names)]
        rows = [[printable.line(method), *line] for method, line in body]
        terminal.show(terminal.table(heads, rows, right=range(1, len(heads))), console)


def _under(comparison: Comparison) -> list[str]:
    """List what stands under the table, a line each."""
    return [
        *comparison.notes,
        *radii_of_all(comparison),
        *costs(comparison),
        *questions(comparison),
        *(f"left out, because results contradict each other: {text}" for text in comparison.contradictions),
    ]


def radii_of_all(comparison: Comparison) -> list[str]:
    """Write the mean certified radius that counts wrongly classified images as 0, a line a norm.

    The column's mean is over correctly classified images alone, and is large for a network that is right only on easy
    images.
    """
    lines = []
    for norm in comparison.norms:
        given = [(str(r["method"]), r["certified_radius_all"][norm]) for r in comparison.rows]
        told = ", ".join(f"{method} {_pixels(found['mean'])}" for method, found in given if found is not None)
        lines += [f"mean certified {norm} radius with 0 for the wrongly classified: {told}"] if told else []
    return lines


def costs(comparison: Comparison) -> list[str]:
    """Say what the attacks cost, in a line: model evaluations a test image, mean over the rows."""
    texts = []
    for column in comparison.attacks:
        means = [
            evaluations["mean"] for r in comparison.rows if (evaluations := r["evaluations"][column.label]) is not None
        ]
        if any(means):
            texts.append(f"{column.label} {statistics.fmean(means):,.1f}")
    return [f"model evaluations a test image: {', '.join(texts)}"] if texts else []


def questions(comparison: Comparison) -> list[str]:
    """List what a reviewer would object to, a line each: name, attack, finding, and whose."""
    findings: dict[tuple[str, str | None, str], dict[str, list[int]]] = {}
    for r in comparison.rows:
        for flag in r["flags"]:
            who = findings.setdefault((flag["name"], flag["attack"], flag["text"]), {})
            who.setdefault(str(r["method"]), []).append(flag["seed"])
    lines = []
    for (name, attack, text), methods in findings.items():
        whom = ", ".join(f"{method} ({', '.join(map(str, seeds))})" for method, seeds in methods.items())
        lines.append(f"{FLAGGED} {name}{f', {attack}' if attack else ''}: {text}; in (seeds) {whom}")
    return lines


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
            body.append((name, ["-" if mean is None else _percent(mean["mean"]) for mean in means]))
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
