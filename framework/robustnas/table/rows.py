"""The figures: mean and standard deviation over the seeds of what was measured, a row a method.

Nothing here depends on when or where the run happened, except keys that end in `_seconds`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from attrs import field, frozen

from robustnas.attack.column import Column
from robustnas.certify.verdicts import Verdicts
from robustnas.plan import Seed
from robustnas.threat import NORMS

QUANTILES = ("10", "50", "90")
"""Percent of the correctly classified images that have a radius below the quantile."""

LEAST_RADIUS = 1e-6
"""Where radii enter in logs, a smaller one counts as this: the search for a radius ends here, and tells less from 0."""

Figure = dict[str, Any] | None
"""`{"mean", "std", "values"}`: `values` has one entry a seed, in the order of the row's seeds, None where it was not
measured; mean and sample standard deviation (n - 1) are over the others, and std is None where only one was measured.
A figure is None where no seed was measured."""


@frozen
class SeedResult:
    """What the stages of one method and seed measured; None where a stage did not run.

    Lists have one entry an image, in the order in which images were evaluated, and start at the first.

    Args:
        seed: one of the recipe's seeds.
        clean: whether each image is right when clean.
        attacks: figures of the attacks.
        certified: whether each image is provably right at the recipe's threat.
        certified_at: the same at further radii in its norm.
        radius: certified radii by norm, pixel units.
        smoothed: certified l2 radii of the smoothed classifier, 0 where it is wrong or abstains.
        flags: what a reviewer would object to, plain.
        parameters: trainable weights.
        match: by which share of its target a network missed the capacity that it was matched to.
        search_seconds: time of the search.
    """

    seed: Seed
    clean: Sequence[bool] | None = None
    attacks: Verdicts = field(factory=Verdicts)
    certified: Sequence[bool] | None = None
    certified_at: dict[float, Sequence[bool]] = field(factory=dict)
    radius: dict[str, Sequence[float]] = field(factory=dict)
    smoothed: Sequence[float] | None = None
    flags: Sequence[dict[str, Any]] = ()
    parameters: int | None = None
    match: float | None = None
    search_seconds: float | None = None


def figure(values: Sequence[float | None]) -> Figure:
    """Take mean and sample standard deviation over the seeds that were measured; None when none was."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    std = statistics.stdev(known) if len(known) > 1 else None
    every = [None if value is None else float(value) for value in values]
    return {"mean": statistics.fmean(known), "std": std, "values": every}


def share(flags: Sequence[float]) -> float:
    """Take the share of true entries; of shares, their mean."""
    return math.fsum(flags) / len(flags)


def _share(flags: Sequence[float] | None) -> float | None:
    return None if flags is None else share(flags)


def _mean_radius_of_all(result: SeedResult, norm: str) -> float | None:
    """Take the mean certified radius of all images in pixel units; that of a wrongly classified one is 0."""
    return statistics.fmean(result.radius[norm]) if result.clean is not None and norm in result.radius else None


def _over_correct(result: SeedResult, norm: str, measure: Callable[[Sequence[float]], float]) -> float | None:
    """Measure the certified radii of the correctly classified images, in pixel units."""
    if result.clean is None or norm not in result.radius:
        return None
    radii = [radius for radius, clean in zip(result.radius[norm], result.clean, strict=False) if clean]
    return measure(radii) if radii else None


def geometric_mean(radii: Sequence[float]) -> float:
    """Take the geometric mean of radii, which those near 0 move as much as those far from it.

    A radius below `LEAST_RADIUS`, 0 among them, counts as that.
    """
    return math.exp(statistics.fmean(math.log(max(radius, LEAST_RADIUS)) for radius in radii))


def quantile(radii: Sequence[float], share: float) -> float:
    """Take a quantile, between two radii in proportion."""
    ordered = sorted(radii)
    below, between = divmod(share * (len(ordered) - 1), 1)
    above = ordered[min(int(below) + 1, len(ordered) - 1)]
    return ordered[int(below)] * (1 - between) + above * between


def row(
    method: str,
    results: Sequence[SeedResult],
    columns: Sequence[Column],
    epsilons: Sequence[float] = (),
    smoothing: Sequence[float] | None = None,
    certified_epsilons: Sequence[float] = (),
) -> dict[str, Any]:
    """Make one row as plain data; shares in [0, 1], radii in pixel units.

    Args:
        epsilons: radii of the curve of robust accuracy.
        smoothing: l2 radii at which the smoothed classifier is shown; None where there is none.
        certified_epsilons: further radii at which certified accuracy is shown.
    """

    def over(measure: Callable[[SeedResult], float | None]) -> Figure:
        """Make a figure of what each seed measured."""
        return figure([measure(result) for result in results])

    def over_correct(norm: str, measure: Callable[[Sequence[float]], float]) -> Figure:
        """Make a figure of the radii of what each network classifies correctly."""
        return over(lambda result: _over_correct(result, norm, measure))

    def by_label(pick: Callable[[Verdicts], Any]) -> dict[str, Any]:
        """List what each seed has of each attack, where any seed has something."""
        found = {c.label: [pick(r.attacks).get(c.label) for r in results] for c in columns}
        return {label: values for label, values in found.items() if any(values)}

    return {
        "method": method,
        "seeds": [result.seed.plain for result in results],
        "clean": over(lambda r: _share(r.clean)),
        "robust": over(lambda r: _share(r.attacks.robust)),
        "attacks": {c.label: over(lambda r, label=c.label: _share(r.attacks.standing.get(label))) for c in columns},  # type: ignore[misc]
        "robust_at": {f"{e:g}": over(lambda r, e=e: _share(r.attacks.curve.get(e))) for e in epsilons},  # type: ignore[misc]
        "certified": over(lambda r: _share(r.certified)),
        "certified_at": {
            f"{e:g}": over(lambda r, e=e: _share(r.certified_at.get(e)))  # type: ignore[misc]
            for e in certified_epsilons
        },
        "certified_radius": {n: over_correct(n, statistics.fmean) for n in NORMS},
        "certified_radius_geometric": {n: over_correct(n, geometric_mean) for n in NORMS},
        "certified_radius_quantiles": {
            n: {q: over_correct(n, partial(quantile, share=int(q) / 100)) for q in QUANTILES} for n in NORMS
        },
        "certified_radius_all": {n: over(lambda r, n=n: _mean_radius_of_all(r, n)) for n in NORMS},  # type: ignore[misc]
        "smoothed": {
            f"{e:g}": over(lambda r, e=e: None if r.smoothed is None else share([x > e for x in r.smoothed]))  # type: ignore[misc]
            for e in smoothing or ()
        },
        "smoothed_radius": over(lambda r: _share(r.smoothed)),
        "variants": by_label(lambda attacks: attacks.variants),
        "parts": by_label(lambda attacks: attacks.parts),
        "evaluations": {c.label: over(lambda r, label=c.label: r.attacks.evaluations.get(label)) for c in columns},  # type: ignore[misc]
        "flags": [{**flag, "seed": r.seed.plain} for r in results for flag in r.flags],
        "parameters": over(lambda r: None if r.parameters is None else float(r.parameters)),
        "match": over(lambda r: r.match),
        "search_seconds": over(lambda r: r.search_seconds),
    }


@frozen
class Comparison:
    """Everything the printed table needs: rows as plain data, the attacks, and what stands under the table.

    Args:
        kept: a line on what else the run directory holds, or nothing.  It is printed but in no file, because it depends
            on what was run there before.
    """

    threat: str
    rows: list[dict[str, Any]]
    attacks: list[Column]
    norms: list[str]
    notes: list[str]
    epsilons: list[float] = field(factory=list)
    smoothing: list[float] | None = None
    contradictions: list[str] = field(factory=list)
    certified_epsilons: list[float] = field(factory=list)
    kept: str = ""
