"""The columns of the printed table: where their figures are, how they are written, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from attrs import frozen

from robustnas.attack.column import Column
from robustnas.attack.review.flag import BLIND, SMOOTHED
from robustnas.table.rows import QUANTILES, Comparison, Figure
from robustnas.threat import radius_text


@frozen
class Printed:
    """A printed column.

    Args:
        title: what stands above it.
        keys: where its figure is in a row.
        write: how a value is written.
        best: takes the best of values; None where none is better than another.
    """

    title: str
    keys: tuple[str, ...]
    write: Callable[[float], str]
    best: Callable[[Iterable[float]], float] | None = max

    @property
    def name(self) -> str:
        """What the column is called where it is asked for: its title without a unit, an attack's label."""
        whole = "search" if self.keys == ("search_seconds",) else self.title.removesuffix(" %")
        return self.keys[-1] if self.keys[0] == "attacks" else whole

    def pick(self, row: dict[str, Any]) -> Figure:
        """The column's figure in a row."""
        entry: Any = row
        for key in self.keys:
            entry = entry[key]
        return cast(Figure, entry)

    def reported(self, figures: Mapping[str, float]) -> float | None:
        """Give the column's figure of those that others report, in the unit of the rows; None where there is none."""
        value = figures.get(self.name)
        return round(value / 100, 12) if value is not None and self.write is percent else value

    def compared(self, row: dict[str, Any]) -> bool:
        """Whether the row may be marked as best: not if a seed's classifier ignores its images."""
        blind = {flag["attack"] for flag in row["flags"] if flag["name"] in BLIND}
        return None not in blind and not (self.keys[0].startswith("smoothed") and SMOOTHED in blind)


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def pixels(value: float) -> str:
    """Write three significant digits, without an exponent: radii of deep networks are small."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value)))}f}" if 0 < value < 1 else f"{value:.2f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def of_table(comparison: Comparison) -> list[Printed]:
    """List the columns that are shown, from left to right."""
    columns = _every(comparison)
    if comparison.shown is None:
        return columns
    by_keys = {column.keys: column for column in columns}
    return [by_keys[keys] for keys in comparison.shown]


def _every(comparison: Comparison) -> list[Printed]:
    """List the columns of all that the rows hold."""
    columns = [Printed("clean %", ("clean",), percent)]
    columns += [Printed(_title(attack), ("attacks", attack.label), percent) for attack in comparison.attacks]
    if any(attack.worst_case for attack in comparison.attacks):
        columns.append(Printed("robust %", ("robust",), percent))
    columns += [Printed(f"robust at {radius_text(e)} %", ("robust_at", f"{e:g}"), percent) for e in comparison.epsilons]
    if any(row["certified"] is not None for row in comparison.rows) or any(
        "certified" in one.figures for one in comparison.published
    ):
        columns.append(Printed("certified %", ("certified",), percent))
    if any(row.get("broken") is not None for row in comparison.rows):
        columns += [Printed("broken %", ("broken",), percent, None), Printed("open %", ("open",), percent, None)]
    columns += [
        Printed(f"certified at {radius_text(e)} %", ("certified_at", f"{e:g}"), percent)
        for e in comparison.certified_epsilons
    ]
    columns += [Printed(f"radius {norm}", ("certified_radius", norm), pixels) for norm in comparison.norms]
    if comparison.smoothing is not None:
        columns += [Printed(f"smoothed at {e:g} %", ("smoothed", f"{e:g}"), percent) for e in comparison.smoothing]
        columns.append(Printed("smoothed radius l2", ("smoothed_radius",), pixels))
    columns.append(Printed("parameters", ("parameters",), count, min))
    if any(row["match"] is not None for row in comparison.rows):
        columns.append(Printed("match %", ("match",), percent, None))
    columns.append(Printed("search s", ("search_seconds",), seconds, min))
    return columns


def _title(attack: Column) -> str:
    """The title of an attack's column."""
    return f"after {attack.label} %" if attack.spared else f"{attack.label} %"


def of_csv_alone(comparison: Comparison) -> list[Printed]:
    """List the columns of what is printed as lines under the table; none where columns were chosen."""
    columns: list[Printed] = []
    if comparison.shown is not None:
        return columns
    for norm in comparison.norms:
        columns.append(Printed(f"radius {norm} all", ("certified_radius_all", norm), pixels))
        columns.append(Printed(f"radius {norm} geometric", ("certified_radius_geometric", norm), pixels))
        columns += [Printed(f"radius {norm} q{q}", ("certified_radius_quantiles", norm, q), pixels) for q in QUANTILES]
    return columns
