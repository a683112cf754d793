"""The one table: a row a method, mean and standard deviation over seeds, best value marked.

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

from attrs import field, frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from robustnas.threat import NORMS, radius_text
from robustnas.verdicts import Verdicts

SCHEMA = 1
FLAGGED = "(!)"
"""Stands behind the name of a method whose figures a reviewer would question; why is said under the table."""

Figure = dict[str, Any] | None
"""`{"mean", "std", "values"}`; std is the sample standard deviation, None for one seed.  None: not measured."""


@frozen
class AttackColumn:
    """One attack of the recipe, as a column."""

    label: str
    threat: str
    worst_case: bool = field(metadata={"help": "its images are of the recipe's threat, so it counts for `robust`"})
    spared: bool = field(default=False, metadata={"help": "it was spared the images that attacks before it fooled"})

    @property
    def title(self) -> str:
        """Of the printed column."""
        return f"after {self.label} %" if self.spared else f"{self.label} %"


@frozen
class SeedResult:
    """What the stages of one method and seed measured; None where a stage did not run.

    Lists have one entry an image, in the order in which images were evaluated, and start at the first.

    Args:
        seed: of the recipe.
        clean: right when clean.
        attacks: what its attacks amount to.
        certified: provably right at the recipe's threat.
        radius: certified radii by norm, pixel units.
        smoothed: certified l2 radii of the smoothed classifier, 0 where it is wrong or abstains.
        flags: what a reviewer would object to, plain.
        parameters: trainable weights.
        search_seconds: time of the search.
    """

    seed: int
    clean: Sequence[bool] | None = None
    attacks: Verdicts = field(factory=Verdicts)
    certified: Sequence[bool] | None = None
    radius: dict[str, Sequence[float]] = field(factory=dict)
    smoothed: Sequence[float] | None = None
    flags: Sequence[dict[str, Any]] = ()
    parameters: int | None = None
    search_seconds: float | None = None


def figure(values: Sequence[float | None]) -> Figure:
    """Mean and sample standard deviation over the seeds that were measured; None when none was."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": std, "values": known}


def share(flags: Sequence[float]) -> float:
    """Share of true entries; of shares, their mean."""
    return math.fsum(flags) / len(flags)


def _share(flags: Sequence[float] | None) -> float | None:
    return None if flags is None else share(flags)


def _radius(result: SeedResult, norm: str, over_correct: bool) -> float | None:
    """Mean certified radius in pixel units, over correctly classified images or with 0 for the others."""
    if result.clean is None or norm not in result.radius:
        return None
    radii = result.radius[norm]
    chosen = [r for r, clean in zip(radii, result.clean, strict=False) if clean or not over_correct]
    return statistics.fmean(chosen) if chosen else None


def row(
    method: str,
    results: Sequence[SeedResult],
    columns: Sequence[AttackColumn],
    epsilons: Sequence[float] = (),
    smoothing: Sequence[float] | None = None,
) -> dict[str, Any]:
    """One row as plain data; shares in [0, 1], radii in pixel units.

    Args:
        epsilons: radii of the curve of robust accuracy.
        smoothing: l2 radii at which the smoothed classifier is shown; None where there is none.
    """

    def over(measure: Callable[[SeedResult], float | None]) -> Figure:
        return figure([measure(result) for result in results])

    def by_label(pick: Callable[[Verdicts], Any]) -> dict[str, Any]:
        found = {c.label: [pick(r.attacks).get(c.label) for r in results] for c in columns}
        return {label: values for label, values in found.items() if any(values)}

    return {
        "method": method,
        "seeds": [result.seed for result in results],
        "clean": over(lambda r: _share(r.clean)),
        "robust": over(lambda r: _share(r.attacks.robust)),
        "attacks": {c.label: over(lambda r, label=c.label: _share(r.attacks.standing.get(label))) for c in columns},  # type: ignore[misc]
        "robust_at": {f"{e:g}": over(lambda r, e=e: _share(r.attacks.curve.get(e))) for e in epsilons},  # type: ignore[misc]
        "certified": over(lambda r: _share(r.certified)),
        "certified_radius": {n: over(lambda r, n=n: _radius(r, n, True)) for n in NORMS},  # type: ignore[misc]
        "certified_radius_all": {n: over(lambda r, n=n: _radius(r, n, False)) for n in NORMS},  # type: ignore[misc]
        "smoothed": {
            f"{e:g}": over(lambda r, e=e: None if r.smoothed is None else share([x > e for x in r.smoothed]))  # type: ignore[misc]
            for e in smoothing or ()
        },
        "smoothed_radius": over(lambda r: _share(r.smoothed)),
        "variants": by_label(lambda attacks: attacks.variants),
        "parts": by_label(lambda attacks: attacks.parts),
        "evaluations": {c.label: over(lambda r, label=c.label: r.attacks.evaluations.get(label)) for c in columns},  # type: ignore[misc]
        "flags": [{**flag, "seed": r.seed} for r in results for flag in r.flags],
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
    epsilons: list[float] = field(factory=list)
    smoothing: list[float] | None = None
    contradictions: list[str] = field(factory=list)


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
        _Column(a.title, lambda r, label=a.label: r["attacks"][label], _percent, True)  # type: ignore[misc]
        for a in comparison.attacks
    ]
    if any(a.worst_case for a in comparison.attacks):
        columns.append(_Column("robust %", lambda r: r["robust"], _percent, True))
    columns += [
        _Column(f"robust at {radius_text(e)} %", lambda r, e=e: r["robust_at"][f"{e:g}"], _percent, True)  # type: ignore[misc]
        for e in comparison.epsilons
    ]
    if any(r["certified"] is not None for r in comparison.rows):
        columns.append(_Column("certified %", lambda r: r["certified"], _percent, True))
    columns += [
        _Column(f"radius {n}", lambda r, n=n: r["certified_radius"][n], _pixels, True)  # type: ignore[misc]
        for n in comparison.norms
    ]
    if comparison.smoothing is not None:
        columns += [
            _Column(f"smoothed at {e:g} %", lambda r, e=e: r["smoothed"][f"{e:g}"], _percent, True)  # type: ignore[misc]
            for e in comparison.smoothing
        ]
        columns.append(_Column("smoothed radius l2", lambda r: r["smoothed_radius"], _pixels, True))
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
        line = [(f"{r['method']} {FLAGGED}" if r["flags"] else str(r["method"]), False), (str(len(r["seeds"])), False)]
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
        "attacks": {
            a.label: {"threat": a.threat, "worst_case": a.worst_case, "spared": a.spared} for a in comparison.attacks
        },
        "epsilons": comparison.epsilons,
        "notes": comparison.notes,
        "contradictions": comparison.contradictions,
        "rows": comparison.rows,
    }


def markdown(comparison: Comparison) -> str:
    """The table in Markdown, best values bold, notes underneath."""
    titles, body = cells(comparison)
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join(["---"] + ["---:"] * (len(titles) - 1)) + "|"]
    for line in body:
        lines.append("| " + " | ".join(f"**{text}**" if best else text for text, best in line) + " |")
    parts = ["\n".join([*lines, "", *(f"- {note}" for note in _under(comparison))])]
    parts += [_markdown_matrix(*one) for one in matrices(comparison)]
    return "\n\n".join(parts) + "\n"


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
    """Print the table, its notes and its matrices; where stdout is no terminal, as wide as the table is."""
    tables = render(comparison, console.width if console.is_terminal else None)
    if not console.is_terminal:
        console = Console(file=console.file, width=max(map(_full_width, tables)))
    console.print(f"threat: {comparison.threat}", markup=False, highlight=False)
    for table in tables:
        console.print(table)
    for note in _under(comparison):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=not console.is_terminal)
    for title, names, body in matrices(comparison):
        console.print(f"\n{title}", markup=False, highlight=False)
        matrix = RichTable(box=SIMPLE_HEAD, padding=(0, 1))
        for name in ("", *names):
            matrix.add_column(name, justify="right" if name else "left")
        for method, line in body:
            matrix.add_row(method, *line)
        console.print(matrix)


def _under(comparison: Comparison) -> list[str]:
    """What stands under the table, a line each."""
    return [
        *comparison.notes,
        *costs(comparison),
        *questions(comparison),
        *(f"left out, because results contradict each other: {text}" for text in comparison.contradictions),
    ]


def costs(comparison: Comparison) -> list[str]:
    """What the attacks cost, a line: model evaluations a test image, mean over the rows."""
    told = []
    for column in comparison.attacks:
        means = [found["mean"] for r in comparison.rows if (found := r["evaluations"][column.label]) is not None]
        if any(means):
            told.append(f"{column.label} {statistics.fmean(means):,.1f}")
    return [f"model evaluations a test image: {', '.join(told)}"] if told else []


def questions(comparison: Comparison) -> list[str]:
    """What a reviewer would object to, a line each: name, attack, finding, and whose."""
    told: dict[tuple[str, str | None, str], dict[str, list[int]]] = {}
    for r in comparison.rows:
        for flag in r["flags"]:
            who = told.setdefault((flag["name"], flag["attack"], flag["text"]), {})
            who.setdefault(str(r["method"]), []).append(flag["seed"])
    lines = []
    for (name, attack, text), methods in told.items():
        whom = ", ".join(f"{method} ({', '.join(map(str, seeds))})" for method, seeds in methods.items())
        lines.append(f"{FLAGGED} {name}{f', {attack}' if attack else ''}: {text}; in (seeds) {whom}")
    return lines


Matrix = tuple[str, list[str], list[tuple[str, list[str]]]]
"""A title, the columns' names, and rows of a name and its figures."""


def matrices(comparison: Comparison) -> list[Matrix]:
    """For each attack with variants, variants by methods, in percent: who was fooled by images made on whom, say."""
    found: list[Matrix] = []
    for column in comparison.attacks:
        given = {str(r["method"]): r["variants"].get(column.label, []) for r in comparison.rows}
        names = dict.fromkeys(name for seeds in given.values() for one in seeds for name in one or ())
        body = []
        for name in names:
            means = [figure([(one or {}).get(name) for one in seeds]) for seeds in given.values()]
            body.append((name, ["-" if mean is None else _percent(mean["mean"]) for mean in means]))
        if body:
            found.append((f"{column.label}: percent right under each", list(given), body))
    return found


def _markdown_matrix(title: str, names: list[str], body: list[tuple[str, list[str]]]) -> str:
    lines = [f"{title}", "", "| | " + " | ".join(names) + " |", "|" + "|".join(["---"] + ["---:"] * len(names)) + "|"]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(line) + " |" for name, line in body)])


def _full_width(table: RichTable) -> int:
    """Columns the table needs on one line a row."""
    return Console(width=10_000).measure(table).maximum
