"""What `plan` costs, and `run` and `table` of what is done already: CPU seconds and peak memory by number of rows.

    python tests/benchmarks/plan.py                                  50, 200 and 1,000 methods of 5 seeds
    python tests/benchmarks/plan.py --methods 50 --finished          `run` and `table` of finished directories too
    python tests/benchmarks/plan.py --checkout FOLDER                the same of another checkout

A row is a method and a seed.  A quarter of the methods each searches with a metric, trains a published cell, searches
against a threat of its own, and searches longer than the others; no two are alike.  A finished directory is made of a
run of one method of each kind on few images: every stage's folder holds a copy of the results of its kind.  Memory is
the peak of the resident set, libraries that are mapped included: the first line is the import of torch alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from robustnas.plan import make
from robustnas.recipe.load import load

SEEDS = 5
ONE_SEED = "seeds=[0]"
"""Of the run whose results are copied."""
HEAD = f"""\
dataset: digits
search_space: {{name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}}
threat: {{norm: linf, epsilon: 8/255}}
seeds: {list(range(SEEDS))}
search: {{epochs: 1}}
train: {{epochs: 1, auxiliary: 0, drop_path: 0}}
attacks: [fgsm, {{name: pgd, steps: 2, step_size: 2/255}}, {{name: square, queries: 5}}]
evaluate: {{images: 10}}
methods:
"""
KINDS = (
    "metric: jacobian, search: {gamma: %de-6}",
    "genotype: DARTS_V2, train: {lr: %de-6}",
    "threat: {norm: linf, epsilon: %de-6}, metric: {name: jacobian, rows: 1}",
    "search: {alpha_lr: %de-6}",
)


def recipe(path: Path, methods: int) -> Path:
    """A recipe of so many methods."""
    lines = [f"  m{number}: {{{KINDS[number % len(KINDS)] % (number + 1)}}}\n" for number in range(methods)]
    path.write_text(HEAD + "".join(lines), encoding="utf-8")
    return path


def measured(command: list[str], checkout: Path) -> tuple[float, float]:
    """CPU seconds and peak resident MB of a Python command.

    Raises:
        SystemExit: it fails.
    """
    paths = os.pathsep.join(str(checkout / root) for root in ("framework", "plugins"))
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def finished(path: Path, out: Path, few: Path) -> None:
    """A run directory in which all stages of a recipe are done: copies of those of `few`, a run of one of each kind."""
    stages = make(load(path)).until(None)
    patterns: dict[str, Path] = {}
    for stage in make(load(few / "few.yaml", [ONE_SEED])).until(None):
        patterns.setdefault(kind_of(stage.folder), few / "run" / stage.folder)
    for stage in stages:
        left_out = shutil.ignore_patterns("digests.json")  # it names the stage, and a copy is of another
        shutil.copytree(patterns[kind_of(stage.folder)], out / stage.folder, ignore=left_out)


def kind_of(folder: str) -> str:
    """The kind of a stage, with the attack's name."""
    kind, _, name = folder.partition("/")
    return kind if kind != "attack" else name.split("-", 2)[2].rpartition("-")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--finished", action="store_true")
    asked = parser.parse_args()
    program = ["-m", "robustnas"]
    table = Table("command", "rows", "CPU s", "peak MB", title=f"{SEEDS} seeds a method")

    def add(what: str, rows: int, command: list[str]) -> None:
        seconds, memory = measured(command, asked.checkout)
        table.add_row(what, f"{rows:,}" if rows else "", f"{seconds:.1f}", f"{memory:.0f}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        add("import torch", 0, ["-c", "import torch"])
        if asked.finished:
            recipe(folder / "few.yaml", len(KINDS))
            few = [
                *program,
                "run",
                str(folder / "few.yaml"),
                "--out",
                str(folder / "run"),
                "--quiet",
                "--set",
                ONE_SEED,
            ]
            measured(few, asked.checkout)
        for methods in asked.methods:
            path, out = recipe(folder / f"{methods}.yaml", methods), folder / f"{methods}"
            add("plan", methods * SEEDS, [*program, "plan", str(path), "--out", str(out)])
            if asked.finished:
                finished(path, out, folder)
                add("plan, all done", methods * SEEDS, [*program, "plan", str(path), "--out", str(out)])
                add("run, all done", methods * SEEDS, [*program, "run", str(path), "--out", str(out), "--quiet"])
                add("table", methods * SEEDS, [*program, "table", str(out)])
                shutil.rmtree(out)
    Console().print(table)


if __name__ == "__main__":
    main()
