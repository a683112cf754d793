"""Compares methods in every column: each with the best of it, and with the recipe's first method.

Methods are compared over pairs: the networks of one search seed, each method's the mean over its training seeds.  So
what a seed shares (the order of batches, the division of images) is in both, and noise of training is averaged first.
Two methods that do not search are compared over their training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from robustnas.table.columns import Printed, of_table
from robustnas.table.rows import Comparison, Figure, SeedResult
from robustnas.table.statistics import paired

BEST, REFERENCE = "best", "reference"
"""Whom a method is compared with: the best mean of the column, or the first method of the recipe."""

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
        measured: what the networks of each method measured.
    """
    found: list[dict[str, Any]] = []
    for column in of_table(comparison):
        rows = [r for r in comparison.rows if column.compared(r) and column.pick(r) is not None]
        if column.best is None or column.keys == ("search_seconds",) or len(rows) < 2:
            continue
        means = [mean_of(column, r) for r in rows]
        best = rows[means.index(column.best(means))]
        for role, other in ((BEST, best), (REFERENCE, comparison.rows[0])):
            if other not in rows:
                continue
            family = [_against(column, r, other, role, measured) for r in rows if r is not other]
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
    """Name the methods that carry the mark of a column's best mean; none where all would.

    They are the best and those written alike; and, where there are pairs enough to tell methods apart, every method
    that cannot be told apart from the best.
    """
    rows = [r for r in comparison.rows if column.compared(r) and column.pick(r) is not None]
    if column.best is None or not rows:
        return set()
    top = column.write(column.best(mean_of(column, r) for r in rows))
    alike = {str(r["method"]) for r in rows if column.write(mean_of(column, r)) == top}
    family = of_column(comparison, column, BEST)
    if decides(family.values()):
        alike |= {name for name, one in family.items() if one["p_holm"] is not None and one["p_holm"] > paired.LEVEL}
    return alike if len(alike) < len(rows) else set()


def _against(
    column: Printed,
    row: dict[str, Any],
    other: dict[str, Any],
    role: str,
    measured: Mapping[str, Sequence[SeedResult]],
) -> dict[str, Any]:
    """Compare one method with another in one column."""
    ours, theirs = measured[row["method"]], measured[other["method"]]
    first, second = _units(row, column.pick(row)), _units(other, column.pick(other))
    pairs = [unit for unit in first if unit in second]
    if _fixed(ours) and _fixed(theirs):
        pairs = []  # more seeds show no more of two networks
    gap = paired.difference([first[unit] for unit in pairs], [second[unit] for unit in pairs])
    interval = None if gap is None or gap.interval is None else [gap.interval.low, gap.interval.high]
    return {
        "column": list(column.keys),
        "method": row["method"],
        "against": other["method"],
        "role": role,
        "difference": None if gap is None else gap.mean,
        "interval": interval,
        "p": None if gap is None else gap.p,
        "p_holm": None,
        "pairs": 0 if gap is None else gap.pairs,
        **_over_images(VERDICTS.get(column.keys), ours, theirs),
    }


def _units(row: dict[str, Any], figure: Figure) -> dict[tuple[str, int], float | None]:
    """Give a row's values by what makes pairs: seeds of searches, or those of training where nothing was searched."""
    assert figure is not None
    seeds = row["seeds"]
    if isinstance(seeds, dict) and "search" not in seeds:
        return {("train", seed): value for seed, value in zip(seeds["train"], figure["within"][0], strict=True)}
    searches = seeds["search"] if isinstance(seeds, dict) else seeds
    return {("search", seed): value for seed, value in zip(searches, figure["values"], strict=True)}


def _fixed(results: Sequence[SeedResult]) -> bool:
    """Whether a method is a network made elsewhere, and so the same under all seeds."""
    return not any(result.trained for result in results)


def _over_images(
    pick: Callable[[SeedResult], Sequence[bool] | None] | None,
    ours: Sequence[SeedResult],
    theirs: Sequence[SeedResult],
) -> dict[str, Any]:
    """Compare two methods over images, network by network with the same seeds, and over all of these together."""
    if pick is None:
        return {"mcnemar": {}, "mcnemar_together": None}
    others = {result.seed: pick(result) for result in theirs}
    both: dict[str, tuple[Sequence[bool], Sequence[bool]]] = {}
    for result in ours:
        own, other = pick(result), others.get(result.seed)
        if own is not None and other is not None and len(own) == len(other):
            both[str(result.seed)] = (own, other)
    if _fixed(ours) and _fixed(theirs):
        both = dict(list(both.items())[:1])
    together = paired.mcnemar_over_networks(*zip(*both.values(), strict=True)) if both else None
    return {
        "mcnemar": {seed: paired.mcnemar(own, other) for seed, (own, other) in both.items()},
        "mcnemar_together": together,
    }
