"""Draws a chart as SVG that stands in a page; colours are the page's, so it is light or dark as the page is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from attrs import frozen

from robustnas.runtime import printable
from robustnas.table.report import axis
from robustnas.table.report.charts import Chart, Point, Series, about

WIDTH, LEFT, RIGHT, TOP, HEIGHT = 380.0, 50.0, 12.0, 26.0, 190.0
"""Pixels: of the drawing and its margins, and the height of what is inside the axes.  On a phone one unit is a little
less than a pixel, so that letters of 12 can be read."""

LINE = 18.0
"""Height of a line of text."""

CHARACTER = 6.6
"""Width of a letter, about."""

LONGEST = 44
"""Characters of a name in a legend; the text alternative has all."""

COLOURS = 8
"""Of the page: `.s0` to `.s7`."""

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2")

MARKERS = (
    "M{x} {y}m-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0z",
    "M{x} {y}m-3.3 -3.3h6.6v6.6h-6.6z",
    "M{x} {y}m0 -4.6l4.4 7.6h-8.8z",
    "M{x} {y}m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
    "M{x} {y}m0 4.6l4.4 -7.6h-8.8z",
    "M{x} {y}m-1.4 -4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
    "M{x} {y}m-4.4 -2h8.8v4h-8.8z",
)
"""Outlines of markers.  7 of these, 8 colours and 5 dashes have no common divisor: 280 methods are told apart."""

MARKED = 6
"""Markers on a line of many points."""


def svg(chart: Chart, ident: str) -> str:
    """Draw a chart.

    Args:
        ident: what the identifiers of its texts begin with; no other drawing of the page has it.
    """
    place = _placed(chart)
    legend = list(_legend(chart.series))
    foot = TOP + HEIGHT + 2 * LINE + 4
    parts = [*_axes(chart, place)]
    for series in chart.series:
        parts += _series(series, place)
    for series, x, line in legend:
        parts += _entry(series, x, foot + LINE * line + 12)
    height = foot + LINE * (legend[-1][2] + 1 if legend else 0) + 4
    return element(WIDTH, height, ident, chart.title, about(chart), parts)


def element(width: float, height: float, ident: str, title: str, words: str, parts: Sequence[str]) -> str:
    """Write an SVG element with its text alternatives."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    kind = 'xmlns="http://www.w3.org/2000/svg" class="drawing" role="img"'
    head = f'<svg {kind} {size} aria-labelledby="{ident}-t {ident}-d">'
    texts = [f'<title id="{ident}-t">{safe(title)}</title>', f'<desc id="{ident}-d">{safe(words)}</desc>']
    return "\n".join([head, *texts, *parts, "</svg>"])


def safe(text: str) -> str:
    """Write a text as HTML and SVG show it."""
    return escape(printable.line(text))


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Write words; `kind` is a class of the page."""
    shown = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shown}>{safe(words)}</text>'


def shortened(name: str, most: int = LONGEST) -> str:
    """Cut a long name."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@frozen
class _Place:
    """Where a value is in the drawing.

    Args:
        x, y: from a value to its place, in pixels.
        across, up: ticks of the axes.
    """

    x: Callable[[float], float]
    y: Callable[[float], float]
    across: list[float]
    up: list[float]


def _placed(chart: Chart) -> _Place:
    """Find a chart's scales, so that every point is inside."""
    points = [point for series in chart.series for point in series.points]
    left, right = _ends([x for x, _ in points])
    heights = [y for _, y in points] + [end for end in (chart.low, chart.high) if end is not None]
    to = math.log10 if chart.logarithmic else float
    low, high = _ends([to(y) for y in heights])
    room = 0.04 * (high - low)  # so that no line lies on the frame, unless a whole scale is asked for
    low, high = low - room * (chart.low is None), high + room
    wide, deep = WIDTH - LEFT - RIGHT, HEIGHT
    return _Place(
        x=lambda value: LEFT + 6 + (value - left) / (right - left) * (wide - 12),
        y=lambda value: TOP + deep - (to(value) - low) / (high - low) * deep,
        across=axis.ticks(left, right, whole=chart.whole),
        up=axis.ticks(low, high) if not chart.logarithmic else axis.decades(10**low, 10**high),
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value; where three digits are the same, ends farther apart, so that this is seen."""
    low, high = min(values), max(values)
    least = 1e-3 * max(abs(low), abs(high)) or 1e-6
    room = max(0.0, least - (high - low)) / 2
    return low - room, high + room


def _axes(chart: Chart, place: _Place) -> Iterator[str]:
    """Draw the frame, the ticks and what is on the axes."""
    right, bottom = WIDTH - RIGHT, TOP + HEIGHT
    for value in place.up:
        y = place.y(value)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>'
        yield text(LEFT - 6, y + 4, axis.written(value), "end", "soft")
    for value in place.across:
        x = place.x(value)
        yield f'<path class="grid" d="M{x:.1f} {bottom}v4"/>'
        yield text(x, bottom + 16, axis.written(value), "middle", "soft")
    yield f'<path class="frame" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield text(2, 13, chart.up)
    yield text(right, bottom + 2 * LINE - 2, chart.across, "end")


def _series(series: Series, place: _Place) -> Iterator[str]:
    """Draw a line with its markers."""
    points = [(place.x(x), place.y(y)) for x, y in series.points]
    yield f'<g class="{_class(series)}">'
    if series.joined and len(points) > 1:
        yield _line(points, series)
    if series.style is not None:
        for number in _marked(len(points), series):
            x, y = series.points[number]
            told = f"{series.name}: {y:.4g} at {x:.4g}"
            yield f'<path class="mark" d="{_marker(series, *points[number])}"><title>{safe(told)}</title></path>'
    yield "</g>"


def _line(points: Sequence[Point], series: Series) -> str:
    """Draw what joins points."""
    (x, y), *others = points
    path = [f"M{x:.1f} {y:.1f}"]
    path += [f"H{x:.1f}V{y:.1f}" if series.steps else f"L{x:.1f} {y:.1f}" for x, y in others]
    dashes = "2 4" if series.style is None else DASHES[series.style % len(DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path class="line" d="{"".join(path)}"{dashed}/>'


def _marked(count: int, series: Series) -> Sequence[int]:
    """Choose the points that have a marker: of a long line a few, other ones than those of the next method."""
    if not series.joined or count <= 2 * MARKED:
        return range(count)
    every = count / MARKED
    offset = (series.style or 0) % 5 / 5
    return [int((place + offset) * every) for place in range(MARKED)]


def _marker(series: Series, x: float, y: float) -> str:
    assert series.style is not None
    return MARKERS[series.style % len(MARKERS)].format(x=f"{x:.1f}", y=f"{y:.1f}")


def _class(series: Series) -> str:
    return "none" if series.style is None else f"s{series.style % COLOURS}"


def _legend(every: Sequence[Series]) -> Iterator[tuple[Series, float, int]]:
    """Place the entries of the legend: each with where it begins, and in which line."""
    x, line = 4.0, 0
    for series in every:
        wide = 34 + CHARACTER * len(shortened(series.name)) + 12
        if x > 4 and x + wide > WIDTH:
            x, line = 4.0, line + 1
        yield series, x, line
        x += wide


def _entry(series: Series, x: float, y: float) -> Iterator[str]:
    """Draw one entry of the legend."""
    yield f'<g class="{_class(series)}">'
    if series.joined:
        yield _line([(x, y - 4), (x + 28, y - 4)], series)
    if series.style is not None:
        yield f'<path class="mark" d="{_marker(series, x + 14, y - 4)}"/>'
    yield "</g>"
    yield text(x + 34, y, shortened(series.name))
