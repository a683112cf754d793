"""A tiny recipe on the shipped digits, run once for all tests of a worker: the fixtures `finished_run` and its copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustnas.cli import main

RECIPE = """
dataset: {name: digits, train_images: 500}
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.02}
seeds: [0]
search: {epochs: 2, batch: 200}
methods:
  darts: {}
  jac: {metric: {name: jacobian, rows: 1}}
train: {epochs: 2, batch: 40, cutout: 0, auxiliary: 0, drop_path: 0, lr: 0.1}
attacks: [fgsm, {name: pgd, steps: 3, step_size: 0.01}]
evaluate: {images: 40}
certify: {images: 10, epsilons: [1/255, 0.005, 0.03]}
"""

MACHINE = ("waiting", "peak_memory")
"""Figures of the machine, besides seconds."""


def run(folder: Path, *more: str) -> int:
    """`robustnas run` of the recipe in a folder, into its folder `run`; the exit status."""
    return main(["run", str(folder / "r.yaml"), "--out", str(folder / "run"), *more])


def finish(folder: Path) -> None:
    """Write the recipe into a folder and run it."""
    (folder / "r.yaml").write_text(RECIPE)
    assert run(folder, "--quiet") == 0


def results(folder: Path) -> dict[str, float]:
    """Every result of the run with the time it was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted((folder / "run").glob("*/*/result.json"))}


def table(folder: Path) -> dict[str, Any]:
    """The table of the run."""
    found: dict[str, Any] = json.loads((folder / "run" / "table.json").read_text())
    return found


def without_seconds(data: Any) -> Any:
    """Plain data without what differs from run to run."""
    if isinstance(data, dict):
        return {k: without_seconds(v) for k, v in data.items() if not k.endswith("_seconds") and k not in MACHINE}
    return [without_seconds(v) for v in data] if isinstance(data, list) else data
