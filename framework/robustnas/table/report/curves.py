"""Describes how accuracy falls over epsilon, and what robust accuracy costs in clean accuracy."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from robustnas.table.columns import Printed, percent
from robustnas.table.report.charts import Chart, Point, Series, named
from robustnas.table.rows import Comparison, SeedResult, name
from robustnas.table.swept import OUTCOMES
from robustnas.threat import ThreatModel

MOST_STEPS = 80
"""A curve of certified accuracy has so many steps at most: of more radii only some quantiles."""

Networks = Mapping[str, Sequence[SeedResult]]
"""What the networks of each method measured."""


def over_epsilon(comparison: Comparison, networks: Networks, threat: ThreatModel) -> Iterator[Chart]:
    """Describe robust accuracy over epsilon, and certified accuracy in each norm that was certified."""
    robust = [
        Series(name(row), points, style)
        for style, row in enumerate(comparison.rows)
        if len(points := _robust(row, threat.epsilon)) > 1
    ]
    across = f"epsilon ({threat.norm}, pixel units)"
    if robust:
        note = "At 0 clean accuracy, elsewhere the attacks' worst case; between two radii nothing was measured."
        yield Chart("robust", "Robust accuracy over epsilon", across, "accuracy (%)", robust, note=note)
    for norm in comparison.norms:
        certified = _certified(networks, lambda result, norm=norm: result.radius.get(norm))  # type: ignore[misc]
        if certified:
            note = "Share of the certified images that are right and whose certified radius is larger."
            across = f"epsilon ({norm}, pixel units)"
            yield _shares(f"certified-{norm}", "Certified accuracy over epsilon", across, certified, note)
    smoothed = _certified(networks, lambda result: result.smoothed)
    if smoothed:
        note = "Of the smoothed classifier, not of the network itself."
        title = "Certified accuracy of the smoothed classifier over epsilon"
        yield _shares("smoothed", title, "epsilon (l2, pixel units)", smoothed, note)


def trade(comparison: Comparison) -> Iterator[Chart]:
    """Describe clean against robust accuracy with the Pareto front; nothing where no method has both.

    A classifier that ignores its images is shown, and never on the front.
    """
    points: dict[int, Point] = {}
    for place, row in enumerate(comparison.rows):
        if row["clean"] is not None and row["robust"] is not None:
            points[place] = (100 * row["clean"]["mean"], 100 * row["robust"]["mean"])
    if not points:
        return
    robust = Printed("robust %", ("robust",), percent)
    front = pareto([point for place, point in points.items() if robust.compared(comparison.rows[place])])
    names = [name(row) for row in comparison.rows]
    lines = [Series("Pareto front", staircase(front))] if len(front) > 1 else []
    lines += [Series(names[place], [point], place, joined=False) for place, point in points.items()]
    best = "beyond the front no method is" if len(front) > 1 else "one method is the best in both"
    note = f"Means over networks; {best}."
    title = "Clean against robust accuracy"
    yield Chart("clean-robust", title, "clean accuracy (%)", "robust accuracy (%)", lines, note=note)


def over_keys(records: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """Describe each outcome over each key of a sweep, a line a method.

    Args:
        records: as `robustnas.table.swept.swept` makes them.
    """
    for key in dict.fromkeys(record["key"] for record in records):
        own = [record for record in records if record["key"] == key]
        texts = list(dict.fromkeys(record["text"] for record in own))
        numbers = all(type(record["value"]) in (int, float) for record in own)
        # what has no place on an axis of numbers is placed by its number in the list
        places = ", ".join(f"{place}: {text}" for place, text in enumerate(texts, 1))
        across = key if numbers else f"{key} ({places})"
        styles = {method: style for style, method in enumerate(dict.fromkeys(record["method"] for record in own))}
        for outcome in OUTCOMES:
            lines: dict[str, list[Point]] = {}
            for record in own:
                if record[outcome] is not None:
                    at = float(record["value"]) if numbers else float(texts.index(record["text"]) + 1)
                    lines.setdefault(record["method"], []).append((at, 100 * record[outcome]["mean"]))
            if lines:
                yield Chart(
                    named(f"{outcome} over {key}"),
                    f"{outcome.capitalize()} accuracy over {key}",
                    across,
                    f"{outcome} accuracy (%)",
                    [Series(method, sorted(points), styles[method]) for method, points in lines.items()],
                    whole=not numbers,
                    note="Means over networks.",
                )


def pareto(points: Sequence[Point]) -> list[Point]:
    """Choose the points that no other one equals or exceeds in both coordinates, from left to right."""
    front: list[Point] = []
    for point in sorted(set(points), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def staircase(front: Sequence[Point]) -> list[Point]:
    """Join the points of a front by the edge of what they dominate."""
    corners = [(left, right_up) for (left, _), (_, right_up) in pairwise(front)]
    return [front[0], *(one for pair in zip(corners, front[1:], strict=True) for one in pair)]


def _shares(key: str, title: str, across: str, series: Sequence[Series], note: str) -> Chart:
    """Describe percentages."""
    return Chart(key, title, across, "accuracy (%)", series, low=0.0, high=100.0, note=note)


def _robust(row: Mapping[str, Any], epsilon: float) -> list[Point]:
    """Collect a method's accuracy at each radius at which all attacks were run."""
    further = {float(e): figure for e, figure in row["robust_at"].items()}
    figures = {0.0: row["clean"], **further, epsilon: row["robust"]}
    return [(e, 100 * figure["mean"]) for e, figure in sorted(figures.items()) if figure is not None]


def _certified(networks: Networks, pick: Callable[[SeedResult], Sequence[float] | None]) -> list[Series]:
    """Describe the share of images with a larger radius, over the radius: of each method that has radii."""
    found = []
    for style, (method, results) in enumerate(networks.items()):
        by_search: dict[int, list[Sequence[float]]] = {}
        for result in results:
            radii = pick(result)
            if radii:
                by_search.setdefault(result.seed.search, []).append(radii)
        if by_search:
            found.append(Series(method, beyond(list(by_search.values())), style, steps=True))
    return found


def beyond(radii: Sequence[Sequence[Sequence[float]]]) -> list[Point]:
    """Give the percentage of images whose radius is larger than epsilon, at each epsilon where it falls.

    Args:
        radii: of the images of each training of each search; the mean is over searches of means over trainings, as in
            the table.
    """
    every = sorted({0.0, *(radius for search in radii for network in search for radius in network)})
    some = every[:: -(-len(every) // MOST_STEPS)]
    some += [every[-1]] if some[-1] != every[-1] else []
    ordered = [[sorted(network) for network in search] for search in radii]

    def share(epsilon: float) -> float:
        return statistics.fmean(
            statistics.fmean(1 - bisect_right(network, epsilon) / len(network) for network in search)
            for search in ordered
        )

    return [(epsilon, 100 * share(epsilon)) for epsilon in some]
