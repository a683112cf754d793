"""Whether another process at work in a run directory is still there, judged without comparing clocks.

One of this machine is there as long as it holds its lock.  Of one elsewhere this process notes for how long, by its
own clock, it has seen the count stand still; `EXPIRY` seconds make it that of a process that has ended.  The time
between two looks counts for `CREDIT` seconds at most: where this process, or the file system under both, was held up,
the other must have time to tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from attrs import Factory, define, frozen

from robustnas.errors import RunDirectoryError
from robustnas.run import presence
from robustnas.run.presence import Peer
from robustnas.runtime.artifacts import locked

EXPIRY = 90.0
"""Seconds without a sign of life: nine counts, and more than shared file systems hide a change for."""

CREDIT = 10.0
"""Seconds that one look adds at most to how long a count has stood still: a count."""


@frozen
class _Seen:
    """What was seen of a process.

    Args:
        beat: its count.
        still: seconds for which that has stood still.
        at: when it was last looked at.
        moved: whether it ever changed.
    """

    beat: int
    still: float
    at: float
    moved: bool


@define(eq=False)
class Watch:
    """Watches the processes of a run directory.

    Args:
        folder: where they tell of themselves.
        expiry: as `EXPIRY`.
        clock: seconds; only differences are looked at.
    """

    folder: Path
    expiry: float = EXPIRY
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Seen] = Factory(dict)

    def ended(self, name: str | None, lease: str) -> bool:
        """Whether the holder of a lease has certainly ended, or has shown no sign of life for too long.

        Args:
            name: the holder's; empty where the lease does not tell; None where nobody holds it.
            lease: the lease's name.
        """
        unnamed = f"holder of {lease}"
        if name == "":
            return self._state(unnamed, None) is False
        self._seen.pop(unnamed, None)  # whoever holds it without a name later on is another
        return name is None or self._state(name, presence.read(self.folder, name)) is False

    def living(self, peer: Peer) -> bool | None:
        """Whether a process is at work; None where it has not been watched for long enough."""
        return self._state(peer.name, peer)

    def _state(self, name: str, peer: Peer | None) -> bool | None:
        if peer is not None and peer.here:
            held = self._held(name)
            if held is not None:
                return held
        if peer is None and " " not in name:
            return False  # it said that it went; a holder that has not written its name yet may still do so
        beat, now = (0 if peer is None else peer.beat), self.clock()
        before = self._seen.get(name)
        if before is None:
            seen = _Seen(beat, 0.0, now, moved=False)
        elif before.beat != beat:
            seen = _Seen(beat, 0.0, now, moved=True)
        else:
            seen = _Seen(beat, before.still + min(now - before.at, CREDIT), now, before.moved)
        self._seen[name] = seen
        if seen.still >= self.expiry:
            return False
        return True if seen.moved else None

    def _held(self, name: str) -> bool | None:
        """Whether the lock of a process is held; None where locks do not tell."""
        file = self.folder / f"{name}.lock"
        try:
            return locked(file) if file.exists() else None
        except (RunDirectoryError, OSError):
            return None
