"""Processes that read the images of a split, for `robustnas.data.prefetch`.

Processes rather than threads: decoding a small JPEG is mostly Python, which threads do one at a time.  Two workers on
two cores read 1.4 times the images of one thread at 64x64, where two threads read 0.9 times as many; photographs of
500x375 (most of the time inside the decoder) 1.9 times either way.  And threads would take turns with the thread that
gives the device its work.  What processes cost is their start, about two seconds once.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor
from torch.utils.data import DataLoader

from robustnas.contracts import Images
from robustnas.data.selection import stored
from robustnas.errors import DataError, RobustnasError, RunError
from robustnas.runtime.interrupt import SIGNALS


@frozen(eq=False)
class _Reading:
    """What a worker does, as a dataset of torch: index lists to pixels as stored."""

    images: Images

    def __getitem__(self, places: list[int]) -> Tensor | RobustnasError:
        try:
            return stored(self.images, torch.tensor(places, dtype=torch.int64))
        except RobustnasError as fault:
            # as a result: an exception would come out as a text with a traceback
            return fault


@define(eq=False)
class _Order:
    """The batches of the stream that runs, as a sampler of torch, which keeps one for all epochs."""

    batches: Iterable[list[int]] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class Readers:
    """Processes that read the batches of one stream at a time."""

    def __init__(self, images: Images, workers: int, ahead: int, pin: bool):
        # forked processes would share locks and CUDA state with threads that they do not have
        context = multiprocessing.get_context("spawn")
        closing = context.Event()
        self.busy = False
        self._kind = type(images).__name__
        self._order = _Order()
        self._loader: DataLoader[Any] = DataLoader(
            _Reading(images),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
            worker_init_fn=partial(_follow_parent, closing),
            multiprocessing_context=context,
            # otherwise the seed it gives its workers is drawn from the global generator
            generator=torch.Generator(),
            prefetch_factor=max(1, -(-ahead // workers)),
            persistent_workers=True,
        )
        self._end = weakref.finalize(self, _end, self._loader, closing)

    def read(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels as stored, (n, C, H, W), and where they are from, (n,)."""
        under_way: deque[Tensor] = deque()

        def noted() -> Iterator[list[int]]:
            for places in indices:
                under_way.append(places)
                yield places.tolist()

        self.busy = True
        self._order.batches = noted()
        iterator = self._iterator()
        while True:
            try:
                found = next(iterator)
            except StopIteration:
                break
            except RuntimeError as fault:
                if "DataLoader worker (pid" not in str(fault):
                    raise
                raise RunError(
                    "a process that reads images ended before its work was done. What it wrote above says why; where "
                    "there is nothing, memory or shared memory (/dev/shm) ran out, and fewer workers among the "
                    "dataset's options would do"
                ) from fault
            if isinstance(found, RobustnasError):
                raise found
            yield found, under_way.popleft()
        self._order.batches = ()
        self.busy = False

    def _iterator(self) -> Iterator[Any]:
        """Torch's iterator; its first one starts the processes."""
        if self._loader._iterator is not None:
            return iter(self._loader)
        try:
            with _signals_as_they_are(), warnings.catch_warnings():
                # it advises to fork
                warnings.filterwarnings("ignore", "Got pickle error")
                iterator = iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as fault:
            raise DataError(
                f"images of {self._kind} cannot be sent to processes that read ahead ({fault}); "
                "workers: 0 among the dataset's options would do"
            ) from fault
        # before torch's own, which waits for each worker for seconds
        atexit.register(self._end)
        return iterator

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._end()
        atexit.unregister(self._end)


def _end(loader: DataLoader[Any], closing: Event) -> None:
    """End the processes of a loader that may have started some."""
    closing.set()
    iterator: Any = loader._iterator
    if iterator is not None:
        loader._iterator = None
        # what its deletion does; but a traceback may keep it from being deleted
        iterator._shutdown_workers()


def _as_it_is(found: Any) -> Any:
    return found


@contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Processes started inside do not hear `SIGNALS` yet, and this process's handlers stay."""
    if os.name != "posix":
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    before, heard = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        # torch's own would raise in the middle of a step when a worker dies; the next batch tells it too
        if in_main and before is not None:
            signal.signal(signal.SIGCHLD, before)


def _follow_parent(closing: Event, worker: int) -> None:
    """In a worker: end when the process that started it says so or is gone, and for no other reason.

    Ctrl-C and the signals of clusters reach all processes at once, and a run that was asked to stop finishes its
    step first, for which it may need a batch.  When that process is gone, the worker goes too: torch looks for that
    as well, but a worker that was still starting then would stay for ever.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if closing.is_set():
            os._exit(0)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    if os.name == "posix":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
