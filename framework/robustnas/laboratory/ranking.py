"""Holds scores of architectures against what became of their networks: rank correlations, and what noise leaves.

An *architecture* is a method's genotype of one search seed, trained with each training seed.  An *outcome* is a figure
of the table, measured of each trained network; a *predictor* is a metric on an untrained, inherited or trained network.
Predictors and outcomes are averaged over training seeds before they are correlated.

Whether a setting can rank at all is told first: the share of an outcome's variance that lies between architectures and
not between trainings of one (`robustnas.table.statistics.intraclass`).  Where most of the variance is noise of
training, so is most of what is found among a few architectures.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from attrs import frozen

from robustnas.contracts import Genotype, SearchSpace
from robustnas.errors import InputError, RunDirectoryError
from robustnas.laboratory.published import PublishedTable
from robustnas.plan import Plan
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import Loaded
from robustnas.run import layout
from robustnas.run.directory import RunDirectory
from robustnas.run.task import genotype_of
from robustnas.runtime.artifacts import damaged
from robustnas.table.results import comparison
from robustnas.table.statistics.estimate import Estimate
from robustnas.table.statistics.intraclass import shares
from robustnas.table.statistics.ranking import FEWEST, correlation, kendall, noise_ceiling, spearman

CAN_RANK = 0.5
"""A setting whose share of variance between architectures is lower cannot rank them."""

Values = list[list[float] | None]
"""Of each architecture the values of its training seeds; None where one was not measured."""


@frozen
class Architecture:
    """A method's genotype of one search seed."""

    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} {self.seed}"


@frozen
class Ranking:
    """What a run directory says of metrics.

    Args:
        architectures: in the order of the recipe.
        outcomes: by name, the values of each architecture; radii as logarithms.
        predictors: by metric and state, likewise.
        seconds: by metric and state, mean seconds a network.
        failures: lines on metrics that failed on some architectures.
    """

    architectures: Sequence[Architecture]
    outcomes: Mapping[str, Values]
    predictors: Mapping[tuple[str, str], Values]
    seconds: Mapping[tuple[str, str], float]
    failures: Sequence[str]

    def data(self) -> dict[str, Any]:
        """Compute everything, as plain data: what `rank.json` holds (documented in docs/results.md)."""
        return {
            "schema": 1,
            "architectures": [{"method": one.method, "seed": one.seed} for one in self.architectures],
            "outcomes": [self._outcome(name, values) for name, values in self.outcomes.items()],
            "predictors": [self._predictor(*name, values) for name, values in self.predictors.items()],
            "failures": list(self.failures),
        }

    def _outcome(self, name: str, values: Values) -> dict[str, Any]:
        known = [value for value in values if value is not None]
        share, ceiling = shares(known), None
        if known and len({len(value) for value in known}) == 1 and len(known[0]) > 1:
            ceiling = noise_ceiling(known)
        single = None if share is None else share.single
        return {
            "name": name,
            "values": values,
            "share": _plain(single),
            "share_of_the_mean": None if share is None else _plain(share.averaged),
            "can_rank": None if single is None else single.value >= CAN_RANK,
            "between_trainings": None if ceiling is None else _plain(ceiling.between_trainings),
            "highest": None if ceiling is None else _plain(ceiling.highest),
        }

    def _predictor(self, metric: str, state: str, values: Values) -> dict[str, Any]:
        return {
            "metric": metric,
            "network": state,
            "values": values,
            "seconds": self.seconds[metric, state],
            "correlations": {
                name: {
                    "spearman": _plain(_correlated(values, outcome, spearman)),
                    "kendall": _plain(_correlated(values, outcome, kendall)),
                    "architectures": len(list(_pairs(values, outcome))),
                }
                for name, outcome in self.outcomes.items()
            },
        }


def check(loaded: Loaded, plan: Plan, faults: Faults) -> None:
    """Refuse too few architectures for a correlation, or a table that will not do, before anything runs."""
    published = None if plan.ranking is None else plan.ranking.settings.published
    spaces = {id(method.search_space): method.search_space for method in plan.methods.values()}
    for space in spaces.values():
        if space is not None and published is not None:
            loaded.noting(faults).attempt(partial(PublishedTable, published, space), "rank.published")
    scored = [name for name, method in plan.methods.items() if method.network is None]
    count = sum(len({seed.search for seed in plan.seeds_of(name)}) for name in scored)
    if count < FEWEST:
        text = f"found {count} architectures, and a rank correlation needs {FEWEST}; seeds: {{search: [0, 1, 2, 3, 4], "
        loaded.noting(faults)("seeds", f"{text}train: [0, 1]}} of a method with strategy: random would do")


def read(directory: RunDirectory, plan: Plan) -> Ranking:
    """Collect outcomes and scores of a run directory.

    Raises:
        InputError: it holds fewer architectures than a correlation needs, or a published table will not do.
        RunDirectoryError: a result is damaged.
    """
    shown, compared = layout.read(directory), comparison(directory)
    tables: dict[int, PublishedTable] = {}
    measured: list[_Measured] = []
    seen: set[tuple[Any, ...]] = set()
    again, missing = [], []
    for row in compared.rows:
        networks = shown.methods[row["method"]]
        if not any(stages["score"] for stages in networks.values()):
            continue  # a network made elsewhere has no genotype to be scored untrained
        outcomes = dict(_outcomes(row))
        for place, search in enumerate(dict.fromkeys(seed.search for seed in networks)):
            this = Architecture(row["method"], search)
            method, genotype = plan.methods[this.method], _genotype(directory, plan, this)
            trainings = tuple(seed.train for seed in networks if seed.search == search)
            trained = repr((method.space, method.train)), trainings, json.dumps(genotype, sort_keys=True)
            if genotype is not None and trained in seen:  # the first of several candidates is what `random` draws, say
                again.append(str(this))
                continue
            seen.add(trained)
            table = _table(plan, method.space, tables)
            if table is None:
                own = {name: values[place] for name, values in outcomes.items()}
            else:
                found = {} if genotype is None else table.of(genotype)
                missing += [] if found else [str(this)]
                own = {name: found.get(name) or None for name in table.outcomes}
            scored = [_scores(directory, networks[seed]) for seed in networks if seed.search == search]
            measured.append(_Measured(this, own, scored))
    if len(measured) < FEWEST:
        raise InputError(
            f"{directory.path} holds {len(measured)} scored architectures, and a rank correlation needs {FEWEST}; "
            "more search seeds would do"
        )
    return _tabulated(measured, missing, again)


@frozen
class _Measured:
    """What is known of one architecture: its outcomes by name, and the scores of each of its networks."""

    architecture: Architecture
    outcomes: Mapping[str, list[float] | None]
    scored: Sequence[_Scored]

    def predictor(self, key: tuple[str, str]) -> list[float] | None:
        """The scores of its networks by a metric in a state; None where one is missing."""
        values = [one.scores[key] for one in self.scored if key in one.scores]
        return values if len(values) == len(self.scored) else None


def _tabulated(measured: Sequence[_Measured], missing: Sequence[str], again: Sequence[str]) -> Ranking:
    """Put the architectures side by side, and say what failed.

    Args:
        missing: architectures that a published table lacks.
        again: architectures whose networks are those of others.
    """
    networks = [one for each in measured for one in each.scored]
    names = dict.fromkeys(name for one in measured for name in one.outcomes)
    failures: dict[tuple[str, str, str], dict[str, None]] = {}
    for one in measured:
        for (label, state), text in (failed for scored in one.scored for failed in scored.failed.items()):
            failures.setdefault((label, state, text), {})[str(one.architecture)] = None
    lines = [
        f"{label} on the {state} network failed, and the rest is ranked: {text}; {_first(list(whose))}"
        for (label, state, text), whose in failures.items()
    ]
    lines += [f"not in the published table, and left out: {_first(missing)}"] if missing else []
    lines += [f"the same networks as of architectures before them, and counted once: {_first(again)}"] if again else []
    return Ranking(
        [one.architecture for one in measured],
        {name: [one.outcomes.get(name) for one in measured] for name in names},
        {
            key: [one.predictor(key) for one in measured]
            for key in dict.fromkeys(k for one in networks for k in one.scores)
        },
        {
            key: statistics.fmean(one.seconds[key] for one in networks if key in one.seconds)
            for key in dict.fromkeys(k for one in networks for k in one.seconds)
        },
        lines,
    )


def _table(plan: Plan, space: SearchSpace, known: dict[int, PublishedTable]) -> PublishedTable | None:
    """The published table of a space, read once; None where the recipe names none."""
    published = None if plan.ranking is None else plan.ranking.settings.published
    if published is not None and id(space) not in known:  # the loader makes one object of spaces that are written alike
        known[id(space)] = PublishedTable(published, space)
    return known.get(id(space))


def _genotype(directory: RunDirectory, plan: Plan, architecture: Architecture) -> Genotype | None:
    """Find the genotype of an architecture; None while it is not found."""
    name = architecture.method
    if plan.methods[name].genotype is not None:
        return plan.methods[name].genotype
    seed = next(seed for seed in plan.seeds_of(name) if seed.search == architecture.seed)
    stage = plan.genotype_stage(name, seed)
    return genotype_of(directory, plan, name, seed) if stage is not None and directory.done(stage) else None


@frozen
class _Scored:
    """What one network's score stage says, by metric and state."""

    scores: Mapping[tuple[str, str], float]
    seconds: Mapping[tuple[str, str], float]
    failed: Mapping[tuple[str, str], str]


def _scores(directory: RunDirectory, stages: Mapping[str, Any]) -> _Scored:
    """Read a network's scores; none where they are not there."""
    if stages["score"] is None or not directory.at(stages["score"]).done:
        return _Scored({}, {}, {})
    folder = directory.at(stages["score"])
    result = folder.result()
    try:
        return _Scored(*(_flat(result[key]) for key in ("scores", "score_seconds", "failed")))
    except (KeyError, AttributeError) as fault:
        raise RunDirectoryError(damaged(folder.result_file, f"it has no {fault}")) from fault


def _flat(by_metric: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Any]:
    return {(label, state): value for label, states in by_metric.items() for state, value in states.items()}


def _outcomes(row: Mapping[str, Any]) -> Iterator[tuple[str, Values]]:
    """Yield the outcomes of a row: a name, and the values of each of its architectures."""
    named = {"clean": row["clean"], "robust": row["robust"]}
    named |= {f"robust at {epsilon}": figure for epsilon, figure in row["robust_at"].items()}
    named |= {"certified": row["certified"]}
    named |= {f"certified at {epsilon}": figure for epsilon, figure in row["certified_at"].items()}
    named |= {f"log radius {norm}": figure for norm, figure in row["certified_radius_geometric"].items()}
    for name, figure in named.items():
        if figure is None:
            continue
        values = figure["within"] if figure.get("within") else [[value] for value in figure["values"]]
        whole: Values = [None if None in each or not each else list(each) for each in values]
        if name.startswith("log"):
            whole = [None if each is None else [math.log(value) for value in each] for each in whole]
        yield name, whole


def _pairs(predictor: Values, outcome: Values) -> Iterator[tuple[float, float]]:
    """Yield the means of predictor and outcome of each architecture that has both."""
    for one, other in zip(predictor, outcome, strict=True):
        if one is not None and other is not None:
            yield statistics.fmean(one), statistics.fmean(other)


def _correlated(predictor: Values, outcome: Values, kind: Any) -> Estimate | None:
    pairs = list(_pairs(predictor, outcome))
    return correlation([one for one, _ in pairs], [other for _, other in pairs], kind) if len(pairs) >= FEWEST else None


def _plain(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else attrs.asdict(estimate)


def _first(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
