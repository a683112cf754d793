"""A lease: the right to write into one place, held by whoever is named in a file.

The file is made by its first holder alone (`O_EXCL`, which shared file systems keep between machines).  A holder that
was thought to have ended may wake up after another has taken over: it looks at the file before each result gets its
name, and finds out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from attrs import frozen

from robustnas.errors import LeaseLostError
from robustnas.runtime.artifacts.files import NO_LINK
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
        """The name in the file: empty between its making and its writing; None where nobody holds the lease.

        A link in its place is not followed and names nobody; neither does a text that is no name.
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
        try:
            handle = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_LINK, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(f"{self.holder}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        return True

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

    def guarding(self, write: Callable[[IO[bytes]], object]) -> Callable[[IO[bytes]], object]:
        """Follow what writes a file by a look at the lease, as late as can be: before the file gets its name.

        Args:
            write: as `robustnas.runtime.artifacts.write_atomically` takes it.
        """

        def then_look(file: IO[bytes]) -> None:
            write(file)
            self.check()

        return then_look
