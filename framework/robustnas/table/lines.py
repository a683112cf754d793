"""The lines under the table: what a reader must know to read its figures rightly."""

from __future__ import annotations

import statistics
from typing import Any

from robustnas.table.columns import pixels
from robustnas.table.comparisons import BEST, decides
from robustnas.table.rows import QUANTILES, Comparison, name
from robustnas.table.statistics import paired

FLAGGED = "(!)"
"""The mark behind the name of a method whose figures a reviewer would question; lines under the table say why."""

PUBLISHED = "(published)"
"""The mark behind the name of a row that others report."""


def under(comparison: Comparison) -> list[str]:
    """List what stands under the table, a line each."""
    return [
        *comparison.notes,
        *claims(comparison),
        *radii_of_all(comparison),
        *spreads_of_radii(comparison),
        *costs(comparison),
        *questions(comparison),
        *reports(comparison),
        *contradicted(comparison),
    ]


def contradicted(comparison: Comparison) -> list[str]:
    """List what was left out because results contradict each other."""
    return [f"left out, because results contradict each other: {text}" for text in comparison.contradictions]


def claims(comparison: Comparison) -> list[str]:
    """Say which differences between methods can be claimed, and what the marks mean."""
    families: dict[str, list[dict[str, Any]]] = {}
    for one in comparison.comparisons:
        if one["role"] == BEST:
            families.setdefault(str(one["column"]), []).append(one)
    if not families:
        return []
    family = max(map(len, families.values()))
    pairs = max(one["pairs"] for some in families.values() for one in some)
    if pairs == 0:
        return []
    nested = any(isinstance(r["seeds"], dict) for r in comparison.rows)
    seeds = f"{pairs} {'search ' if nested else ''}seed{'s' if pairs > 1 else ''}"
    needed = paired.pairs_needed(family)
    test = f"exact Wilcoxon signed-rank test of pairs, {paired.LEVEL:.0%} after Holm's correction"
    if any(map(decides, families.values())):
        alike = f"the best mean and every method that {seeds} cannot tell apart from it"
        return [f"marked: {alike} ({test} over the methods of a column); nothing where that is all methods"]
    what = "no claim about a difference between methods is possible"
    if pairs >= paired.FEWEST:
        what = "intervals of differences, and no test that could find one"
    return [f"{seeds}: {what}; {needed} or more would do ({test} over {family} comparison{'s' * (family > 1)})"]


def radii_of_all(comparison: Comparison) -> list[str]:
    """Write the mean certified radius that counts wrongly classified images as 0, a line a norm.

    The column's mean is over correctly classified images alone, and is large for a network that is right only on easy
    images.
    """
    lines = []
    for norm in comparison.norms:
        given = [(name(r), r["certified_radius_all"][norm]) for r in comparison.rows]
        told = ", ".join(f"{method} {pixels(found['mean'])}" for method, found in given if found is not None)
        lines += [f"mean certified {norm} radius with 0 for the wrongly classified: {told}"] if told else []
    return lines


def spreads_of_radii(comparison: Comparison) -> list[str]:
    """Write the geometric mean and quantiles of certified radii, a line a norm: a mean hides how far they are apart."""
    lines = []
    for norm in comparison.norms:
        told = []
        for r in comparison.rows:
            figures = [r["certified_radius_geometric"][norm], *r["certified_radius_quantiles"][norm].values()]
            if figures[0] is not None:
                mean, *quantiles = (pixels(figure["mean"]) for figure in figures)
                told.append(f"{name(r)} {mean} ({', '.join(quantiles)})")
        if told:
            which = f"geometric mean ({', '.join(QUANTILES)} % quantiles)"
            lines.append(f"certified {norm} radius of the rightly classified, {which}: {', '.join(told)}")
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
        for one in r["flags"]:
            who = findings.setdefault((one["name"], one["attack"], one["text"]), {})
            who.setdefault(name(r), []).append(one["seed"])
    lines = []
    for (flag, attack, text), methods in findings.items():
        whom = ", ".join(f"{method} ({', '.join(map(str, seeds))})" for method, seeds in methods.items())
        lines.append(f"{FLAGGED} {flag}{f', {attack}' if attack else ''}: {text}; in (seeds) {whom}")
    return lines


def reports(comparison: Comparison) -> list[str]:
    """Say where each published row is from, a line a source."""
    rows: dict[str, list[str]] = {}
    for one in comparison.published:
        rows.setdefault(one.source, []).append(one.name)
    about = "not measured here, in no test and no mark"
    return [f"{PUBLISHED}, {about}: {', '.join(names)}: {source}" for source, names in rows.items()]
