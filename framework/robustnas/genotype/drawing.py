"""A genotype drawn: as SVG, and as lines for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any

from robustnas.errors import InputError
from robustnas.genotype.cell_genotype import Genotype
from robustnas.genotype.cell_graph import CellGraph, graphs
from robustnas.genotype.layered_layout import Box, layout
from robustnas.runtime import printable

Drawn = Genotype | Mapping[str, Any] | str
"""A genotype: as plain data, or as scripts write it."""

COLUMNS = 80
"""Of a terminal."""

CHARACTER = 7.3
"""Width of one in pixels, at the size and in the fonts below."""

LONGEST = 24
"""Characters of a label; the text alternative has all."""

MARGIN = 8.0

FONT = 'font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="12"'

COLOURS = {
    "skip": "#8a8a8a",
    "pool": "#c08a1e",
    "dil": "#8a5fc0",
    "conv": "#2f7fc1",
}
"""Colours of operations by a part of their names; a page sets others as `--robustnas-NAME`.  Each is seen on light and
on dark, and says nothing that the label does not."""

OTHER = "#3b9a6a"

FILE_STYLE = (
    "<style>svg { color: #1c1c1c; background: #fff; } "
    "@media (prefers-color-scheme: dark) { svg { color: #ececec; background: #181818; } }</style>"
)

ASCII = str.maketrans("●│─┼▶", "o|-+>")


def cells(genotype: Drawn) -> tuple[str, ...]:
    """The names of the cells that a genotype has, as `robustnas.genotype.cell_graph.graphs` has them.

    Raises:
        InputError: it is of neither form, and cannot be drawn.
    """
    return tuple(graphs(genotype))


def svg(genotype: Drawn, cell: str | None = None) -> str:
    """Draw a cell as an SVG element, to stand in a page: its lines and texts have the colour of the text around.

    Args:
        cell: one of `cells`; None: all of them, one below the other.

    Raises:
        InputError: there is no such cell, or the genotype is of no form that can be drawn.
    """
    found = graphs(genotype)
    if cell is not None and cell not in found:
        raise InputError(f"the genotype has no cell {cell!r}; it has {', '.join(found)}")
    if cell is None and len(found) > 1:
        return _below_each_other({_heading(name): (name, graph) for name, graph in found.items()}, "Cells")
    name = cell or next(iter(found))
    return _drawn(name, found[name])[0]


def svg_file(genotypes: Mapping[str, Drawn]) -> str:
    """Draw all cells of genotypes as one SVG file, on a background of its own, light or dark as its reader likes it.

    Args:
        genotypes: by what is to be called what.

    Raises:
        InputError: one is of no form that can be drawn.
    """
    found = {
        f"{title}: {_heading(name)}": (name, graph)
        for title, genotype in genotypes.items()
        for name, graph in graphs(genotype).items()
    }
    return _below_each_other(found, f"Cells of {', '.join(genotypes)}", FILE_STYLE) + "\n"


def text(genotype: Drawn, *, columns: int = COLUMNS, plain: bool = False) -> str:
    """Draw the cells for a terminal: a column a state, a line an edge, from the state it leaves to the one it enters.

    A cell too wide for that has a formula a node.

    Args:
        columns: of the terminal.
        plain: with characters of ASCII alone.

    Raises:
        InputError: the genotype is of no form that can be drawn.
    """
    parts = []
    for name, graph in graphs(genotype).items():
        lines = _columns(graph)
        if max(map(len, lines)) > columns:
            lines = [
                part for one in graph.formulas() for part in textwrap.wrap(one, columns - 2, subsequent_indent="  ")
            ]
        parts.append("\n".join([_heading(name), *(f"  {line}" for line in lines)]))
    drawn = printable.lines("\n\n".join(parts)) + "\n"
    return drawn.translate(ASCII).encode("ascii", "backslashreplace").decode() if plain else drawn


def _heading(name: str) -> str:
    return name if name.split()[0] == "cell" else f"{name} cell"


def _columns(graph: CellGraph) -> list[str]:
    """A line an edge below the names of the states."""
    edges = [edge for edge in graph.edges if edge[2]]
    ops = max((len(op) for _, _, op in edges), default=0)
    states = graph.states[:-1] if graph.joined else graph.states
    starts, left = [], ops
    for state in states:
        starts.append(left + 2 + len(state) // 2)
        left += 2 + max(len(state), 3)
    names = [" "] * left
    for state, start in zip(states, starts, strict=True):
        names[start - len(state) // 2 : start - len(state) // 2 + len(state)] = state
    lines = ["".join(names).rstrip()]
    begun = set(range(graph.inputs))
    for source, target, op in edges:
        begun |= {source, target}
        line = [*op.ljust(left)]
        for number, start in enumerate(starts):
            if number in begun:
                line[start] = "│"
        for place in range(starts[source] + 1, starts[target]):
            line[place] = "┼" if line[place] == "│" else "─"
        line[starts[source]], line[starts[target] - 1] = "●", "▶"
        lines.append("".join(line).rstrip())
    if graph.joined:
        lines.append(f"{graph.states[-1]}: {', '.join(graph.joined)} concatenated")
    if graph.absent:
        lines.append(_absent(graph))
    return lines


def _absent(graph: CellGraph) -> str:
    return f"{graph.absent} {'edge has' if graph.absent == 1 else 'edges have'} no operation (none)"


def _below_each_other(found: Mapping[str, tuple[str, CellGraph]], title: str, style: str = "") -> str:
    """All cells in one element, each below its heading."""
    parts, top, width = list[str](), 0.0, 0.0
    for heading, (name, graph) in found.items():
        drawn, wide, high = _drawn(name, graph, top + 22)
        parts += [f'<text x="{MARGIN:g}" y="{top + 16:g}" font-weight="bold">{_safe(heading)}</text>', drawn]
        top, width = top + 22 + high + 10, max(width, wide, len(heading) * CHARACTER + 2 * MARGIN)
    about = "; ".join(_about(heading, graph) for heading, (_, graph) in found.items())
    return _element(width, top, title, about, [style, *parts])


def _element(width: float, height: float, title: str, about: str, parts: list[str], y: float = 0.0) -> str:
    size = f'y="{y:g}" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {FONT}'
    words = [f"<title>{_safe(title)}</title>", f"<desc>{_safe(about)}</desc>"]
    return "\n".join([f'{head} fill="currentColor" stroke="none">', *words, *filter(None, parts), "</svg>"])


def _safe(words: str) -> str:
    return escape(printable.line(words))


def _about(heading: str, graph: CellGraph) -> str:
    """The text alternative of a cell."""
    absent = [_absent(graph)] if graph.absent else []
    return f"{heading}: {'; '.join([*graph.formulas(), *absent])}"


def _drawn(name: str, graph: CellGraph, top: float = 0.0) -> tuple[str, float, float]:
    """Draw a cell; its element, width and height in pixels."""
    labels = [printable.line(op) for _, _, op in graph.edges]
    labels = [op if len(op) <= LONGEST else f"{op[: LONGEST - 1]}…" for op in labels]
    shown = [re.sub("[_{}]", "", state) for state in graph.states]
    placed = layout(
        graph.inputs,
        [(max(28.0, len(state) * CHARACTER + 14), 28.0) for state in shown],
        [(source, target) for source, target, _ in graph.edges],
        [(len(label) * CHARACTER + 12, 20.0) if label else (0.0, 0.0) for label in labels],
    )
    parts = []
    for (source, target, op), label, route in zip(graph.edges, labels, placed.routes, strict=True):
        parts.append(_line(placed.states[source], route, placed.states[target], joins=not op))
        if label:
            colour = next(
                (f"var(--robustnas-{part}, {colour})" for part, colour in COLOURS.items() if part in op), OTHER
            )
            parts.append(_pill(route[-1], colour, 'rx="10"') + _centred(route[-1], escape(label)))
    for index, (state, box) in enumerate(zip(graph.states, placed.states, strict=True)):
        corners = 'rx="4"' if index < graph.inputs or index == len(shown) - 1 else 'rx="14"'
        parts.append(_pill(box, "currentColor", corners) + _centred(box, _subscript(state)))
    moved = [f'<g transform="translate({MARGIN:g} {MARGIN:g})">', *parts, "</g>"]
    width, height = placed.width + 2 * MARGIN, placed.height + 2 * MARGIN
    return _element(width, height, _heading(name), _about(_heading(name), graph), moved, top), width, height


def _line(source: Box, route: list[Box], target: Box, *, joins: bool) -> str:
    """The line of an edge, level inside layers and bent between them, with a gap for its label and an arrow."""
    path, x, y = [f"M{source.x + source.width / 2:.1f} {source.y:.1f}H{source.right:.1f}"], source.right, source.y
    for box in [*route, target]:
        middle = (x + box.left) / 2
        path.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {box.y:.1f} {box.left:.1f} {box.y:.1f}")
        if box.width and box is not target:
            half = box.width / 2
            path.append(f"H{box.x - half:.1f}M{box.x + half:.1f} {box.y:.1f}")
        if box is not target:
            path.append(f"H{box.right:.1f}")
        x, y = box.right, box.y
    tip = target.x - target.width / 2
    path.append(f"H{tip:.1f}")
    lines = f'<path d="{"".join(path)}" fill="none" stroke="currentColor" stroke-opacity="{0.4 if joins else 0.8}"/>'
    return f'{lines}<path d="M{tip:.1f} {y:.1f}l-7 -3.5v7z"/>'


def _pill(box: Box, colour: str, corners: str) -> str:
    """A box with round corners, filled with a breath of its colour."""
    place = f'x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}"'
    size = f'width="{box.width:.1f}" height="{box.height:.1f}" {corners}'
    return f'<rect {place} {size} style="fill:{colour};stroke:{colour}" fill-opacity="0.14"/>'


def _centred(box: Box, words: str) -> str:
    return f'<text x="{box.x:.1f}" y="{box.y + 4:.1f}" text-anchor="middle">{words}</text>'


def _subscript(state: str) -> str:
    """The name of a state, `c_{k-2}` with its index below."""
    name, _, index = state.partition("_")
    return f'{name}<tspan dy="3" font-size="10">{index.strip("{}")}</tspan>' if index else name
