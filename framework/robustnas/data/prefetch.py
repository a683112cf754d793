"""Batches of a split on the device that computes, there when they are asked for.

Images in memory move to the device once, as bytes, and batches are gathered there.  Streamed ones are read ahead by
worker processes (`robustnas.data.reader_processes`), come as bytes through shared memory, and go to the device from
pinned memory.  What is in a batch and the order of batches do not depend on how they are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from robustnas.contracts import Images
from robustnas.data.images import InMemory, on_device
from robustnas.data.pixels import sent, unit
from robustnas.data.reader_processes import Readers
from robustnas.data.selection import readers, stored


class Prefetcher:
    """Hands out batches, and knows how long it was waited for.

    Workers live from one call of `batches` to the next.  `close`, or the end of a `with` block, ends them; so does a
    stream of batches that is given up before its end, and the end of this process.

    Args:
        images: of the split.
        device: where batches go.
        workers: processes that read streamed images ahead; None is as many as the dataset wants, 0 reads in the
            caller's own.  Images in memory are never read ahead: there is nothing to read.
        ahead: batches that may be read before they are asked for; at least one for each worker.
    """

    def __init__(self, images: Images, device: torch.device | str, *, workers: int | None = None, ahead: int = 2):
        self._device = torch.device(device)
        self._images = on_device(images, self._device) if isinstance(images, InMemory) else images
        self._labels = sent(images.labels, self._device)
        self._workers = 0 if isinstance(images, InMemory) else readers(images) if workers is None else workers
        self._ahead = ahead
        self._started: list[Readers] = []
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """Seconds that consumers spent waiting for batches since `reset`.

        On a CUDA device the gathering itself is queued like other work, and is no waiting.
        """
        return self._waited

    def reset(self) -> None:
        """Count waiting from 0 again."""
        self._waited = 0.0

    def batches(self, indices: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels at each of `indices` (n,) int64 on the CPU, in that order.

        Streams may run side by side; each has workers of its own.

        Args:
            indices: taken as they are needed, those that are read ahead before their batch is asked for.

        Returns:
            Pairs: (n, C, H, W) float32 in [0, 1], (n,) int64, both on the device.

        Raises:
            DataError: an image cannot be read, or the images cannot be sent to a worker.
            RunError: a worker was killed.
        """
        read = self._read_ahead(indices) if self._workers else self._read(indices)
        try:
            while True:
                began = time.perf_counter()
                found = next(read, None)
                if found is not None:
                    pixels, places = found
                    images = unit(sent(pixels, self._device))
                    labels = self._labels.index_select(0, sent(places, self._device))
                self._waited += time.perf_counter() - began
                if found is None:
                    return
                yield images, labels
        finally:
            read.close()

    def close(self) -> None:
        """End the workers.  Later streams start new ones."""
        while self._started:
            self._started.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def _read(self, indices: Iterable[Tensor]) -> Any:
        """Pixels as stored, and where they are from; read here."""
        for places in indices:
            yield stored(self._images, places), places

    def _read_ahead(self, indices: Iterable[Tensor]) -> Any:
        """The same, read by workers: those that a stream before has left, or new ones."""
        workers = next((workers for workers in self._started if not workers.busy), None)
        if workers is None:
            workers = Readers(self._images, self._workers, self._ahead, self._device.type == "cuda")
            self._started.append(workers)
        try:
            yield from workers.read(indices)
        finally:
            # busy: the stream was given up, or failed, with batches under way
            if workers.busy:
                workers.close()
                if workers in self._started:
                    self._started.remove(workers)
