"""The forms of a ranking: files in the run directory, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from rich.console import Console

from robustnas.laboratory import figure, ranking
from robustnas.laboratory.ranking import CAN_RANK
from robustnas.plan import Plan
from robustnas.run.directory import RunDirectory
from robustnas.runtime import printable, terminal
from robustnas.runtime.artifacts import write_json, write_text
from robustnas.table.finished import Alone
from robustnas.table.forms import laid_out


def write(directory: RunDirectory, plan: Plan, alone: Alone = nullcontext, *, quiet: bool = False) -> None:
    """Write `rank.json`, `rank.md` and `rank.svg`, and print the ranking.

    Args:
        alone: keeps other processes from writing meanwhile.

    Raises:
        InputError: there are fewer architectures than a correlation needs.
    """
    with alone():
        data = ranking.read(directory, plan).data()
        write_json(directory.path / "rank.json", data)
        write_text(directory.path / "rank.md", markdown(data))
        write_text(directory.path / "rank.svg", figure.svg(data))
    if quiet:
        return
    console = Console()
    width = console.width if console.is_terminal else None
    for title, heads, rows in tables(data):
        terminal.say(console, f"\n{printable.line(title)}", wrap=console.is_terminal)
        body = [[(printable.line(text), False) for text in row] for row in rows]
        for table in laid_out([printable.line(head) for head in heads], body, width):
            terminal.show(table, Console(file=console.file, width=terminal.full_width(table)), soft_wrap=True)
    for note in notes(data):
        terminal.say(console, f"- {printable.line(note)}", wrap=console.is_terminal)
    terminal.say(console, f"rank.md, rank.json, rank.svg in {directory.path}")


Table = tuple[str, list[str], list[list[str]]]
"""A title, the columns' names, and rows of texts."""


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Lay out what can be ranked, and how well each metric ranks it by either correlation."""
    outcomes = data["outcomes"]
    figures = ("share", "share_of_the_mean", "between_trainings", "highest")
    verdict = {True: "yes", False: "no", None: "-"}
    signal = [[one["name"], *(_estimate(one[key]) for key in figures), verdict[one["can_rank"]]] for one in outcomes]
    heads = ["outcome", "share", "share of the mean", "rho between trainings", "highest rho", "can rank"]
    found: list[Table] = [("signal: share of an outcome's variance that lies between architectures", heads, signal)]
    for kind, sign in (("spearman", "Spearman's rho"), ("kendall", "Kendall's tau-b")):
        rows = [
            [
                f"{one['metric']} ({one['network']})",
                *(_estimate(one["correlations"][outcome["name"]][kind]) for outcome in outcomes),
                f"{one['seconds']:.3f}",
            ]
            for one in data["predictors"]
        ]
        found.append((f"{sign} with each outcome", ["metric", *(one["name"] for one in outcomes), "s"], rows))
    return found


def notes(data: Mapping[str, Any]) -> list[str]:
    """Say how the tables are to be read, and what failed."""
    weak = [one["name"] for one in data["outcomes"] if one["can_rank"] is False]
    how = "in brackets 95 % intervals, of correlations by bootstrap over architectures"
    truth = "what a predictor that knew the true values could reach against these means"
    lines = [
        f"{len(data['architectures'])} architectures; {how}; s: seconds a metric takes for a network",
        f"share: intraclass correlation of one training, and of the mean of all; highest rho: {truth}",
    ]
    if weak:
        lines.append(f"cannot rank, as its share is below {CAN_RANK:g}: {', '.join(weak)}")
    if all(one["share"] is None for one in data["outcomes"]):
        lines.append(
            "shares are not known: each architecture was trained once; seeds: {search: ..., train: [0, 1]} would do"
        )
    return [*lines, *data["failures"]]


def markdown(data: Mapping[str, Any]) -> str:
    """Write the tables and notes in Markdown."""
    parts = []
    for title, heads, rows in tables(data):
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
        parts.append(
            "\n".join([f"{title}\n", *("| " + " | ".join(map(printable.markdown, line)) + " |" for line in lines)])
        )
    parts.append("\n".join(f"- {printable.paragraph(note)}" for note in notes(data)))
    return "\n\n".join(parts) + "\n"


def _estimate(estimate: Mapping[str, float] | None) -> str:
    """Write a figure with its interval, as `+.67 [+.40, +.87]`."""
    if estimate is None:
        return "-"
    value, low, high = (_short(estimate[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _short(value: float) -> str:
    return f"{value:+.2f}".replace("0.", ".", 1)
