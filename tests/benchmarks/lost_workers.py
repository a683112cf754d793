"""Sixty stages whose workers are killed every few seconds: is the table the same, and what does it cost?

    python tests/benchmarks/lost_workers.py                    local, ray and slurm (submitit's own local jobs), minutes
    python tests/benchmarks/lost_workers.py --seconds 10 --only ray

`local --jobs 2` does the run in peace, and the others twice: in peace, and while every `--seconds` a process that is
at a stage is killed (SIGKILL).  A command that ends with failures is given again, as a person would: nobody else begins
submitit's own local jobs again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from attrs import Factory, define
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.finished_run import table, without_seconds

RECIPE = """
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.02}
seeds: %s
search: {epochs: 2, batch: 200}
methods:
  darts: {}
  jac: {metric: {name: jacobian, rows: 1}}
train: {epochs: 2, batch: 100, cutout: 0, auxiliary: 0, drop_path: 0, lr: 0.1}
attacks: [{name: pgd, steps: 3, step_size: 0.01}]
evaluate: {images: 40}
certify: {images: 10}
resources: {every: {cpus: 1}}
"""

STAGES = 12
"""Of a seed."""

HOW = {
    "local": ["--jobs", "2"],
    "ray": ["--executor", "ray"],
    "slurm": ["--executor", "{name: slurm, cluster: local, poll: 0.2}"],
}

COMMANDS = 40
"""How often a command is given at most."""


@define
class Killer:
    """Kills a process that is at a stage of a run, every few seconds."""

    run: Path
    seconds: float
    command: int = 0
    killed: int = 0
    draw: random.Random = Factory(lambda: random.Random(0))
    ended: threading.Event = Factory(threading.Event)

    def work(self) -> None:
        while not self.ended.wait(self.seconds):
            there = self.at_stages()
            if there:
                with suppress(ProcessLookupError):
                    os.kill(self.draw.choice(there), signal.SIGKILL)
                    self.killed += 1

    def at_stages(self) -> list[int]:
        """Processes that tell of themselves, but for the command."""
        found = []
        for file in (self.run / ".work").glob("*.json"):
            with suppress(OSError, ValueError):
                found.append(json.loads(file.read_text())["process"])
        return [process for process in found if process != self.command]


def done(run: Path) -> int:
    return sum(1 for _ in run.glob("*/*/result.json"))


def once(folder: Path, executor: str, seconds: float | None, seeds: int = 5) -> tuple[float, int, int]:
    """Do the run; returns seconds, how many processes were killed, and how many commands were given."""
    (folder / "r.yaml").write_text(RECIPE % list(range(seeds)))
    run, began = folder / "run", time.monotonic()
    words = [sys.executable, "-m", "robustnas", "run", str(folder / "r.yaml"), "--out", str(run), "--device", "cpu"]
    killer = Killer(run, seconds or 0.0)
    thread = threading.Thread(target=killer.work)
    if seconds is not None:
        thread.start()
    commands = 0
    try:
        while commands < COMMANDS:
            commands += 1
            with (folder / "told").open("ab") as told:
                command = subprocess.Popen([*words, *HOW[executor]], stdout=told, stderr=told)
                killer.command = command.pid
                if command.wait() == 0:
                    break
        else:
            raise SystemExit(f"{COMMANDS} commands did {done(run)} stages; {folder}/told says why no more")
    finally:
        killer.ended.set()
        if seconds is not None:
            thread.join()
    assert done(run) == STAGES * seeds
    return time.monotonic() - began, killer.killed, commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="between two kills")
    parser.add_argument("--only", nargs="+", choices=tuple(HOW), default=list(HOW))
    parser.add_argument("--seeds", type=int, default=5, help="of which each has twelve stages")
    asked = parser.parse_args()
    console, shown = Console(width=110), Table("executor", "in peace, s", "killed", "commands", "s", "s lost", "table")
    with tempfile.TemporaryDirectory() as name:
        first = None
        for executor in asked.only:
            found = []
            for number, seconds in enumerate((None,) if executor == "local" else (None, asked.seconds)):
                folder = Path(name) / f"{executor}{number}"
                folder.mkdir()
                found.append(once(folder, executor, seconds, asked.seeds))
                told = without_seconds(table(folder))
                first = first or told
                console.print(executor, seconds, found[-1], "the same" if told == first else "ANOTHER TABLE")
            (peace, *_), (took, killed, commands) = found[0], found[-1]
            verdict = "the same" if told == first else "another"
            row = (f"{peace:.0f}", str(killed), str(commands), f"{took:.0f}", f"{took - peace:.0f}", verdict)
            shown.add_row(executor, *row)
    console.print(shown)


if __name__ == "__main__":
    main()
