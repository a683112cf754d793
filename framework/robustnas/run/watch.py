"""Whether another process at work in a run directory is still there, judged without comparing clocks.

One of this machine is there as long as it holds its lock.  Of one elsewhere this process notes when, by its own clock,
it saw the count change; a count that has stood still for `EXPIRY` seconds is that of a process that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from attrs import Factory, define

from robustnas.errors import RunDirectoryError
from robustnas.run import presence
from robustnas.run.presence import Peer
from robustnas.runtime.artifacts import locked

EXPIRY = 90.0
"""Seconds without a sign of life: nine counts, and more than shared file systems hide a change for."""


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
    _seen: dict[str, tuple[int, float, bool]] = Factory(dict)

    def ended(self, name: str, lease: str) -> bool:
        """Whether the holder of a lease has certainly ended, or has shown no sign of life for too long.

        Args:
            name: the holder's; empty where it has not written it yet.
            lease: the lease's name.
        """
        return self._state(name or f"holder of {lease}", presence.read(self.folder, name) if name else None) is False

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
        before, at, moved = self._seen.setdefault(name, (beat, now, False))
        if beat != before:
            at, moved = now, True
            self._seen[name] = (beat, at, moved)
        if now - at >= self.expiry:
            return False
        return True if moved else None

    def _held(self, name: str) -> bool | None:
        """Whether the lock of a process is held; None where locks do not tell."""
        file = self.folder / f"{name}.lock"
        try:
            return locked(file) if file.exists() else None
        except (RunDirectoryError, OSError):
            return None
