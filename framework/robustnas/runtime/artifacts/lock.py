"""A lock that the operating system takes back when its process ends, however it ends.

It tells processes of one machine of each other, and of no other: a shared file system may keep locks for itself.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import IO

from robustnas.runtime.artifacts.files import held_open

if sys.platform == "win32":
    import msvcrt

    def try_lock(file: IO[str]) -> None:
        file.seek(1 << 30)  # others cannot read the byte that is locked, so it lies far behind the text
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def try_lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""The errors by which the system says that another process holds a lock."""


def locked(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock of a file; None where the file system has no locks.

    Raises:
        OSError: there is no such file, or the system refuses it.
        RunDirectoryError: something else is in the file's place.
    """
    with held_open(path, make=False) as file:
        try:
            try_lock(file)
        except OSError as fault:
            return True if fault.errno in HELD else None
    return False
