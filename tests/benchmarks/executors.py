"""What each executor costs a stage: the same ten small evaluations, done by each of them on this machine.

    python tests/benchmarks/executors.py [local slurm ray]

Prints seconds of the command and of its processors a stage, and how much more that is than `local`'s.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from robustnas.cli import main
from robustnas.runtime.artifacts import digests
from support.finished_run import finish

TYPED = {"local": "local", "slurm": "{name: slurm, cluster: local, poll: 0.2}", "ray": "ray"}

KINDS = ("clean", "probe", "certify", "attack")


def undo(run: Path) -> int:
    """Take the results of evaluations away; returns how many stages that leaves to do."""
    folders = [folder for kind in KINDS for folder in (run / kind).iterdir()]
    for folder in folders:
        digests.forget([folder / "result.json"])
    return len(folders)


def spent() -> tuple[float, float]:
    """Seconds of the clock, and of processors, of this process and those that it waited for."""
    times = os.times()
    return time.monotonic(), times.user + times.system + times.children_user + times.children_system


def once(folder: Path, executor: str) -> tuple[float, float]:
    """Seconds a stage: of the clock, and of processors."""
    stages = undo(folder / "run")
    command = ["run", str(folder / "r.yaml"), "--out", str(folder / "run"), "--device", "cpu", "--quiet"]
    before = spent()
    assert main([*command, "--executor", TYPED[executor], "--set", "resources={every: {cpus: 1}}"]) == 0
    clock, processors = (after - since for since, after in zip(before, spent(), strict=True))
    return clock / stages, processors / stages


if __name__ == "__main__":
    names = sys.argv[1:] or list(TYPED)
    with tempfile.TemporaryDirectory() as place:
        finish(Path(place))
        base: tuple[float, float] | None = None
        for name in names:
            clock, processors = once(Path(place), name)
            base = base or (clock, processors)
            more = f"{clock - base[0]:+.2f} s of the clock, {processors - base[1]:+.2f} s of processors"
            print(
                f"{name:<6} {clock:.2f} s a stage, {processors:.2f} s of processors; to {names[0]} {more}", flush=True
            )
