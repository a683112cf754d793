"""A lease: the right to write into one place, held by whoever is named in a file.

The file gets its name from its first holder alone (`link`, or where there are no links `O_EXCL`; shared file systems
keep both between machines), and holds the holder's name from then on.  A holder that was thought to have ended may wake
up after another has taken over: it looks at the file right before each result gets its name, and finds out.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from robustnas.errors import LeaseLostError
from robustnas.runtime.artifacts.files import NO_LINK, PART
from robustnas.runtime.given_file import NEVER_WAITING

LONGEST = 100
"""Bytes of a holder's name at most."""

NAME = re.compile(r"[0-9A-Za-z-]+")
"""The name of a holder, which is part of names of files: no path."""


@frozen
class Lease:
    """A file that names who may write, and one who may be it.

    Args:
        file: where it is.
        holder: the name of the process that this object speaks for.
    """

    file: Path
    holder: str

    def found(self) -> str | None:
        """The name in the file; None where nobody holds the lease.

        Empty where it names nobody: it cannot be read just now, is a link, which is not followed, or holds no name.
        """
        try:
            handle = os.open(self.file, NEVER_WAITING | NO_LINK)
        except FileNotFoundError:
            return None
        except OSError:
            return ""
        with os.fdopen(handle, "rb") as file, suppress(OSError):
            name = file.read(LONGEST).decode("ascii", errors="replace").strip()
            return name if NAME.fullmatch(name) else ""
        return ""

    def take(self) -> bool:
        """Take the lease if nobody holds it; False where somebody does.

        Raises:
            OSError: the system does not let it be written.
        """
        if os.path.lexists(self.file):
            return False
        neighbour = self.file.with_name(f"{self.file.name}.{self.holder}{PART}")
        try:
            self._write(neighbour, os.O_TRUNC)
            try:
                os.link(neighbour, self.file)
            except FileExistsError:
                raise
            except OSError:  # a file system without links: who sees the file before its text waits for that
                self._write(self.file, os.O_EXCL)
        except FileExistsError:
            return self.found() == self.holder  # where a server's answer was lost, the first request was granted
        finally:
            with suppress(OSError):
                neighbour.unlink()
        return True

    def _write(self, file: Path, how: int) -> None:
        """Write the holder's name into a file."""
        handle = os.open(file, os.O_CREAT | os.O_WRONLY | NO_LINK | how, 0o666)
        with os.fdopen(handle, "wb") as opened:
            opened.write(f"{self.holder}\n".encode())
            opened.flush()
            os.fsync(opened.fileno())

    def take_away(self, ended: str) -> None:
        """Take the lease from a holder that has ended, so that anybody may take it; of several who do so one succeeds.

        Args:
            ended: the holder; from another, who has taken the lease in between, nothing is taken.
        """
        away = self.file.with_name(f"{self.file.name}.{self.holder}.gone")
        try:
            os.rename(self.file, away)
        except FileNotFoundError:
            return
        if Lease(away, self.holder).found() != ended:
            with suppress(OSError):  # whoever holds it by now keeps it; the one in `away` finds out before it writes
                os.link(away, self.file)
        away.unlink(missing_ok=True)

    def give_back(self) -> None:
        """Let others take the lease, if it is still held."""
        if self.found() == self.holder:
            self.file.unlink(missing_ok=True)

    def check(self) -> None:
        """Require that the lease is held.

        Raises:
            LeaseLostError: another process has taken over.
        """
        found = self.found()
        if found != self.holder:
            by = f"{found} has taken over" if found else "it was taken away"
            raise LeaseLostError(
                f"{self.file.name}: this process showed no sign of life for so long that {by}; nothing more is written"
            )
