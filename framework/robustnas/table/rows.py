"""The figures: means, spreads and intervals over the seeds of what was measured, a row a method.

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
from robustnas.recipe.schema import Reported
from robustnas.run.layout import QUICK
from robustnas.table.statistics.nested import nested
from robustnas.threat import NORMS

QUANTILES = ("10", "50", "90")
"""Percent of the correctly classified images that have a radius below the quantile."""

LEAST_RADIUS = 1e-6
"""Where radii enter in logs, a smaller one counts as this: the search for a radius ends here, and tells less from 0."""

Figure = dict[str, Any] | None
"""What all networks of a method give of one quantity, as plain data; None where no network was measured.

    values      for each search seed, in the row's order, the mean over its training seeds; None where none was measured
    within      for each search seed, the value of each training seed; None where it was not measured
    mean        of the values
    std         their sample standard deviation (n - 1); None for one value
    std_within  the spread between training seeds, pooled over the search seeds; None where none has two
    interval    95 % interval of the mean, [low, high], by Student's t over the values; None for one value
"""


@frozen
class SeedResult:
    """What the stages of one network measured; None where a stage did not run.

    Lists have one entry an image, in the order in which images were evaluated, and start at the first.

    Args:
        seed: the seeds of the network.
        searched: whether a search found its architecture.
        trained: whether it was trained here; one that was not is the same under every seed.
        clean: whether each image is right when clean.
        attacks: figures of the attacks.
        certified: whether each image is provably right at the recipe's threat.
        broken: of the images that were certified or refuted, whether each is known to be wrong at an image of the
            threat; None where only bounds were asked for.
        certified_at: the same as `certified` at further radii in its norm.
        radius: certified radii by norm, pixel units.
        smoothed: certified l2 radii of the smoothed classifier, 0 where it is wrong or abstains.
        flags: what a reviewer would object to, plain.
        parameters: trainable weights.
        match: by which share of its target a network missed the capacity that it was matched to.
        search_seconds: time of the search.
    """

    seed: Seed
    searched: bool = True
    trained: bool = True
    clean: Sequence[bool] | None = None
    attacks: Verdicts = field(factory=Verdicts)
    certified: Sequence[bool] | None = None
    broken: Sequence[bool] | None = None
    certified_at: dict[float, Sequence[bool]] = field(factory=dict)
    radius: dict[str, Sequence[float]] = field(factory=dict)
    smoothed: Sequence[float] | None = None
    flags: Sequence[dict[str, Any]] = ()
    parameters: int | None = None
    match: float | None = None
    search_seconds: float | None = None


def figure(values: Sequence[Sequence[float | None]]) -> Figure:
    """Make a figure of values[search seed][training seed]."""
    found = nested(values)
    if found is None:
        return None
    return {
        "mean": found.mean,
        "std": found.std,
        "std_within": found.std_within,
        "interval": None if found.interval is None else [found.interval.low, found.interval.high],
        "values": found.means,
        "within": [[None if value is None else float(value) for value in below] for below in values],
    }


def share(flags: Sequence[float]) -> float:
    """Take the share of true entries; of shares, their mean."""
    return math.fsum(flags) / len(flags)


def _share(flags: Sequence[float] | None) -> float | None:
    return None if flags is None else share(flags)


def _open(result: SeedResult) -> float | None:
    """Take the share of images that are neither proved robust nor broken."""
    if result.certified is None or result.broken is None:
        return None
    return share([not (proved or broken) for proved, broken in zip(result.certified, result.broken, strict=True)])


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


def _seeds(results: Sequence[SeedResult]) -> list[int] | dict[str, list[int]]:
    """Give the seeds of a method as a recipe writes them; what was not searched for has no seeds of a search."""
    if not any(result.seed.nested for result in results):
        return [result.seed.search for result in results]
    searches = list(dict.fromkeys(result.seed.search for result in results))
    trainings = list(dict.fromkeys(result.seed.train for result in results))
    return {**({"search": searches} if any(r.searched for r in results) else {}), "train": trainings}


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

    by_search: dict[int, list[SeedResult]] = {}
    for result in results:
        by_search.setdefault(result.seed.search, []).append(result)

    def over(measure: Callable[[SeedResult], float | None]) -> Figure:
        """Make a figure of what each network measured."""
        return figure([[measure(result) for result in below] for below in by_search.values()])

    def over_correct(norm: str, measure: Callable[[Sequence[float]], float]) -> Figure:
        """Make a figure of the radii of what each network classifies correctly."""
        return over(lambda result: _over_correct(result, norm, measure))

    def by_label(pick: Callable[[Verdicts], Any]) -> dict[str, Any]:
        """List what each network has of each attack, where any network has something."""
        found = {c.label: [pick(r.attacks).get(c.label) for r in results] for c in columns}
        return {label: values for label, values in found.items() if any(values)}

    return {
        "method": method,
        "seeds": _seeds(results),
        "clean": over(lambda r: _share(r.clean)),
        "robust": over(lambda r: _share(r.attacks.robust)),
        "attacks": {c.label: over(lambda r, label=c.label: _share(r.attacks.standing.get(label))) for c in columns},  # type: ignore[misc]
        "robust_at": {f"{e:g}": over(lambda r, e=e: _share(r.attacks.curve.get(e))) for e in epsilons},  # type: ignore[misc]
        "certified": over(lambda r: _share(r.certified)),
        "broken": over(lambda r: _share(r.broken)),
        "open": over(_open),
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


def name(row: dict[str, Any]) -> str:
    """Name a row: its method, and where several runs stand in one table `METHOD of RUN`; no method has a blank."""
    return f"{row['method']} of {row['run']}" if "run" in row else str(row["method"])


@frozen
class Comparison:
    """Everything the printed table needs: rows as plain data, the attacks, and what stands under the table.

    Args:
        rows: a row a method; where several runs stand in one table each has its `run`.
        comparisons: each method against the best and against the first, as `comparisons.compared` makes them.
        kept: a line on what else the run directory holds, or nothing.  It is printed but in no file, because it depends
            on what was run there before.
        published: what others report, shown below the rows; it is in no test and no mark.
        apart: the first keys of columns in which rows are neither compared nor marked: their runs mean other things by
            them, say.
        shown: where the figures of the columns that are shown are in a row, from left to right; None: all columns.
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
    comparisons: list[dict[str, Any]] = field(factory=list)
    kept: str = ""
    published: list[Reported] = field(factory=list)
    apart: Sequence[str] = ()
    shown: list[tuple[str, ...]] | None = None

    @property
    def names(self) -> list[str]:
        """The titles of the columns that name a row."""
        return ["run", "method"] if any("run" in row for row in self.rows) else ["method"]

    @property
    def heading(self) -> str:
        """What stands above the table: the threat, and what the figures of a quick recipe are worth."""
        return f"threat: {self.threat}" + (f"; {QUICK}" if QUICK in self.notes else "")
