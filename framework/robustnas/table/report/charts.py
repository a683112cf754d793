"""A drawing as plain data: what is on its axes, and what each line or field shows.

Whatever renders a chart (`svg` and `heat` for the page, `plots` for files) reads this description and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

Point = tuple[float, float]


@frozen
class Series:
    """What one method shows in a chart.

    Args:
        name: in the legend.
        points: (across, up), in the order in which they are joined.
        style: number of the method, which decides colour, dashes and marker; None for a thin line that is none's.
        joined: whether a line joins the points: none in a scatter plot.
        steps: whether the line keeps a point's height up to the next one.
    """

    name: str
    points: Sequence[Point]
    style: int | None = None
    joined: bool = True
    steps: bool = False


@frozen
class Chart:
    """Lines or points over two axes.

    Args:
        key: name of its file.
        title: what it shows.
        across: what is on the horizontal axis, with its unit.
        up: what is on the vertical axis, with its unit.
        series: from the first method to the last.
        logarithmic: whether the vertical axis is; then all its values are positive.
        low, high: ends of the vertical axis, where they are more than those of the points.
        whole: whether only whole numbers are on the horizontal axis.
        note: a sentence below it on what is drawn.
    """

    key: str
    title: str
    across: str
    up: str
    series: Sequence[Series]
    logarithmic: bool = False
    low: float | None = None
    high: float | None = None
    whole: bool = False
    note: str = ""


@frozen
class Field:
    """A part of a heat map: rows with names, columns over time.

    Args:
        title: above it.
        rows: their names.
        values: (rows, columns), none below 0.
    """

    title: str
    rows: Sequence[str]
    values: Sequence[Sequence[float]]


@frozen
class HeatMap:
    """Fields side by side, with the same columns.

    Args:
        key: name of its file.
        title: what it shows.
        across: what the columns are.
        columns: their names.
        fields: from left to right, line after line.
        about: what it says in words.
        note: a sentence below it on what is drawn.
    """

    key: str
    title: str
    across: str
    columns: Sequence[str]
    fields: Sequence[Field]
    about: str = ""
    note: str = ""


Drawing = Chart | HeatMap


def named(title: str) -> str:
    """Make the name of a file, in ASCII, of a title."""
    return "-".join(re.findall("[a-z0-9]+", title.lower())) or "chart"


def about(chart: Chart) -> str:
    """Say in words what a chart shows, for those who do not see it: each line by its ends, each point as it is."""
    told = []
    for one in chart.series:
        first, last = one.points[0], one.points[-1]
        if one.joined and len(one.points) > 1:
            told.append(f"{one.name}: from {first[1]:.4g} at {first[0]:.4g} to {last[1]:.4g} at {last[0]:.4g}")
        else:
            told.append(f"{one.name}: {', '.join(f'{up:.4g} at {across:.4g}' for across, up in one.points)}")
    return f"{chart.up} over {chart.across}. {'; '.join(told)}."
