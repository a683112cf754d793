"""Files that somebody hands in: only regular ones are read, and of bounded size where they are read whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from robustnas.errors import InputError

LONGEST = 200
"""Characters of a path that a message shows."""

NEVER_WAITING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
"""How a file is opened that may be a pipe: without waiting for its other end."""

KINDS: dict[str, Callable[[int], bool]] = {
    "a symbolic link": stat.S_ISLNK,
    "a folder": stat.S_ISDIR,
    "a pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISBLK(mode) or stat.S_ISCHR(mode),
}


def kind_of_file(mode: int) -> str | None:
    """Say what is in a file's place, from its mode; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((words for words, is_one in KINDS.items() if is_one(mode)), "no file")


def opened(path: Path, refusal: Callable[[str], str]) -> BufferedReader:
    """Open a file for reading; a link is followed.

    It is opened without waiting and looked at when it is open, so that a pipe does not wait for its other end, a
    device is not read without end, and nothing can take the file's place in between.

    Args:
        path: of the file.
        refusal: makes the message where it is no regular file, of what it is.

    Raises:
        InputError: it is no regular file.
        OSError: the system refuses it.
    """
    handle = os.open(path, NEVER_WAITING)
    if kind := kind_of_file(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(refusal(kind))
    return os.fdopen(handle, "rb")


def read(path: Path, most: int) -> bytes:
    """Read a file whole.

    Args:
        path: of the file.
        most: bytes it may have.

    Raises:
        InputError: it is no regular file, has more, or cannot be read; the message begins with the path.
    """
    try:
        with opened(path, lambda kind: f"{shown(path)}: found {kind}; a regular file would do") as file:
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
