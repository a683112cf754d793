"""An executor: a command in front of every stage, which may send it to another machine."""

from __future__ import annotations

import pickle
import shlex
import subprocess
import sys

from attrs import frozen

from robustnas.contracts import Work
from robustnas.options import option

DO = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))()"
"""What a process does: the call of one job."""


@frozen
class Example:
    """One stage after the other, each as a process of its own below a command."""

    command: str = option("", "what stands before each process: ssh or srun, say")

    contract = 1

    def run(self, work: Work) -> None:
        """Jobs come in an order in which each is after what it needs."""
        failed: set[str] = set()
        for job in work.jobs:
            if work.asked():
                return
            if failed.intersection(job.needs):
                failed.add(job.name)  # what is left out need not be told
                continue
            file = work.folder / f"{job.name}.pickle"
            file.write_bytes(pickle.dumps(job.call))
            process = [*shlex.split(self.command), sys.executable, "-c", DO, str(file)]
            done = subprocess.run(process, capture_output=True, text=True, check=False)
            why = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            if done.returncode:
                failed.add(job.name)
            work.ended(job.name, why[0] if done.returncode else None)
