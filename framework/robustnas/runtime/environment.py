"""What computes here: versions of packages, the commit of a checkout, the machine.  Nothing here tells whose it is."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "foolbox")
"""What a figure may depend on, beside robustnas and its plugins."""

WAIT = 10
"""Seconds that git may take."""


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """The versions of installed packages by their names, None where one is not installed; imports none of them."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(package: Path | None = None) -> dict[str, str | bool | None]:
    """The commit of the checkout that a package is in, and whether its files differ from it; None without either.

    Args:
        package: the folder of the package; None: robustnas itself.
    """
    package = package or Path(__file__).resolve().parents[1]
    found = _git(package, "rev-parse", "HEAD")
    # a package that git ignores lies in somebody's checkout, in a virtual environment say, and is not of it
    if found is None or _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "changed": None}
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": found, "changed": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers about a folder; None where it is not installed, refuses or takes too long."""
    command = ["git", "-C", str(folder), *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # a reader takes no lock of somebody's checkout
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, env=quiet, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """The model of the CPU, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def system() -> str:
    """The operating system, its version and the kind of machine."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"
