"""Draws ranks against ranks: a panel for every metric and outcome, as one SVG that loads nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from robustnas.table.report.svg import element, text

SIDE, GAP, LEFT, TOP = 110, 20, 190, 46
"""Pixels: the side of a panel, the space between two, and the margins for names."""


def svg(data: Mapping[str, Any]) -> str:
    """Draw the ranking.

    Each point is an architecture, its rank by the metric to the right, its rank by the outcome upwards; a perfect
    predictor is the diagonal.
    """
    outcomes, predictors = data["outcomes"], data["predictors"]
    width = LEFT + len(outcomes) * (SIDE + GAP)
    height = TOP + len(predictors) * (SIDE + GAP)
    parts = ['<g font-family="sans-serif" font-size="11">', f'<rect width="{width}" height="{height}" fill="white"/>']
    told = []
    for column, outcome in enumerate(outcomes):
        parts.append(text(LEFT + column * (SIDE + GAP) + SIDE / 2, TOP - 22, outcome["name"], "middle"))
    for line, predictor in enumerate(predictors):
        y = TOP + line * (SIDE + GAP)
        name = (predictor["metric"], f"({predictor['network']})")
        for number, words in enumerate(name):
            parts.append(text(LEFT - 10, y + SIDE / 2 + 14 * number, words, "end"))
        for column, outcome in enumerate(outcomes):
            parts += _panel(LEFT + column * (SIDE + GAP), y, predictor, outcome)
            told.append(f"{' '.join(name)} and {outcome['name']} {_rho(predictor, outcome) or 'unknown'}")
    title = "Ranks of architectures: by each metric (to the right) and by each outcome (upwards)"
    return element(width, height, "ranks", title, f"Spearman's rho: {'; '.join(told)}", [*parts, "</g>"]) + "\n"


def _rho(predictor: Mapping[str, Any], outcome: Mapping[str, Any]) -> str:
    """Write the correlation of a metric with an outcome; nothing where it cannot be told."""
    found = predictor["correlations"][outcome["name"]]["spearman"]
    return "" if found is None else f"{found['value']:+.2f}"


def _panel(x: float, y: float, predictor: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[str]:
    """Draw one metric against one outcome."""
    pairs = [
        (statistics.fmean(one), statistics.fmean(other))
        for one, other in zip(predictor["values"], outcome["values"], strict=True)
        if one is not None and other is not None
    ]
    parts = [f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#bbb"/>']
    if told := _rho(predictor, outcome):
        parts.append(f'<text x="{x + SIDE / 2}" y="{y - 3}" text-anchor="middle" fill="#555">{told}</text>')
    if len(pairs) > 1:
        across, up = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
        scale = (SIDE - 16) / (len(pairs) - 1)
        parts += [
            f'<circle cx="{x + 8 + a * scale:.1f}" cy="{y + SIDE - 8 - b * scale:.1f}" r="2.2" fill="#1f5fa8" '
            'fill-opacity="0.7"/>'
            for a, b in zip(across, up, strict=True)
        ]
    return parts


def _ranks(values: Sequence[float]) -> list[float]:
    """Rank values from 0; equal ones share the mean of their ranks."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    return [(first[value] + last[value]) / 2 for value in values]
