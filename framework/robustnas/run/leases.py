"""Who is at which stage of a run directory, and who writes what all share there: leases, taken over from the dead.

    .work/<key>.lease         the process that does a stage
    .work/directory.lease     the one that writes the directory's own files, for a moment

Results are keyed and whole, so two processes that compute one stage harm nothing; leases save the work, and keep two
checkpoints out of one folder.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from attrs import Factory, define, evolve

from robustnas.errors import RunDirectoryError
from robustnas.run import presence
from robustnas.run.directory import DIRECTORY
from robustnas.run.presence import Peer, Presence
from robustnas.run.watch import Watch
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import Lease

POLL = 0.05
"""Seconds between two attempts to write what all share."""

READ = 8
"""Others of which a process that ends reads what they tell, on the average: of a thousand each does not read all."""

PATIENCE = 3.0
"""Seconds of waiting after which a person is told for whom."""


@define(eq=False)
class Leases:
    """The leases of a run directory, as one process that is at work in it takes them.

    Args:
        presence: of this process; leases are held in its name.
        watch: tells whether other holders are still there.
    """

    presence: Presence
    watch: Watch
    _held: dict[str, None] = Factory(dict)

    @classmethod
    def of(cls, presence: Presence) -> Leases:
        return cls(presence, Watch(presence.folder))

    def lease(self, name: str) -> Lease:
        """The lease of a stage, by its key."""
        return Lease(self.presence.folder / f"{name}.lease", self.presence.peer.name)

    def take(self, name: str) -> bool:
        """Take a lease; False where another process, which is alive as far as anybody knows, holds it."""
        lease = self.lease(name)
        if name in self._held and lease.found() == lease.holder:
            return True
        if not lease.take():
            self._freed(name)
            if not lease.take():
                return False
        self.watch.ended(None, name)
        self._held[name] = None
        return True

    def free(self, name: str) -> bool:
        """Whether no process, which is alive as far as anybody knows, holds a lease."""
        return self.watch.ended(self.holder(name), name)

    def _freed(self, name: str) -> None:
        """Take a lease away from a holder that has ended."""
        holder = self.holder(name)
        if holder is not None and self.watch.ended(holder, name):
            self.lease(name).take_away(holder)
            if holder:
                presence.remove(self.presence.folder, holder)

    def _swept(self) -> list[tuple[Peer, bool | None]]:
        """Remove what processes left here that have ended; returns the others, as `Watch.living` tells of them."""
        folder = self.presence.folder
        others: list[tuple[Peer, bool | None]] = []
        for peer in presence.peers(folder):
            living = self.watch.living(peer)
            if living is False:
                presence.remove(folder, peer.name)
            else:
                others.append((peer, living))
        for file in sorted(folder.glob("*.lease")):
            self._freed(file.stem)
        presence.sweep(folder)
        return others

    def give_back(self, name: str) -> None:
        """Let others take a lease."""
        self._held.pop(name, None)
        self.lease(name).give_back()

    def holder(self, name: str) -> str | None:
        """The name of whoever holds a lease; None where nobody does."""
        return self.lease(name).found()

    def told(self, name: str) -> str:
        """Who holds a lease, in words."""
        holder = self.holder(name)
        peer = presence.read(self.presence.folder, holder) if holder else None
        return "a process that has gone" if peer is None else peer.words

    @contextmanager
    def begun(self) -> Iterator[Leases]:
        """Inside, this process is at work, and afterwards it holds no lease.

        Raises:
            RunDirectoryError, DiskFullError: as `Presence` when it is entered.
        """
        with self.presence:
            try:
                yield self
            finally:
                for name in list(self._held):
                    self.give_back(name)
                with suppress(OSError, RunDirectoryError):  # others may do the same, and end meanwhile
                    if random.SystemRandom().random() * len(presence.names(self.presence.folder)) < READ:
                        self._swept()

    def work_on(self, recipe: str) -> None:
        """Tell by which recipe this process works, and refuse to where somebody is at work by another.

        The caller is alone.  What processes that have ended left here is removed.

        Args:
            recipe: its text, resolved.

        Raises:
            RunDirectoryError: one table cannot show what two recipes ask for.
            Interrupted: the process was asked to stop while it watched whether another is still there.
        """
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
        self.presence.peer = evolve(self.presence.peer, recipe=digest)
        self.presence.tell()
        path = self.presence.directory
        while True:
            unsure = False
            for peer, living in self._swept():
                if peer.recipe not in ("", digest):
                    if living:
                        raise RunDirectoryError(
                            f"{path}: another run ({peer.words}) works in this directory by another recipe; wait for "
                            f"it, stop it (robustnas cancel {path}), or choose another with --out"
                        )
                    unsure = True
            if not unsure:
                return
            interrupt.check()
            time.sleep(POLL)

    @contextmanager
    def alone(self, waiting: Callable[[str], None] = lambda who: None) -> Iterator[None]:
        """Inside, no other process writes the directory's own files.

        Args:
            waiting: is told, once, for whom this process has to wait, where that takes long.

        Raises:
            Interrupted: the process was asked to stop while it waited.
        """
        began, told = time.monotonic(), False
        while not self.take(DIRECTORY):
            interrupt.check()
            if not told and time.monotonic() - began > PATIENCE:
                told = True
                waiting(self.told(DIRECTORY))
            time.sleep(POLL)
        try:
            yield
        finally:
            self.give_back(DIRECTORY)
