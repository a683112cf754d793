"""The table in HTML: a piece of a page, which brings no style along and needs no encoding."""

from __future__ import annotations

import html as entities
from collections.abc import Iterable

from robustnas.runtime import printable
from robustnas.table.grids import Body, below, cells, leading, split
from robustnas.table.lines import under
from robustnas.table.rows import Comparison

RIGHT = ' style="text-align: right"'


def html(comparison: Comparison) -> str:
    """Write the table in HTML, best values strong, its notes in the table's foot, and further tables below it."""
    notes = list(map(escaped, under(comparison)))
    parts = [grid(comparison.heading, *cells(comparison), notes)]
    parts += [grid(*one) for one in below(comparison)]
    return "".join(parts)


def escaped(text: str) -> str:
    """Write a text that HTML shows as it is, in ASCII."""
    return entities.escape(printable.line(text)).encode("ascii", "xmlcharrefreplace").decode()


def grid(title: str, titles: list[str], body: Body, notes: Iterable[str] = ()) -> str:
    """Write one grid, whose first columns hold names, and lines on it, in HTML already."""
    names = leading(titles)
    heads = [
        f'<th scope="col"{"" if place < names else RIGHT}>{escaped(head)}</th>' for place, head in enumerate(titles)
    ]
    lines = ["<table>", f"<caption>{escaped(title)}</caption>", f"<thead><tr>{''.join(heads)}</tr></thead>", "<tbody>"]
    for line in body:
        texts = [f'<th scope="row">{escaped(text)}</th>' for text, _ in line[:names]]
        figures = [f"<td{RIGHT}>{_cell(*cell)}</td>" for cell in line[names:]]
        lines.append(f"<tr>{''.join([*texts, *figures])}</tr>")
    lines.append("</tbody>")
    said = "".join(f"<li>{note}</li>\n" for note in notes)
    if said:
        lines.append(f'<tfoot><tr><td colspan="{len(titles)}"><ul>\n{said}</ul></td></tr></tfoot>')
    return "\n".join([*lines, "</table>\n"])


def _cell(text: str, best: bool) -> str:
    """Write a figure, its mean strong where it is marked."""
    mean, rest = map(escaped, split(text))
    return f"<strong>{mean}</strong>{rest}" if best else mean + rest
