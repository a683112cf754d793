"""What the record of a search warns of: scores that had no say in it, or the only one.

The notes are in the search's result and under the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robustnas.search.balance import RHO, Balance

MOST = 0.5
"""The share of images without a score that is worth a warning."""

DROWNS, UNHEARD = 10.0, 0.1
"""How much harder or less hard than the loss a score may pull at alpha."""


def warnings(records: Sequence[Mapping[str, Any]], gamma: float | Balance) -> list[str]:
    """Note what is wrong with the scores of the last epoch.

    Args:
        records: the history.
        gamma: as the search's settings have it.
    """
    last = records[-1] if records else {}
    ratios = last.get("alpha_gradient_ratio", {})
    return [*_floored(last), *(note for name, ratio in ratios.items() for note in _heard(name, ratio or 0.0, gamma))]


def _heard(name: str, ratio: float, gamma: float | Balance) -> list[str]:
    """Note a score that drowns the loss, or that is not heard beside it."""
    if UNHEARD <= ratio <= DROWNS:
        return []
    # a power of ten, so that seeds say the same
    size = (
        f"about 1e{math.floor(math.log10(ratio) + 0.5)} times"
        if ratio > 0 and math.isfinite(ratio)
        else f"{ratio:g} times"
    )
    would = (
        f"another rho or weight than gamma: {{balance: {gamma.balance:g}}}"
        if isinstance(gamma, Balance)
        else f"gamma: {{balance: {RHO:g}}}"
    )
    what = "drowned the loss" if ratio > DROWNS else "was hardly heard beside the loss"
    meant = (
        "this was nearly a search without a loss" if ratio > DROWNS else "this was nearly a search without the metric"
    )
    text = (
        f"in the last epoch of the search the score of {name} {what}: its gradient in alpha, with its factors, was "
        f"{size} the loss's; {meant}; {would} would do"
    )
    return [text]


def _floored(record: Mapping[str, Any]) -> list[str]:
    """Note where most scores of an epoch were at their lower limit."""
    share = record.get("floored") or 0.0
    if share <= MOST:
        return []
    text = (
        f"in the last epoch of the search the robustness of {100 * share:.0f} % of the images was the least that the "
        "metric tells, and had no gradient: they were classified wrongly, or bounds were too wide for the number "
        "format.  For most images this was a search without the metric; more epochs, a wider network, fewer cells, "
        "precision: float64 of the metric, or margin: soft of certified-radius, would do"
    )
    return [text]
