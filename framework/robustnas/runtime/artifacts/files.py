"""One file: written whole or not at all, and read only where it is a file.

A run directory may come from somebody else.  What it brings along in a file's place (a link to a file of its reader's,
a pipe that nobody writes to, a device) is refused by its kind, before it is opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from robustnas.errors import DiskFullError, RunDirectoryError
from robustnas.runtime.given_file import NEVER_WAITING, kind_of_file
from robustnas.runtime.printable import json_text
from robustnas.runtime.strangers import text_of


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)
"""What the system answers where a file may not be written, or a folder is in its place."""

PART = ".part"
"""How the name of a file ends that is being written; one that a killed process leaves behind is never read."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""Follow no link, should one take a file's place after it was looked at."""


def write_atomically(
    path: Path,
    write: Callable[[IO[bytes]], object],
    announce: Callable[[str], None] | None = None,
    check: Callable[[], None] | None = None,
) -> None:
    """Write a file whole: into a neighbour, flushed to the disk, then renamed over `path`.

    What is in the file's place is replaced and never opened, a link included.

    Args:
        announce: told the digest of what was written, before it has its name.
        check: is called when nothing is left to do but the renaming; where it raises, nothing is renamed.

    Raises:
        DiskFullError: the disk is full; nothing that was there before is lost.
        RunDirectoryError: the system does not let it be written: a read-only folder, say, or one in the file's place.
    """
    neighbour = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, neighbour = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        with os.fdopen(handle, "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if announce is not None:
                announce(sha256(file))
        os.chmod(neighbour, 0o666 & ~UMASK)  # a temporary file is its owner's alone; a result is not
        if check is not None:
            check()
        os.replace(neighbour, path)
    except BaseException as fault:
        if neighbour is not None:
            Path(neighbour).unlink(missing_ok=True)
        if disk_full(fault):
            raise DiskFullError(
                f"{path}: no space left on the device; what was done before is intact. "
                "Free some space and run the same command again"
            ) from fault
        if isinstance(fault, OSError) and fault.errno in REFUSED:
            raise RunDirectoryError(
                f"{path} cannot be written: {fault.strerror or fault}; what was done before is intact\n"
                f"  {_way_out(path)} and run the same command again"
            ) from fault
        raise


def sha256(file: IO[bytes]) -> str:
    """Return the digest of a whole open file in hexadecimal digits; the file is at its beginning afterwards."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # typeshed wants more than it reads with
    file.seek(0)
    return digest.hexdigest()


def _way_out(path: Path) -> str:
    """Say what would let a file be written."""
    return f"delete the folder {path}" if path.is_dir() else f"make {path.parent} a folder that you may write to"


def disk_full(fault: BaseException) -> bool:
    """Whether a fault comes from a full disk.

    Torch reports a failed write as a RuntimeError whose cause or text tells.
    """
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        seen = seen.__cause__ or seen.__context__
    return isinstance(fault, RuntimeError) and "PytorchStreamWriter failed" in text_of(fault)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as indented JSON.  NaN and infinity are refused: a missing figure is `null`."""
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Plain data as the indented JSON of a file."""
    return f"{json_text(data, indent=1)}\n".encode()


def write_text(path: Path, text: str, check: Callable[[], None] | None = None) -> None:
    """Write a text file in UTF-8; `check` as `write_atomically` has it."""
    write_bytes(path, text.encode(), check)


def write_bytes(path: Path, data: bytes, check: Callable[[], None] | None = None) -> None:
    """Write a file of these bytes; `check` as `write_atomically` has it."""
    write_atomically(path, lambda file: file.write(data), check=check)


def regular(path: Path, remedy: str | None = None) -> IO[bytes]:
    """Open a file for reading, if it is one.

    Args:
        remedy: what to do if it is none; default what helps for a stage's file, to delete the stage's folder.

    Raises:
        RunDirectoryError: it is not there, may not be read, or is something else than a file: a link, say.
    """
    try:
        kind = kind_of_file(os.lstat(path).st_mode)
        if kind is None:
            return os.fdopen(os.open(path, NEVER_WAITING | NO_LINK), "rb")
    except OSError as fault:
        raise RunDirectoryError(damaged(path, f"it cannot be read: {fault.strerror or fault}", remedy)) from fault
    raise RunDirectoryError(damaged(path, f"it cannot be read: it is {kind}, where a file was written", remedy))


def held_open(path: Path, *, make: bool = True) -> IO[str]:
    """Open a file that is there to be locked, as text to be read and written.

    Args:
        make: make it where there is none.

    Raises:
        OSError: the system refuses it.
        RunDirectoryError: something else is in its place, or the file has another name too, whose text would be lost.
    """
    words = "delete it and run the same command again: nothing else is lost"
    if os.path.lexists(path):
        regular(path, words).close()
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0) | NEVER_WAITING | NO_LINK, 0o666)
    if os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise RunDirectoryError(damaged(path, "it is a link to a file with another name too", words))
    return os.fdopen(handle, "r+", encoding="utf-8", errors="replace")


def real_folder(path: Path) -> None:
    """Require that a folder of a run directory, which need not be there, is one of its own.

    Raises:
        RunDirectoryError: it is a link to another.
    """
    if os.path.islink(path):
        raise RunDirectoryError(
            f"{path} is a symbolic link to {os.readlink(path)}; nothing of a run directory is opened through a link\n"
            "  put the folder itself there, or delete the link and run the same command again"
        )


def damaged(path: Path, why: str, remedy: str | None = None) -> str:
    """The message for a file that is not what it should be, and how to redo only that."""
    redo = f"delete the folder {path.parent} and run the same command again: only that stage is redone"
    return f"{path} is damaged: {why}\n  {remedy or redo}"


def of_no_stage(path: Path) -> str:
    """The remedy for a file that the next run writes again by itself."""
    return f"delete the file {path} alone and run the recipe again in this directory: no stage is redone"
