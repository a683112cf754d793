"""The command `robustnas doctor`: whether runs will work here, and what to do where they will not."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from robustnas import __version__
from robustnas.errors import DataError, MissingDataError, PluginError
from robustnas.options import options_of
from robustnas.registry import DATASETS, REGISTRIES, Entry
from robustnas.runtime import environment
from robustnas.runtime.strangers import contained, text_of
from robustnas.runtime.terminal import tell

LEAST_DISK = 1 << 30
"""Bytes: below this a run of some seeds may find no room for its checkpoints."""

FOR_DEVELOPERS = ("dev", "docs", "agreement")
"""Extras that no command uses."""


@frozen
class Finding:
    """Something that was looked at.

    Args:
        state: `ok`; `note`, which only some runs need; `fault`, with which runs do not work.
        about: what was looked at.
        text: what was found, and what to do.
    """

    state: str
    about: str
    text: str


def doctor(arguments: argparse.Namespace) -> int:
    faults = 0
    for found in _findings():
        first, *more = found.text.splitlines()
        tell("\n".join([f"{found.state:<6}{found.about:<12}{first}", *(f"{'':<18}{line.strip()}" for line in more)]))
        faults += found.state == "fault"
    tell("\nRuns will work here." if not faults else f"\nRuns will not work before {faults} fault(s) above are mended.")
    return 1 if faults else 0


def _findings() -> Iterator[Finding]:
    yield _version()
    yield from _packages()
    yield from _plugins()
    yield from _data()
    yield _disk(Path("runs").absolute())
    yield from _extras()


def _version() -> Finding:
    commit = environment.commit()
    of = (
        f", commit {str(commit['commit'])[:12]}{' and changes' if commit['changed'] else ''}"
        if commit["commit"]
        else ""
    )
    return Finding("ok", "robustnas", f"{__version__}{of}; Python {platform.python_version()}, {environment.system()}")


def _packages() -> Iterator[Finding]:
    """Whether what everything needs imports, and the devices that torch sees."""
    found = environment.versions(environment.PACKAGES)
    yield Finding("ok", "packages", ", ".join(f"{name} {version or 'missing'}" for name, version in found.items()))
    for name in environment.PACKAGES:
        try:
            with contained(lambda text: PluginError(text)):
                importlib.import_module(name)
        except PluginError as fault:
            way = f"pip install --force-reinstall {name} would do"
            yield Finding("fault", "packages", f"{name} does not import: {text_of(fault)}\n{way}")
            if name == "torch":
                return
    yield Finding("ok", "devices", _devices())


def _devices() -> str:
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(index) for index in range(cuda)]
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    parts = [f"{environment.cores()} cores of {environment.processor()}"]
    parts += [f"cuda:{index} {card.name}, {card.total_memory >> 30} GiB" for index, card in enumerate(cards)]
    parts += [] if cards else [f"no CUDA device ({built})"]
    parts += ["mps"] if torch.backends.mps.is_available() else []
    return "; ".join(parts)


def _plugins() -> Iterator[Finding]:
    """Which plugins do not load; one of a package of its own stops those runs alone that use it."""
    loaded = 0
    for registry in REGISTRIES.values():
        registered = registry.entries()
        conflicts = registry.conflicts(registered)
        for name, entries in conflicts.items():
            ours = [entry for entry in entries if entry.stranger is None]
            yield Finding("fault" if ours else "note", "plugins", registry.describe_conflict(name, entries))
        for entry in registered:
            if entry.name in conflicts:
                continue
            try:
                options_of(registry.load_entry(entry))
                loaded += 1
            except PluginError as fault:
                yield Finding("note" if entry.stranger else "fault", "plugins", f"{text_of(fault)}\n{_mend(entry)}")
    yield Finding("ok", "plugins", f"{loaded} load")


def _mend(entry: Entry) -> str:
    if entry.stranger is None:
        return "pip install --force-reinstall robustnas would do"
    package = entry.distribution
    return (
        f"pip install --upgrade {package} may mend it, pip uninstall {package} removes it; other plugins go on working"
    )


def _data() -> Iterator[Finding]:
    """Which of our datasets are here; nothing is downloaded."""
    for entry in DATASETS.entries():
        if entry.stranger is not None:
            continue
        try:
            cls: Any = DATASETS.load_entry(entry)
            if any(option.required for option in options_of(cls).values()):
                continue
            with contained(lambda text: DataError(text)):
                images = cls().split("test")
            yield Finding("ok", "data", f"{entry.name}: {len(images.labels)} test images")
        except PluginError:
            continue  # told above
        except MissingDataError as fault:
            yield Finding("note", "data", text_of(fault))
        except DataError as fault:
            yield Finding("fault", "data", text_of(fault))


def _disk(runs: Path) -> Finding:
    there = next(folder for folder in (runs, *runs.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB free in {runs}"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("fault", "disk", f"{there} may not be written to; --out DIR of another folder would do")
    if free < LEAST_DISK:
        return Finding("fault", "disk", f"{found}; free some space, or --out DIR on another disk would do")
    return Finding("ok", "disk", found)


def _extras() -> Iterator[Finding]:
    """Which optional packages are here."""
    wanted: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("robustnas") or []:
        package, of = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if package and of and of[1] not in FOR_DEVELOPERS:
            wanted.setdefault(of[1], []).append(package[0])
    for extra, names in wanted.items():
        missing = [name for name, version in environment.versions(names).items() if version is None]
        way = f"{', '.join(missing)} missing; pip install 'robustnas[{extra}]' where it is wanted"
        yield Finding("note" if missing else "ok", "extras", f"{extra}: {way if missing else 'there'}")
