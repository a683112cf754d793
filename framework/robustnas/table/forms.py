"""The forms of the table: JSON, Markdown, CSV and the terminal; best value marked, notes underneath.

LaTeX and HTML have files of their own.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from robustnas.runtime import printable, terminal
from robustnas.table.columns import Printed, of_csv_alone, of_table
from robustnas.table.comparisons import REFERENCE, marked, of_column
from robustnas.table.grids import Body, below, cells, leading, split
from robustnas.table.html import html
from robustnas.table.latex import latex
from robustnas.table.lines import PUBLISHED, under
from robustnas.table.rows import Comparison, name

SCHEMA = 2

LEAST_WIDTH = 80
"""At which titles are broken where stdout is no terminal, unless a table is wider."""


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
        "rows": _rows(comparison),
        "marked": [{"column": list(column.keys), "methods": methods} for column, methods in _marks(comparison)],
        "comparisons": comparison.comparisons,
        **({"published": _published(comparison)} if comparison.published else {}),
    }


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Give the rows as plain data; of chosen columns alone where some were chosen."""
    if comparison.shown is None:
        return comparison.rows
    rows = []
    for r in comparison.rows:
        kept: dict[str, Any] = {key: r[key] for key in ("run", "method", "seeds", "flags") if key in r}
        for column in of_table(comparison):
            first, *inner = column.keys
            kept[first] = {**kept.get(first, {}), inner[0]: column.pick(r)} if inner else column.pick(r)
        rows.append(kept)
    return rows


def _published(comparison: Comparison) -> list[dict[str, Any]]:
    """Give what others report as plain data, in the units of the rows."""
    return [
        {
            "method": one.name,
            "source": one.source,
            "figures": [
                {"column": list(column.keys), "value": value}
                for column in of_table(comparison)
                if (value := column.reported(one.figures)) is not None
            ],
        }
        for one in comparison.published
    ]


def _marks(comparison: Comparison) -> list[tuple[Printed, list[str]]]:
    """List the rows that carry each column's mark, in their order; not of time, which is the machine's."""
    names = [name(r) for r in comparison.rows]
    found = [
        (column, marked(comparison, column)) for column in of_table(comparison) if column.keys != ("search_seconds",)
    ]
    return [(column, [one for one in names if one in marks]) for column, marks in found]


def markdown(comparison: Comparison) -> str:
    """Write the table in Markdown, best values bold, notes underneath."""
    parts = [markdown_table(*cells(comparison))]
    parts += ["\n".join(f"- {printable.paragraph(note)}" for note in under(comparison))]
    for title, titles, body in below(comparison):
        parts += [printable.paragraph(title), markdown_table(titles, body)]
    return "\n\n".join(parts) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Write the table as CSV, unrounded: a mean and a std column a figure, and where training seeds are below search
    seeds a std within these; empty where not measured; where there are pairs enough differences from the first
    row; last in which columns a row carries the mark."""
    heads, lines = _flat(comparison)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(printable.cell, heads))
    names = len(comparison.names)
    for line in lines:
        writer.writerow([*map(printable.cell, line[:names]), *("" if one is None else one for one in line[names:])])
    return out.getvalue()


def records(comparison: Comparison) -> list[dict[str, Any]]:
    """Give what `csv_text` writes as plain data, a record a row; None where nothing was measured."""
    heads, lines = _flat(comparison)
    return [dict(zip(heads, line, strict=True)) for line in lines]


def _flat(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """Make the names of the columns of CSV, and the values of each row."""
    columns = [*of_table(comparison), *of_csv_alone(comparison)]
    nested = any(isinstance(r["seeds"], dict) for r in comparison.rows)
    wanted = ("mean", "std", "std_within") if nested else ("mean", "std")
    marks = [(printable.cell(_name(column)), names) for column, names in _marks(comparison)]
    families = {_name(column): of_column(comparison, column, REFERENCE) for column in of_table(comparison)}
    gaps = {title: some for title, some in families.items() if any(one["interval"] for one in some.values())}
    names = comparison.names
    lines = []
    for r in comparison.rows:
        seeds = r["seeds"]
        text = "; ".join(f"{k} {' '.join(map(str, v))}" for k, v in seeds.items()) if isinstance(seeds, dict) else None
        figures = [(column.pick(r) or {}).get(what) for column in columns for what in wanted]
        lines.append([*(str(r[key]) for key in names), text or " ".join(map(str, seeds)), *figures])
        for family in gaps.values():
            one = family.get(name(r)) or {}
            lines[-1] += [one.get("difference"), *(one.get("interval") or (None, None)), one.get("p_holm")]
        lines[-1].append("; ".join(title for title, whose in marks if name(r) in whose))
    heads = [_head(column, what) for column in columns for what in wanted]
    tested = [f"{title}_{what}" for title in gaps for what in ("difference", "low", "high", "p_holm")]
    for other in comparison.published:
        values = [column.reported(other.figures) if what == "mean" else None for column in columns for what in wanted]
        lines.append(
            [*[None] * (len(names) - 1), f"{other.name} {PUBLISHED}", None, *values, *[None] * len(tested), ""]
        )
    return [*names, "seeds", *heads, *tested, "marked"], lines


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


def laid_out(titles: list[str], body: Body, width: int | None) -> list[RichTable]:
    """Lay out a table of titles and cells, as `render` says."""
    everything = list(range(leading(titles), len(titles)))
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


def _grid(titles: list[str], body: Body, chosen: list[int], *, compact: bool) -> RichTable:
    """Lay out the names and the chosen columns."""
    names = range(leading(titles))

    def cell(text: str, best: bool) -> terminal.Cell:
        text = re.sub(r" (?=[±(\[])", "\n", text) if compact else text
        return ("*".join(split(text)), "bold") if best else text

    heads = [titles[index].replace(" ", "\n") if compact else titles[index] for index in (*names, *chosen)]
    rows = [[*(line[index][0] for index in names), *(cell(*line[index]) for index in chosen)] for line in body]
    return terminal.table(heads, rows, right=range(len(names), len(heads)), broken=names)


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table, its notes and its matrices; where stdout is no terminal, as wide as the table is."""
    console = console or Console()
    width = console.width if console.is_terminal else None
    tables = render(comparison, width)
    further = [(title, laid_out(titles, body, width)) for title, titles, body in below(comparison)]
    if not console.is_terminal:
        every = [*tables, *(table for _, some in further for table in some)]
        console = Console(file=console.file, width=max(LEAST_WIDTH, *map(terminal.full_width, every)))
    terminal.say(console, comparison.heading, wrap=True)
    for table in tables:
        terminal.show(table, console)
    for note in (*under(comparison), *filter(None, [comparison.kept])):
        terminal.say(console, f"- {printable.line(note)}", wrap=console.is_terminal)
    for title, tables in further:
        terminal.say(console, f"\n{title}", wrap=True)
        for table in tables:
            terminal.show(table, console)


def markdown_table(titles: Sequence[str], body: Sequence[Sequence[tuple[str, bool]]]) -> str:
    """Write a table in Markdown: titles, and cells (text, is marked as best)."""
    names = leading(titles)
    lines = [_markdown_line(titles), "|" + "|".join(["---"] * names + ["---:"] * (len(titles) - names)) + "|"]
    lines += [_markdown_line([text for text, _ in line], [best for _, best in line]) for line in body]
    return "\n".join(lines)


def _markdown_line(texts: Sequence[str], best: Sequence[bool] = ()) -> str:
    """Write a line of a table in Markdown, the best of its cells bold."""
    marks = ["**" if mark else "" for mark in best or [False] * len(texts)]
    shown = [f"{mark}{printable.markdown(text)}{mark}" for text, mark in zip(texts, marks, strict=True)]
    return "|" + "|".join(f" {text} " if text else " " for text in shown) + "|"


def plain(comparison: Comparison) -> str:
    """Write what the terminal shows as plain text."""
    out = io.StringIO()
    show(comparison, Console(file=out, force_terminal=False))
    return out.getvalue()


FORMS: dict[str, Callable[[Comparison], str]] = {
    "rich": plain,
    "markdown": markdown,
    "latex": latex,
    "csv": csv_text,
    "json": lambda comparison: f"{printable.json_text(json_data(comparison), 1)}\n",
    "html": html,
}
"""What writes the table as a text, by the name of the form."""

ENDINGS = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}
"""The form that a file's name asks for."""
