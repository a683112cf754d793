"""Describes what happened in the searches of a run, epoch by epoch: their figures, and where alpha went."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from robustnas.run.layout import Layout
from robustnas.runtime.artifacts import StageFolder
from robustnas.table.opened import Run, searched
from robustnas.table.report.charts import Chart, Field, HeatMap, Point, Series, named

MOST_COLUMNS = 50
"""Epochs of a heat map, at most; of more every other one is shown, and so on, and the last."""

Records = Sequence[Mapping[str, Any]]
"""The history of one search, a record an epoch."""

Histories = Mapping[str, Sequence[Records]]
"""The histories of each method's searches."""


def folders(run: Run, shown: Layout) -> dict[str, list[StageFolder]]:
    """Find the searches of each method that have begun, each once."""
    found: dict[str, list[StageFolder]] = {}
    for method, seeds in shown.methods.items():
        places = dict.fromkeys(searched(run.directory, stages) for stages in seeds.values())
        found[method] = [run.directory.at(where) for where in places if where is not None]
    return found


def curves(histories: Histories) -> Iterator[Chart]:
    """Describe losses, scores, the balance of their gradients, and how undecided alpha is."""
    yield from _curve(histories, "loss", "Loss of the inner level", "cross-entropy on training images")
    yield from _curve(histories, "val_loss", "Loss of the outer level", "cross-entropy on validation images")
    note = "0 where alpha has decided, the logarithm of the number of operations where it has not begun to."
    yield from _curve(histories, "alpha_entropy", "Entropy of alpha", "nats, mean over choices", note=note)
    for key, title, up, note, logarithmic in (
        ("scores", "Score", "mean score, without its weight", "Larger is more robust.", False),
        (
            "alpha_gradient_ratio",
            "Gradient balance",
            "gradient of the score / of the loss",
            "How hard the score pulls at alpha beside the loss: 1 is as hard.",
            True,
        ),
    ):
        records = (one for every in histories.values() for some in every for one in some)
        for metric in dict.fromkeys(name for record in records for name in record.get(key) or ()):

            def pick(record: Mapping[str, Any], key: str = key, metric: str = metric) -> float | None:
                value: float | None = (record.get(key) or {}).get(metric)
                return value if value is None or value > 0 or key == "scores" else None

            yield from _curve(histories, pick, f"{title}: {metric}", up, note=note, logarithmic=logarithmic)


def _curve(
    histories: Histories, pick: str | Callable[[Mapping[str, Any]], float | None], title: str, up: str, **more: Any
) -> Iterator[Chart]:
    """Describe one figure, the mean over each method's searches; nothing where no search has it."""
    value: Callable[[Mapping[str, Any]], float | None] = (lambda r: r.get(pick)) if isinstance(pick, str) else pick
    series = []
    for style, (method, every) in enumerate(histories.items()):
        by_epoch: dict[int, list[float]] = {}
        for record in (one for records in every for one in records):
            found = value(record)
            if found is not None:
                by_epoch.setdefault(int(record["epoch"]), []).append(found)
        points: list[Point] = [(epoch, statistics.fmean(values)) for epoch, values in sorted(by_epoch.items())]
        series += [Series(method, points, style)] if points else []
    if series:
        yield Chart(named(f"search {title}"), title, "epoch", up, series, whole=True, **more)


def heat_maps(method: str, records: Records, operations: Mapping[str, Sequence[str]]) -> Iterator[HeatMap]:
    """Describe where the mixing weights of one search went: a map for each table of alpha.

    Tables of one row, which choose among edges, are in one map.

    Args:
        operations: names of the columns of each table, where they are known.
    """
    epochs = [record for record in records if isinstance(record.get("alpha"), Mapping)]
    every = max(1, -(-len(epochs) // MOST_COLUMNS))
    epochs = epochs[(len(epochs) - 1) % every :: every]
    if not epochs:
        return
    columns = [str(record["epoch"]) for record in epochs]
    single: list[Field] = []
    for table, rows in epochs[-1]["alpha"].items():
        mixed = [[softmax(record["alpha"][table][row]) for record in epochs] for row in range(len(rows))]
        names = operations.get(table) or [f"{place}" for place in range(1, len(rows[0]) + 1)]
        fields = [
            Field(f"edge {row}", names, [[weights[place] for weights in one] for place in range(len(names))])
            for row, one in enumerate(mixed, start=1)
        ]
        if len(rows) == 1:
            single.append(Field(table, names, fields[0].values))
            continue
        note = (
            "" if operations.get(table) else "The search tells no names of its operations: these are columns of alpha."
        )
        yield _map(f"Mixing weights of {method}: {table}", columns, fields, note)
    if single:
        yield _map(f"Mixing weights of {method}: among edges", columns, single, "")


def _map(title: str, columns: Sequence[str], fields: Sequence[Field], note: str) -> HeatMap:
    """Describe fields, and say in words what has the most weight at the end."""
    told = []
    for field in fields:
        last = [row[-1] for row in field.values]
        most = last.index(max(last))
        told.append(f"{field.title} {field.rows[most]} ({last[most]:.2f})")
    about = f"After epoch {columns[-1]} the most weight is on: {', '.join(told)}."
    return HeatMap(named(title), title, "epochs", columns, fields, about, note)


def softmax(row: Sequence[float]) -> list[float]:
    """Turn logits into weights."""
    high = max(row)
    powers = [math.exp(one - high) for one in row]
    return [one / sum(powers) for one in powers]
