"""What became of a stage, as lines for people in its folder: `log.txt` as it goes, `failed.txt` why it ended.

Nothing is read from them that a result depends on.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.artifacts.files import NO_LINK, regular

LOG = "log.txt"
FAILED = "failed.txt"


def add(folder: StageFolder, line: str) -> None:
    """Add a line, with the time; a log that cannot be written stops no stage."""
    folder.own()
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} {line}\n"
    with suppress(OSError):
        folder.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder.path / LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY | NO_LINK, 0o666)
        with os.fdopen(handle, "ab") as file:
            file.write(text.encode(errors="replace"))


def failed(folder: StageFolder, why: str) -> None:
    """Note that the stage failed, until it begins again."""
    folder.write_text(FAILED, f"{why}\n")


def begins(folder: StageFolder) -> None:
    """Forget why it failed before."""
    folder.own()
    (folder.path / FAILED).unlink(missing_ok=True)


def why_failed(folder: StageFolder) -> str | None:
    """Why the stage failed when it was last tried; None where it did not."""
    return text(folder, FAILED)


def text(folder: StageFolder, name: str) -> str | None:
    """A text of the folder; None where there is none."""
    folder.own()
    if not os.path.lexists(folder.path / name):
        return None
    with suppress(RunDirectoryError), regular(folder.path / name) as file:
        return file.read().decode(errors="replace").rstrip("\n")
    return None
