"""Draws ranks against ranks: a panel for every metric and outcome, as one SVG that loads nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

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
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        "<title>Ranks of architectures: by each metric (to the right) and by each outcome (upwards)</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for column, outcome in enumerate(outcomes):
        x = LEFT + column * (SIDE + GAP) + SIDE / 2
        parts.append(f'<text x="{x}" y="{TOP - 22}" text-anchor="middle">{escape(outcome["name"])}</text>')
    for line, predictor in enumerate(predictors):
        y = TOP + line * (SIDE + GAP)
        for number, text in enumerate((predictor["metric"], f"({predictor['network']})")):
            at = y + SIDE / 2 + 14 * number
            parts.append(f'<text x="{LEFT - 10}" y="{at}" text-anchor="end">{escape(text)}</text>')
        for column, outcome in enumerate(outcomes):
            parts += _panel(LEFT + column * (SIDE + GAP), y, predictor, outcome)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(x: float, y: float, predictor: Mapping[str, Any], outcome: Mapping[str, Any]) -> list[str]:
    """Draw one metric against one outcome."""
    pairs = [
        (statistics.fmean(one), statistics.fmean(other))
        for one, other in zip(predictor["values"], outcome["values"], strict=True)
        if one is not None and other is not None
    ]
    found = predictor["correlations"][outcome["name"]]["spearman"]
    parts = [f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#bbb"/>']
    if found is not None:
        told = f"{found['value']:+.2f}"
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
