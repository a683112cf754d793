"""A process at work in a run directory: what it tells of itself, and how it hears that it should stop.

    .work/<name>.json     who and where, what is being done, and a count that rises while the process works
    .work/<name>.lock     locked for as long as the process lives, where the file system has locks
    .work/<name>.cancel   somebody's request that it stop, made by `robustnas cancel`

The folder is empty, and gone, when nobody is at work.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from attrs import Factory, define, field, frozen

from robustnas.errors import DiskFullError, RunDirectoryError
from robustnas.runtime import interrupt, terminal
from robustnas.runtime.artifacts import disk_full, held_open, real_folder, try_lock, write_json
from robustnas.runtime.artifacts.files import regular

FOLDER = ".work"

BEAT = 10.0
"""Seconds between two counts: a few hundred processes write a few dozen small files a second."""

LOOK = 1.0
"""Seconds between two looks for a request to stop."""

ATTEMPTS = 20
"""How often a process tries to begin where others that end take away what it has just made."""

LEFT = re.compile(
    r"\.?(?P<owner>[0-9A-Za-z-]+)\.(?:json\..*\.part|cancel|cancel\..*\.part|lock)"
    r"|.*\.lease\.(?P<holder>[0-9A-Za-z-]+)\.(?:part|gone)"
)
"""Names of files that a process has beside the one in which it tells of itself."""

JOBS = {
    "SLURM_JOB_ID": "slurm",
    "PBS_JOBID": "pbs",
    "LSB_JOBID": "lsf",
    "JOB_ID": "sge",
    "JOB_COMPLETION_INDEX": "kubernetes",
}
"""Variables in which schedulers tell a process the name of its job."""


@frozen
class Peer:
    """What a process tells of itself.

    Args:
        name: unique; leases are held under it.
        machine: its node's name.
        kernel: tells machines of one name apart, where the system knows something of the kind.
        process: its number there.
        recipe: digest of the recipe it works on, as it was resolved.
        job: the name that a scheduler has for it, by scheduler.
        beat: the count.
        doing: titles of the stages at work, with where each is, and its key.
        left: the time left of all that it is to do, in words; empty where that is not known.
    """

    name: str
    machine: str
    kernel: str
    process: int
    recipe: str = ""
    job: Mapping[str, str] = Factory(dict)
    beat: int = 0
    doing: Sequence[Mapping[str, str]] = ()
    left: str = ""

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return (self.machine, self.kernel) == (platform.node(), kernel())

    @property
    def words(self) -> str:
        """Who it is, for people."""
        jobs = [f", {scheduler} job {name}" for scheduler, name in self.job.items()]
        return f"process {self.process} on {self.machine}{''.join(jobs)}"


def kernel() -> str:
    """What tells this machine, as it runs since it was started, from others; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _name() -> str:
    """A name for this process in one directory that no other has, and that begins with the time."""
    return f"{time.strftime('%m%d%H%M%S')}-{uuid.uuid4().hex[:12]}"


def jobs() -> dict[str, str]:
    """The names that schedulers have for this process."""
    found = {scheduler: os.environ[name] for name, scheduler in JOBS.items() if os.environ.get(name)}
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        found["slurm"] = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return found


def read(folder: Path, name: str) -> Peer | None:
    """What a process tells of itself; None where nothing is there.

    What cannot be read just now, or was written by nobody of ours, is told as a process of which nothing is known.
    """
    file = folder / f"{name}.json"
    try:
        os.lstat(file)
    except FileNotFoundError:
        return None
    except OSError:
        pass  # a server that does not answer is no word from the process
    try:
        with regular(file) as told:
            return Peer(**{**json.loads(told.read()), "name": name})
    except (RunDirectoryError, ValueError, TypeError, OSError):
        return Peer(name, "an unknown machine", "", 0)


def names(folder: Path) -> list[str]:
    """The names of all processes that tell of themselves, in order; they begin with the time.

    Raises:
        RunDirectoryError: the folder is a link.
    """
    real_folder(folder)
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [name.removesuffix(".json") for name in there if name.endswith(".json")]


def peers(folder: Path) -> list[Peer]:
    """All processes that tell of themselves, in the order of their names.

    Raises:
        RunDirectoryError: the folder is a link.
    """
    found = [read(folder, name) for name in names(folder)]
    return [peer for peer in found if peer is not None]


def remove(folder: Path, name: str) -> None:
    """Remove what a process told of itself that has ended."""
    for kind in ("json", "cancel", "lock"):
        with suppress(OSError):  # the directory may have been taken away meanwhile
            (folder / f"{name}.{kind}").unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what belongs to no process that tells of itself: a kill left it."""
    with suppress(OSError):
        # no name is looked up: NFS would remember that the file of a process that is just beginning is not there; and
        # a list may lack a file that is being replaced
        before, now = (set(os.listdir(folder)) for _ in range(2))
        for name in sorted(before & now):
            left = LEFT.fullmatch(name)
            if left is not None and f"{left['owner'] or left['holder']}.json" not in before | now:
                (folder / name).unlink(missing_ok=True)


@define(eq=False)
class Presence:
    """Tells that this process is at work in a run directory, for as long as the context lasts.

    Args:
        directory: the run directory.
        quiet: do not tell on stderr that a request to stop was heard.
        beat: seconds between two counts.
        peer: what is told, without what is being done.
        doing: what is being done, as `Peer.doing` and `Peer.left`; it is asked in a thread of its own.
    """

    directory: Path
    quiet: bool = False
    beat: float = BEAT
    peer: Peer = Factory(lambda: Peer(_name(), platform.node(), kernel(), os.getpid(), job=jobs()))
    doing: Callable[[], tuple[Sequence[Mapping[str, str]], str]] = lambda: ((), "")
    _lock: IO[str] | None = field(default=None, init=False)
    _ended: threading.Event = field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _writing: threading.Lock = field(factory=threading.Lock, init=False)
    _count: int = field(default=0, init=False)

    @property
    def folder(self) -> Path:
        return self.directory / FOLDER

    def __enter__(self) -> Self:
        """Tell of this process.

        Raises:
            RunDirectoryError: the directory cannot be written to.
            DiskFullError: there is no room for it.
        """
        try:
            for attempt in range(ATTEMPTS):
                try:
                    self._begin()
                    break
                except (FileNotFoundError, FileExistsError):
                    # another that ended has removed the folder, or what nobody seemed to have made
                    if attempt == ATTEMPTS - 1:
                        raise
        except OSError as fault:
            if disk_full(fault):
                raise DiskFullError(f"{self.directory}: no space left on the device to begin a run") from fault
            raise RunDirectoryError(
                f"{self.directory}: cannot be used: {fault.strerror}; choose another with --out"
            ) from fault
        self._thread = threading.Thread(target=self._live, name="presence", daemon=True)
        self._thread.start()
        return self

    def _begin(self) -> None:
        """Make the folder and this process's files in it.

        Raises:
            FileNotFoundError, FileExistsError: others took something away meanwhile.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        real_folder(self.folder)
        self.folder.mkdir(exist_ok=True)
        if self._lock is not None:
            self._lock.close()
        self._lock = held_open(self._file("lock"))
        with suppress(OSError):  # a file system without locks: then the count alone tells
            try_lock(self._lock)
        self.tell()
        os.lstat(self._file("lock"))

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        interrupt.withdraw()
        if self._lock is not None:
            self._lock.close()
        remove(self.folder, self.peer.name)
        with suppress(OSError):  # others are at work
            self.folder.rmdir()

    def tell(self) -> None:
        """Write anew what this process tells of itself, with the next count."""
        try:
            doing, left = self.doing()
        except Exception:  # it looks at what another thread is changing; the count must go on whatever it finds
            doing, left = (), ""
        with self._writing:
            self._count += 1
            peer = self.peer
            write_json(
                self._file("json"),
                {
                    "machine": peer.machine,
                    "kernel": peer.kernel,
                    "process": peer.process,
                    "recipe": peer.recipe,
                    "job": dict(peer.job),
                    "beat": self._count,
                    "doing": [dict(one) for one in doing],
                    "left": left,
                },
            )

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.peer.name}.{kind}"

    def _live(self) -> None:
        told, asked = time.monotonic(), False
        while not self._ended.wait(min(LOOK, self.beat)):
            # what cannot be read or written now may be later; whoever takes over in between is noticed by the lease
            with suppress(Exception):
                if time.monotonic() - told >= self.beat:
                    told = time.monotonic()
                    self.tell()
            with suppress(Exception):
                if not asked and os.path.exists(self._file("cancel")):
                    asked = True
                    interrupt.request("robustnas cancel")
                    if not self.quiet:
                        terminal.tell(
                            "robustnas: cancelled by `robustnas cancel`; stopping after this step", error=True
                        )
