"""A request to stop, noted when it comes and honoured between two steps, so that nothing is cut in half.

Ctrl-C (SIGINT) and the signal with which clusters preempt (SIGTERM) are noted.  A stage that can go on from the
middle asks `asked()` after each step, saves its state and calls `check()`; others call `check()` between two batches.
A second Ctrl-C ends the process at once: files are whole even then, but the work since the last checkpoint is lost.
A moment at which time is over is such a request too (`limited`), and so is one that another machine made (`request`).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop; everything that can be resumed has been saved."""


class Cancelled(Interrupted):
    """Somebody wants the work to end, and not to be queued again."""


class OutOfTime(Interrupted):
    """The time that the process was given is over; its text says what is done."""


class Ended(KeyboardInterrupt):
    """The user's Ctrl-C where it is honoured at once."""


def wanted(fault: BaseException) -> bool:
    """Whether an exception is somebody's wish that the process stop, and not what some code raised by itself.

    Where Python's own handler answers Ctrl-C, as in a notebook, a `KeyboardInterrupt` may be either, and is believed.
    """
    if isinstance(fault, Interrupted | Ended):
        return True
    return isinstance(fault, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


_noted: list[int] = []
_limits: list[float] = []
_requests: list[str] = []


def request(by: str) -> None:
    """Ask the process to stop, from any of its threads, in somebody's name."""
    _requests.append(by)


def withdraw() -> None:
    """Forget what `request` asked for."""
    _requests.clear()


def signalled() -> bool:
    """Whether somebody, by a signal or a request, has asked the process to stop."""
    return bool(_noted or _requests)


def asked() -> bool:
    """Whether the process has been asked to stop, by somebody or as its time is over."""
    return signalled() or (bool(_limits) and time.monotonic() >= _limits[-1])


def check() -> None:
    """Stop here if the process has been asked to.

    Raises:
        Interrupted: it has.
    """
    if asked():
        raise Interrupted


@contextmanager
def limited(end: float | None) -> Iterator[None]:
    """Inside, the process is asked to stop from a moment on.

    Args:
        end: in seconds of `time.monotonic`; None: never.
    """
    if end is None:
        yield
        return
    _limits.append(end)
    try:
        yield
    finally:
        _limits.pop()


@contextmanager
def ending() -> Iterator[None]:
    """Inside, Ctrl-C is an exception of its own, which no code that raises `KeyboardInterrupt` is taken for."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended

    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not ours or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def listening(quiet: bool = False) -> Iterator[None]:
    """Inside, signals are noted instead of ending the process wherever it happens to be.

    Outside the main thread signals are the caller's business, and nothing changes.

    Args:
        quiet: do not tell on stderr that the request was heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and _noted:
            raise Ended
        _noted.append(number)
        if not quiet:
            print("robustnas: stopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _noted.clear()
