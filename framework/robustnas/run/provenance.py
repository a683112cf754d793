"""What made the results of a run directory: `provenance.json`, an entry a command that computed something.

A stage's result names in its `provenance` the entry of the command that made it, by the time when that began.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustnas.errors import RunDirectoryError
from robustnas.registry import REGISTRIES
from robustnas.run.directory import RunDirectory
from robustnas.runtime import environment
from robustnas.runtime.artifacts import damaged, of_no_stage

if TYPE_CHECKING:
    import torch

FILE = "provenance.json"


def entries(directory: RunDirectory) -> list[dict[str, Any]]:
    """The entries of a run directory, the latest last; none in one of an older version.

    Raises:
        RunDirectoryError: the file is not what was written.
    """
    found = directory.read_json(FILE)
    if found is None:
        return []
    file = directory.path / FILE
    if not isinstance(found, list) or not all(isinstance(one, dict) and "started" in one for one in found):
        raise RunDirectoryError(damaged(file, "it does not hold a list of entries", of_no_stage(file)))
    return found


def append(directory: RunDirectory, devices: Sequence[torch.device], processes: int) -> None:
    """Add an entry for the command that is about to compute something; no other process does so meanwhile.

    Args:
        devices: what it computes on, a job each.
        processes: that share each stage.

    Raises:
        RunDirectoryError: the file is not what was written.
    """
    before = [] if directory.lost(FILE) else entries(directory)
    entry = _entry(devices, processes)
    while entry["started"] in {one["started"] for one in before}:  # the time names an entry
        time.sleep(0.1)
        entry["started"] = _now()
    by = {} if directory.holder is None else {"by": directory.holder}
    directory.write_json(FILE, [*before, {**entry, **by}])


def latest(directory: RunDirectory) -> str | None:
    """The name of the entry of the command that is computing: the time when it began."""
    found = entries(directory)
    by = directory.command or directory.holder
    own = [one for one in found if by is not None and one.get("by") == by]
    return (own or found)[-1]["started"] if found else None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _entry(devices: Sequence[torch.device], processes: int) -> dict[str, Any]:
    import torch

    import robustnas

    loaded = [entry for registry in REGISTRIES.values() for entry in registry.loaded.values()]
    plugins = {entry.distribution: entry.version for entry in loaded if entry.stranger is not None}
    return {
        "started": _now(),
        "command": command(sys.argv),
        "robustnas": robustnas.__version__,
        **environment.commit(),
        "python": platform.python_version(),
        "packages": {**environment.versions(environment.PACKAGES), **dict(sorted(plugins.items()))},
        "system": environment.system(),
        "processor": environment.processor(),
        "cores": environment.cores(),
        "devices": [torch.cuda.get_device_name(one) if one.type == "cuda" else one.type for one in devices],
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def command(argv: Sequence[str]) -> str:
    """The command as it was typed; of a script that calls robustnas its name alone."""
    program = Path(argv[0])
    own = program.stem == "robustnas" or program.parts[-2:] == ("robustnas", "__main__.py")
    if own:
        return shlex.join(["robustnas", *argv[1:]])
    return (program.parent.name if program.name == "__main__.py" else program.name) or "python"
