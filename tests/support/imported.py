"""What a command imports, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from robustnas.cli import main
status = main(sys.argv[1:])
heavy = {"torch", "numpy", "foolbox", "scipy", "torchvision", "robustnas_plugins"} & set(sys.modules)
print(status, *heavy, file=sys.stderr)
"""


def imported(*arguments: str, site: Path | None = None) -> tuple[int, set[str]]:
    """The exit status of a command, and which heavy packages it imported.

    Args:
        site: where further packages are installed.
    """
    path = os.pathsep.join([*([str(site)] if site else []), *sys.path])
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    status, *heavy = done.stderr.splitlines()[-1].split()
    return int(status), set(heavy)
