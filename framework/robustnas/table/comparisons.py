"""Compares methods in every column: each with the best of it, and with the recipe's first method.

Methods are compared over pairs: the networks of one search seed, each method's the mean over its training seeds.  So
what a seed shares (the order of batches, the division of images) is in both, and noise of training is averaged first.
Two methods that do not search are compared over their training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustnas.plan import Seed
from robustnas.table.columns import Printed, of_table
from robustnas.table.rows import Comparison, Figure, SeedResult, name
from robustnas.table.statistics import paired

BEST, REFERENCE = "best", "reference"
"""Whom a method is compared with: the best mean of the column, or the first method of the recipe."""

Verdicts = dict[Seed, NDArray[np.bool_]]
"""For each network of a method, (N,) whether it has each image right."""

VERDICTS: dict[tuple[str, ...], Callable[[SeedResult], Sequence[bool] | None]] = {
    ("clean",): lambda result: result.clean,
    ("robust",): lambda result: result.attacks.robust,
    ("certified",): lambda result: result.certified,
}
"""Columns that are verdicts on images, which two networks can be compared on."""


def compared(comparison: Comparison, measured: Mapping[str, Sequence[SeedResult]]) -> list[dict[str, Any]]:
    """Compare the methods of a table, as plain data (documented in docs/results.md under `comparisons`).

    p values are corrected over the family of one column's comparisons with the same role.  What takes time depends on
    the machine and is not compared.

    Args:
        measured: what the networks of each row measured, by its name.
    """
    found: list[dict[str, Any]] = []
    for column in of_table(comparison):
        rows = [r for r in comparison.rows if column.compared(r) and column.pick(r) is not None]
        if column.best is None or column.keys[0] in ("search_seconds", *comparison.apart) or len(rows) < 2:
            continue
        means = [mean_of(column, r) for r in rows]
        best = rows[means.index(column.best(means))]
        images = {name(r): _verdicts(column, measured[name(r)]) for r in rows}
        fixed = {method for method in images if not any(result.trained for result in measured[method])}
        for role, other in ((BEST, best), (REFERENCE, comparison.rows[0])):
            if other not in rows:
                continue
            family = [{"role": role, **_against(column, r, other, images, fixed)} for r in rows if r is not other]
            known = [one for one in family if one["p"] is not None]
            for one, p in zip(known, paired.holm([one["p"] for one in known]), strict=True):
                one["p_holm"] = p
            found += family
    return found


def mean_of(column: Printed, row: dict[str, Any]) -> float:
    """Take the mean of a column's figure, which the row has."""
    figure = column.pick(row)
    assert figure is not None
    return float(figure["mean"])


def of_column(comparison: Comparison, column: Printed, role: str) -> dict[str, dict[str, Any]]:
    """Collect the comparisons of a column with one role, by method."""
    keys = list(column.keys)
    return {one["method"]: one for one in comparison.comparisons if one["column"] == keys and one["role"] == role}


def decides(family: Iterable[dict[str, Any]]) -> bool:
    """Whether the comparisons of a family have pairs enough that some difference could be told."""
    pairs = [one["pairs"] for one in family if one["p"] is not None]
    return bool(pairs) and max(pairs) >= paired.pairs_needed(len(pairs))


def marked(comparison: Comparison, column: Printed) -> set[str]:
    """Name the rows that carry the mark of a column's best mean; none where all would.

    They are the best and those written alike; and, where there are pairs enough to tell methods apart, every method
    that cannot be told apart from the best.
    """
    rows = [r for r in comparison.rows if column.compared(r) and column.pick(r) is not None]
    if column.best is None or not rows or column.keys[0] in comparison.apart:
        return set()
    top = column.write(column.best(mean_of(column, r) for r in rows))
    alike = {name(r) for r in rows if column.write(mean_of(column, r)) == top}
    family = of_column(comparison, column, BEST)
    if decides(family.values()):
        alike |= {whose for whose, one in family.items() if one["p_holm"] is not None and one["p_holm"] > paired.LEVEL}
    return alike if len(alike) < len(rows) else set()


def _against(
    column: Printed, row: dict[str, Any], other: dict[str, Any], images: Mapping[str, Verdicts], fixed: set[str]
) -> dict[str, Any]:
    """Compare one method with another in one column.

    Args:
        images: by the name of a row, the verdicts on images.
        fixed: names of methods that are a network made elsewhere, and so the same under all seeds.
    """
    ours, theirs = name(row), name(other)
    first, second = _units(row, column.pick(row)), _units(other, column.pick(other))
    pairs = [unit for unit in first if unit in second]
    seeds = [seed for seed, own in images[ours].items() if len(own) == len(images[theirs].get(seed, ()))]
    if {ours, theirs} <= fixed:
        pairs, seeds = [], seeds[:1]  # more seeds show no more of two networks
    gap = paired.difference([first[unit] for unit in pairs], [second[unit] for unit in pairs])
    interval = None if gap is None or gap.interval is None else [gap.interval.low, gap.interval.high]
    mine, yours = ([images[method][seed] for seed in seeds] for method in (ours, theirs))
    return {
        "column": list(column.keys),
        "method": ours,
        "against": theirs,
        "difference": None if gap is None else gap.mean,
        "interval": interval,
        "p": None if gap is None else gap.p,
        "p_holm": None,
        "pairs": 0 if gap is None else gap.pairs,
        "mcnemar": {str(seed): paired.mcnemar(*both) for seed, *both in zip(seeds, mine, yours, strict=True)},
        "mcnemar_together": paired.mcnemar_over_networks(mine, yours) if seeds else None,
    }


def _verdicts(column: Printed, results: Sequence[SeedResult]) -> Verdicts:
    """Collect a method's verdicts on images by seed; none where the column has no such."""
    pick = VERDICTS.get(column.keys)
    if pick is None:
        return {}
    found = {result.seed: pick(result) for result in results}
    return {seed: np.array(flags, dtype=bool) for seed, flags in found.items() if flags is not None}


def _units(row: dict[str, Any], figure: Figure) -> dict[tuple[str, int], float | None]:
    """Give a row's values by what makes pairs: seeds of searches, or those of training where nothing was searched."""
    assert figure is not None
    seeds = row["seeds"]
    if isinstance(seeds, dict) and "search" not in seeds:
        return {("train", seed): value for seed, value in zip(seeds["train"], figure["within"][0], strict=True)}
    searches = seeds["search"] if isinstance(seeds, dict) else seeds
    return {("search", seed): value for seed, value in zip(searches, figure["values"], strict=True)}
