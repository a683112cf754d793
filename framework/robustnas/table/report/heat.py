"""Draws a heat map as SVG that stands in a page: the darker (in the dark the lighter) a cell, the larger its value;
where all rows of a field have the same share, they are at half of the scale at most."""

from __future__ import annotations

from collections.abc import Iterator

from robustnas.table.report.charts import Field, HeatMap
from robustnas.table.report.svg import LINE, WIDTH, element, shortened, text

LEVELS = 20
"""Shades; all cells of one are one path, so that a map of thousands of cells stays small."""

ROW, GAP = 11.0, 9.0
"""Pixels: the height of a row, and the space between fields."""

LETTER, LONGEST = 6.4, 16
"""Width of a letter of the names of rows, about, and how many of them are shown."""

BESIDE = 4
"""Fields side by side, at most."""


def heat(chart: HeatMap, ident: str) -> str:
    """Draw a heat map.

    Args:
        ident: as `robustnas.table.report.svg.svg` takes it.
    """
    beside = min(BESIDE, len(chart.fields))
    names = max((field.rows for field in chart.fields), key=len)  # fields of a map have the same, or fewer of them
    left = 8 + LETTER * min(LONGEST, max(map(len, names)))
    wide = (WIDTH - left - GAP * (beside - 1) - 2) / beside
    most = max(2 / len(names), *(value for field in chart.fields for row in field.values for value in row))
    top, parts = 4.0, list[str]()
    for first in range(0, len(chart.fields), beside):
        some = chart.fields[first : first + beside]
        for place, field in enumerate(some):
            parts += _field(field, left + place * (wide + GAP), top, wide, most)
        for number, name in enumerate(names[: max(len(field.rows) for field in some)]):
            parts.append(text(left - 5, top + 15 + ROW * number + 8.5, shortened(name, LONGEST), "end", "small"))
        top += 15 + ROW * max(len(field.rows) for field in some) + GAP
    ends = f"{chart.across}, from left to right: {chart.columns[0]} to {chart.columns[-1]}"
    parts += [text(left, top + 8, ends, kind="soft"), *_scale(left + 14, top + LINE + 8, most)]
    return element(WIDTH, top + 2 * LINE + 12, ident, chart.title, chart.about, parts)


def _field(field: Field, x: float, y: float, wide: float, most: float) -> Iterator[str]:
    """Draw one field below its title; `most` is the value of the darkest shade."""
    yield text(x, y + 10, shortened(field.title, 12), kind="small")
    y += 15
    across = wide / len(field.values[0])
    cells: dict[int, list[str]] = {}
    for row, values in enumerate(field.values):
        for column, value in enumerate(values):
            place = f"M{x + column * across:.1f} {y + row * ROW:.1f}h{across:.1f}v{ROW:g}h-{across:.1f}z"
            cells.setdefault(round(LEVELS * value / most), []).append(place)
    for level, places in sorted(cells.items()):
        if level:
            yield f'<path class="heat" fill-opacity="{level / LEVELS:g}" d="{"".join(places)}"/>'
    yield f'<rect class="frame" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{ROW * len(field.rows):.1f}"/>'


def _scale(x: float, y: float, most: float) -> Iterator[str]:
    """Draw what the shades stand for."""
    wide = 120 / LEVELS
    for level in range(1, LEVELS + 1):
        yield (
            f'<rect class="heat" fill-opacity="{level / LEVELS:g}" x="{x + wide * (level - 1):g}" y="{y - 2:.1f}" '
            f'width="{wide:g}" height="10"/>'
        )
    yield f'<rect class="frame" x="{x:g}" y="{y - 2:.1f}" width="120" height="10"/>'
    yield text(x - 4, y + 7, "0", "end", "small")
    yield text(x + 124, y + 7, f"{most:.2f}", kind="small")
