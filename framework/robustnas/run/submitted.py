"""What a run directory keeps of the jobs of schedulers: their names, command by command, and whose jobs are to end.

cluster/jobs-<command>.json    the scheduler's names of a command's jobs, for whoever cancels them from elsewhere
cluster/stopped-<command>      its jobs are not to begin, nor to come back

Both are removed when the command has seen all its jobs end, or, if it did not, by a later one when the scheduler has
none of them any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import damaged, read_json, real_folder, write_json, write_text

CLUSTER = "cluster"
"""The folder."""


@frozen
class Submitted:
    """The jobs of one command.

    Args:
        command: name of the process that submitted them (its `by` in `provenance.json`).
        executor: name of the executor that it used.
        jobs: the scheduler's names, by keys of stages.
    """

    command: str
    executor: str
    jobs: Mapping[str, str]

    def keep(self, directory: Path) -> None:
        """Write them into a run directory."""
        real_folder(directory / CLUSTER)
        told = {"executor": self.executor, "jobs": dict(self.jobs)}
        write_json(directory / CLUSTER / f"jobs-{self.command}.json", told)


def kept(directory: Path) -> Iterator[Submitted]:
    """Yield what commands have kept in a run directory, the oldest command first.

    Raises:
        RunDirectoryError: a file is damaged, or the folder is a link.
    """
    real_folder(directory / CLUSTER)
    for file in sorted((directory / CLUSTER).glob("jobs-*.json")):
        remedy = f"delete the file {file}: then the scheduler alone knows the jobs"
        try:
            told = read_json(file, remedy)
        except RunDirectoryError:
            if not os.path.lexists(file):  # its jobs have just ended
                continue
            raise
        jobs = told.get("jobs") if isinstance(told, dict) else None
        if not isinstance(jobs, dict):
            raise RunDirectoryError(damaged(file, "it does not hold names of jobs", remedy))
        names = {key: str(name) for key, name in jobs.items()}
        yield Submitted(file.stem.removeprefix("jobs-"), str(told.get("executor")), names)


def stop(directory: Path, command: str) -> None:
    """Let no job of a command begin, or come back, that the scheduler's signals do not reach."""
    real_folder(directory / CLUSTER)
    write_text(directory / CLUSTER / f"stopped-{command}", "its jobs are not to begin\n")


def stopped_commands(directory: Path) -> list[str]:
    """The commands whose jobs are to end."""
    real_folder(directory / CLUSTER)
    return sorted(file.name.removeprefix("stopped-") for file in (directory / CLUSTER).glob("stopped-*"))


def forget(directory: Path, command: str) -> None:
    """Forget a command of which no scheduler has a job."""
    real_folder(directory / CLUSTER)
    for name in (f"jobs-{command}.json", f"stopped-{command}"):
        with suppress(OSError):
            (directory / CLUSTER / name).unlink(missing_ok=True)


def stopped(directory: Path, command: str) -> bool:
    """Whether the jobs of a command are to end."""
    return os.path.lexists(directory / CLUSTER / f"stopped-{command}")
