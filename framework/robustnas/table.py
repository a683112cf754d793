"""The one table: a row a method, mean and standard deviation over seeds, best value marked.

    certified <= robust <= clean        for every image under one threat, or an error that names the image

`row` builds plain data from the results of the stages; `markdown`, `csv_text`, `json_data` and `show` present it.
Nothing here depends on when or where the run happened, except keys that end in `_seconds`.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import field, frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from robustnas import attack
from robustnas.errors import VerdictError
from robustnas.threat import NORMS

SCHEMA = 1
Figure = dict[str, Any] | None
"""`{"mean", "std", "values"}`; std is the sample standard deviation, None for one seed.  None: not measured."""


@frozen
class AttackColumn:
    """One attack of the recipe, as a column."""

    label: str
    threat: str
    worst_case: bool = field(metadata={"help": "the attack's threat is the recipe's, so it counts for `robust`"})


@frozen
class SeedResult:
    """What the stages of one method and seed measured; None where a stage did not run.

    Per-image lists are in the order of the test split and start at its first image.
    """

    seed: int
    clean: Sequence[bool] | None = None
    broken: dict[str, Sequence[bool]] = field(factory=dict)
    certified: Sequence[bool] | None = None
    radius: dict[str, Sequence[float]] = field(factory=dict)
    parameters: int | None = None
    search_seconds: float | None = None


def figure(values: Sequence[float | None]) -> Figure:
    """Mean and sample standard deviation over the seeds that were measured; None when none was."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": std, "values": known}


def check_verdicts(method: str, result: SeedResult, columns: Sequence[AttackColumn]) -> None:
    """Certified implies unbroken, robust implies clean: image by image, under the recipe's threat.

    Raises:
        VerdictError: names the first image that contradicts itself.
    """
    if result.clean is None:
        return
    for column in columns:
        if not column.worst_case or column.label not in result.broken:
            continue
        for index, (was_broken, certified) in enumerate(
            zip(result.broken[column.label], result.certified or [], strict=False)
        ):
            if was_broken and certified:
                raise VerdictError(
                    f"{method}, seed {result.seed}: test image {index} is certified and yet broken by "
                    f"{column.label}; a bound or an attack is wrong"
                )
    for index, (clean, certified) in enumerate(zip(result.clean, result.certified or [], strict=False)):
        if certified and not clean:
            raise VerdictError(
                f"{method}, seed {result.seed}: test image {index} is certified and yet wrong when clean; "
                "a bound is wrong"
            )
    for label, broken in result.broken.items():
        for index, (clean, was_broken) in enumerate(zip(result.clean, broken, strict=True)):
            if was_broken and not clean:
                raise VerdictError(
                    f"{method}, seed {result.seed}: test image {index} is wrong when clean and yet counted as "
                    f"broken by {label}; the network's clean predictions changed between two stages"
                )


def robust_share(result: SeedResult, columns: Sequence[AttackColumn]) -> float | None:
    """Share of images right when clean and under every attack of the recipe's threat; None without such attacks."""
    worst = [column.label for column in columns if column.worst_case]
    if result.clean is None or not worst or any(label not in result.broken for label in worst):
        return None
    standing = attack.robust(torch.tensor(result.clean), [torch.tensor(result.broken[label]) for label in worst])
    return share(standing.tolist())


def share(flags: Sequence[bool]) -> float:
    """Share of true entries."""
    return sum(map(bool, flags)) / len(flags)


def _attack_share(result: SeedResult, label: str) -> float | None:
    if result.clean is None or label not in result.broken:
        return None
    return share([clean and not broken for clean, broken in zip(result.clean, result.broken[label], strict=True)])


def _radius(result: SeedResult, norm: str, over_correct: bool) -> float | None:
    """Mean certified radius in pixel units, over correctly classified images or with 0 for the others."""
    if result.clean is None or norm not in result.radius:
        return None
    radii = result.radius[norm]
    chosen = [r for r, clean in zip(radii, result.clean, strict=False) if clean or not over_correct]
    return statistics.fmean(chosen) if chosen else None


def row(method: str, results: Sequence[SeedResult], columns: Sequence[AttackColumn]) -> dict[str, Any]:
    """One row as plain data; shares in [0, 1], radii in pixel units."""
    for result in results:
        check_verdicts(method, result, columns)

    def over(measure: Callable[[SeedResult], float | None]) -> Figure:
        return figure([measure(result) for result in results])

    return {
        "method": method,
        "seeds": [result.seed for result in results],
        "clean": over(lambda r: None if r.clean is None else share(r.clean)),
        "robust": over(lambda r: robust_share(r, columns)),
        "attacks": {c.label: over(lambda r, label=c.label: _attack_share(r, label)) for c in columns},  # type: ignore[misc]
        "certified": over(lambda r: None if r.certified is None else share(r.certified)),
        "certified_radius": {n: over(lambda r, n=n: _radius(r, n, True)) for n in NORMS},  # type: ignore[misc]
        "certified_radius_all": {n: over(lambda r, n=n: _radius(r, n, False)) for n in NORMS},  # type: ignore[misc]
        "parameters": over(lambda r: None if r.parameters is None else float(r.parameters)),
        "search_seconds": over(lambda r: r.search_seconds),
    }


@frozen
class Comparison:
    """Everything the printed table needs: rows as plain data, the attacks, and what stands under the table."""

    threat: str
    rows: list[dict[str, Any]]
    attacks: list[AttackColumn]
    norms: list[str]
    notes: list[str]


@frozen
class _Column:
    """A printed column: where its figure is in a row, how it is written, and which direction is better."""

    title: str
    pick: Callable[[dict[str, Any]], Figure]
    write: Callable[[float], str]
    largest_is_best: bool


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _pixels(value: float) -> str:
    """Three significant digits, without an exponent: radii of deep networks are small."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value)))}f}" if 0 < value < 1 else f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _columns(comparison: Comparison) -> list[_Column]:
    columns = [_Column("clean %", lambda r: r["clean"], _percent, True)]
    columns += [
        _Column(f"{a.label} %", lambda r, label=a.label: r["attacks"][label], _percent, True)  # type: ignore[misc]
        for a in comparison.attacks
    ]
    if any(a.worst_case for a in comparison.attacks):
        columns.append(_Column("robust %", lambda r: r["robust"], _percent, True))
    if any(r["certified"] is not None for r in comparison.rows):
        columns.append(_Column("certified %", lambda r: r["certified"], _percent, True))
    columns += [
        _Column(f"radius {n}", lambda r, n=n: r["certified_radius"][n], _pixels, True)  # type: ignore[misc]
        for n in comparison.norms
    ]
    columns.append(_Column("parameters", lambda r: r["parameters"], _count, False))
    columns.append(_Column("search s", lambda r: r["search_seconds"], _seconds, False))
    return columns


def cells(comparison: Comparison) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Titles, and for each row its (text, is best) cells; ties share the mark, a single row has none."""
    columns = _columns(comparison)
    body: list[list[tuple[str, bool]]] = []
    best: list[str | None] = []
    for column in columns:
        means = [f["mean"] for f in map(column.pick, comparison.rows) if f is not None]
        top = (max(means) if column.largest_is_best else min(means)) if len(comparison.rows) > 1 and means else None
        best.append(None if top is None else column.write(top))
    for r in comparison.rows:
        line = [(str(r["method"]), False), (str(len(r["seeds"])), False)]
        for column, top_text in zip(columns, best, strict=True):
            found = column.pick(r)
            if found is None:
                line.append(("-", False))
                continue
            text = column.write(found["mean"])
            is_best = text == top_text
            if found["std"] is not None:
                text += f" ± {column.write(found['std'])}"
            line.append((text, is_best))
        body.append(line)
    return ["method", "seeds", *[column.title for column in columns]], body


def json_data(comparison: Comparison) -> dict[str, Any]:
    """The table as plain data: what `table.json` holds (documented in docs/results.md)."""
    return {
        "schema": SCHEMA,
        "threat": comparison.threat,
        "attacks": {a.label: {"threat": a.threat, "worst_case": a.worst_case} for a in comparison.attacks},
        "notes": comparison.notes,
        "rows": comparison.rows,
    }


def markdown(comparison: Comparison) -> str:
    """The table in Markdown, best values bold, notes underneath."""
    titles, body = cells(comparison)
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join(["---"] + ["---:"] * (len(titles) - 1)) + "|"]
    for line in body:
        lines.append("| " + " | ".join(f"**{text}**" if best else text for text, best in line) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in comparison.notes), ""])


def csv_text(comparison: Comparison) -> str:
    """The table as CSV: a mean and a std column a figure, unrounded; empty where not measured."""
    columns = _columns(comparison)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["method", "seeds"]
    for column in columns:
        name = column.title.removesuffix(" %").replace(" ", "_")
        name = "search_seconds" if name == "search_s" else name
        header += (
            [f"{name}_mean", f"{name}_std"] if name != "search_seconds" else ["search_seconds", "search_std_seconds"]
        )
    writer.writerow(header)
    for r in comparison.rows:
        line: list[Any] = [r["method"], " ".join(map(str, r["seeds"]))]
        for column in columns:
            found = column.pick(r)
            line += ["", ""] if found is None else [found["mean"], "" if found["std"] is None else found["std"]]
        writer.writerow(line)
    return out.getvalue()


def render(comparison: Comparison, width: int | None = None) -> list[RichTable]:
    """The table for a terminal; the best of a column carries a star.

    One table where it fits `width` (None: any width does).  Narrower, deviations go to a second line; narrower still,
    the columns are spread over several tables, each with the methods: a figure is never cut.
    """
    titles, body = cells(comparison)
    shown = [[_starred(text) if best else text for text, best in line] for line in body]
    everything = list(range(1, len(titles)))
    limit = math.inf if width is None else width
    for compact in (False, True):
        table = _grid(titles, shown, everything, compact)
        if _full_width(table) <= limit:
            return [table]
    tables: list[RichTable] = []
    while everything:
        count = len(everything)
        while count > 1 and _full_width(_grid(titles, shown, everything[:count], True)) > limit:
            count -= 1
        tables.append(_grid(titles, shown, everything[:count], True))
        everything = everything[count:]
    return tables


def _starred(text: str) -> str:
    mean, space, rest = text.partition(" ")
    return f"[bold]{mean}*{space}{rest}[/]"


def _grid(titles: list[str], body: list[list[str]], chosen: list[int], compact: bool) -> RichTable:
    """The methods and the chosen columns."""
    table = RichTable(box=SIMPLE_HEAD, padding=(0, 1))
    for index in (0, *chosen):
        title = titles[index].replace(" ", "\n") if compact else titles[index]
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=True)
    for line in body:
        table.add_row(*[line[i].replace(" ±", "\n±") if compact else line[i] for i in (0, *chosen)])
    return table


def show(comparison: Comparison, console: Console) -> None:
    """Print the table and its notes; where stdout is no terminal, as wide as the table is."""
    tables = render(comparison, console.width if console.is_terminal else None)
    if not console.is_terminal:
        console = Console(file=console.file, width=max(map(_full_width, tables)))
    console.print(f"threat: {comparison.threat}", markup=False, highlight=False)
    for table in tables:
        console.print(table)
    for note in comparison.notes:
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _full_width(table: RichTable) -> int:
    """Columns the table needs on one line a row."""
    return Console(width=10_000).measure(table).maximum
