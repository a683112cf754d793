"""The parts of the page that are about one run, each as a piece of HTML."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from attrs import frozen

from robustnas.runtime import printable
from robustnas.table import html
from robustnas.table.grids import Grid, below
from robustnas.table.grids import cells as cells_of
from robustnas.table.lines import contradicted, questions, under
from robustnas.table.report import cells, curves, pictures
from robustnas.table.report.charts import Drawing, HeatMap
from robustnas.table.report.contents import Contents
from robustnas.table.report.heat import heat
from robustnas.table.report.svg import safe, svg
from robustnas.table.rows import Comparison


@frozen
class Section:
    """A part of the page with a heading.

    Args:
        ident: by which a link finds it.
        title: its heading.
        body: HTML.
    """

    ident: str
    title: str
    body: str


def of_run(contents: Contents, number: int) -> Iterator[Section]:
    """Make the sections of a run.

    Args:
        number: of the run in the report, which is in all identifiers.
    """
    parts = {
        "table": ("Table", _table(contents)),
        "warnings": ("Warnings and remarks", _warnings(contents)),
        "accuracy": ("Accuracy", _figures(contents.accuracy, f"a{number}")),
        "search": ("Searches", _figures(contents.search, f"s{number}")),
        "alpha": ("Alpha over epochs", _maps(contents, f"m{number}")),
        "cells": ("Cells", _by_method(contents, _cells)),
        "examples": ("Adversarial examples", _examples(contents, f"e{number}")),
        "again": ("Recipe, versions, commands", _again(contents)),
    }
    for name, (title, body) in parts.items():
        yield Section(f"{name}-{number}", title, body)


LONG = 16
"""A table below the first with more rows is folded up."""


def table(grid: Grid) -> str:
    """Write a table that scrolls in a box of its own where the page is narrow."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{safe(grid[0])}">\n{html.grid(*grid)}</div>\n'


def _folded(grid: Grid) -> str:
    """Write a table; a long one is shown when it is asked for."""
    title, _, body = grid
    return f"<details><summary>{safe(title)}</summary>\n{table(grid)}</details>" if len(body) > LONG else table(grid)


def notes(lines: Sequence[str], kind: str = "notes") -> str:
    """Write lines as a list."""
    return f'<ul class="{kind}">\n' + "".join(f"<li>{safe(line)}</li>\n" for line in lines) + "</ul>\n"


def of_runs(comparison: Comparison) -> Section:
    """Make the section on all runs of a report: their table, and where these compare, clean against robust accuracy."""
    trade = [] if "robust" in comparison.apart else list(curves.trade(comparison))
    return Section("runs", "All runs", _grids(comparison, set()) + (_figures(trade, "r") if trade else ""))


def _table(contents: Contents) -> str:
    """Write the table of a run, without the lines that stand in a section of their own."""
    return _grids(contents.comparison, {*_remarks(contents), *_flags(contents)})


def _grids(comparison: Comparison, apart: set[str]) -> str:
    """Write a table, what its figures mean, and the tables below it.

    Args:
        apart: lines that are left out.
    """
    first = table((comparison.heading, *cells_of(comparison)))
    lines = notes([line for line in under(comparison) if line not in apart])
    return "".join([first, lines, *map(_folded, below(comparison))])


def _flags(contents: Contents) -> list[str]:
    """List what contradicts itself, and what a reviewer would object to."""
    return [*questions(contents.comparison), *contradicted(contents.comparison)]


def _remarks(contents: Contents) -> list[str]:
    """List what was found in this run beside figures: what is missing, which searches were one-sided, and the like."""
    return [line for line in contents.comparison.notes if line not in contents.shown.notes]


def _warnings(contents: Contents) -> str:
    """List flags and remarks, and what else lies in the directory."""
    flags = _flags(contents)
    remarks = [*_remarks(contents), *filter(None, [contents.comparison.kept])]
    return (notes(flags, "warnings") if flags else "<p>Nothing was flagged.</p>\n") + notes(remarks)


def _figures(drawings: Sequence[Drawing], ident: str) -> str:
    """Write drawings beside each other."""
    if not drawings:
        return "<p>Nothing of this was measured yet.</p>"
    figures = "".join(_figure(one, f"{ident}-{at}") for at, one in enumerate(drawings))
    return f'<div class="figures">\n{figures}</div>'


def _figure(drawing: Drawing, ident: str) -> str:
    """Write a drawing with its title and a note."""
    drawn = heat(drawing, ident) if isinstance(drawing, HeatMap) else svg(drawing, ident)
    note = f"<p>{safe(drawing.note)}</p>\n" if drawing.note else ""
    return f"<figure>\n<figcaption>{safe(drawing.title)}</figcaption>\n{drawn}\n{note}</figure>\n"


def _maps(contents: Contents, ident: str) -> str:
    """Write the heat maps of all methods."""
    maps = [one for some in contents.maps.values() for one in some]
    if not maps:
        return "<p>No search of this run has moved alpha yet.</p>"
    words = "Of each method's first search: the share of each operation on an edge, from epoch to epoch."
    return f"<p>{words}</p>\n{_figures(maps, ident)}"


def _by_method(contents: Contents, write: Any) -> str:
    """Write a part for each method, below its name."""
    return "".join(f"<h3>{safe(method)}</h3>\n{write(contents, method)}\n" for method in contents.shown.methods)


def _cells(contents: Contents, method: str) -> str:
    return "\n".join(cells.of_method(contents.run, contents.shown, method, contents.recipe))


def _examples(contents: Contents, ident: str) -> str:
    numbers = {method: number for number, method in enumerate(contents.shown.methods)}

    def write(contents: Contents, method: str) -> str:
        return "\n".join(pictures.of_method(contents.run, contents.shown, method, f"{ident}-{numbers[method]}"))

    return _by_method(contents, write)


def _again(contents: Contents) -> str:
    """Write what it takes to do the run again: commands, versions and the recipe."""
    folder = str(contents.run.path)
    recipe = str(contents.run.path / "recipe.yaml")
    commands = [
        ("do it all again, elsewhere", ["robustnas", "run", recipe, "--out", f"{folder}-again"]),
        ("go on where it stopped, if anything is left", ["robustnas", "run", recipe, "--out", folder]),
        ("the table", ["robustnas", "table", folder]),
        ("what each attack did to each image", ["robustnas", "records", folder]),
        ("this report", ["robustnas", "report", folder]),
    ]
    typed = "\n".join(f"{shlex.join(words)}  # {about}" for about, words in commands)
    rows = "".join(
        f'<tr><th scope="row">{safe(key)}</th><td>{safe(value)}</td></tr>\n'
        for key, value in versions(contents.provenance)
    )
    made = '<table class="wrap"><caption>What made the results</caption>\n<tbody>\n' + rows + "</tbody></table>\n"
    text = escape(printable.lines(contents.text))
    return (
        f"<pre>{escape(printable.lines(typed))}</pre>\n{made}<details><summary>The recipe as it was run, every default "
        f"filled in</summary>\n<pre>{text}</pre></details>\n"
    )


def versions(provenance: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """List each key of the provenance with its values, of several how many stages have each; of times the span."""
    for key in dict.fromkeys(key for one in provenance for key in one):
        values = [str(one[key]) for one in provenance if one.get(key) is not None]
        counts = {value: values.count(value) for value in dict.fromkeys(values)}
        if key == "finished":
            yield key, f"{min(values)} to {max(values)} ({len(values)} stages)"
        elif len(counts) == 1:
            yield key, values[0]
        elif counts:
            yield key, ", ".join(f"{value} ({count} stages)" for value, count in counts.items())
