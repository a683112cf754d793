"""A file that somebody hands in, read whole: a regular one, of a bounded size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from robustnas.errors import InputError


def read(path: Path, most: int) -> bytes:
    """The bytes of a file.

    It is opened without waiting and looked at when it is open, so that a pipe does not wait for its other end, a
    device is not read without end, and nothing can take the file's place in between.

    Args:
        path: of the file; a link is followed.
        most: bytes it may have.

    Raises:
        InputError: it is no regular file, has more, or cannot be read; the message begins with the path.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:
            mode = os.fstat(handle).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{shown(path)}: found {_kind(mode)}; a regular file would do")
            data = file.read(most + 1)
    except OSError as fault:
        raise InputError(f"{shown(path)}: cannot be read: {fault.strerror or fault}") from fault
    except ValueError as fault:  # a path with the character 0
        raise InputError(f"{shown(path)}: cannot be read: {fault}") from fault
    if len(data) > most:
        raise InputError(f"{shown(path)}: found more than {most // 1024:,} KiB; a file of at most that would do")
    return data


def shown(path: Path | str) -> str:
    """A path as a message has it: a long one, shortened in its middle; what is no text, escaped."""
    text = str(path).encode("utf-8", errors="backslashreplace").decode()
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


LONGEST = 200
"""Characters of a path that a message shows."""


def _kind(mode: int) -> str:
    kinds = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((kind for kind, is_one in kinds.items() if is_one(mode)), "a device")
