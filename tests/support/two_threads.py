"""Two threads that take themselves for two processes of a run: what these tell each other, without starting any."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch.distributed as dist

from robustnas.runtime.processes import Processes

Result = TypeVar("Result")


def in_two_threads(compute: Callable[[Processes], Result], monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """What `compute` returns for each of two processes; torch's global generators are shared, so it draws nothing."""
    barrier, own, slots = threading.Barrier(2, timeout=60), threading.local(), [None, None]

    def exchanged(value: Any) -> list[Any]:
        slots[own.rank] = value
        barrier.wait()
        both = list(slots)
        barrier.wait()
        return both

    def all_reduce(tensor: Any, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        one, two = exchanged(tensor.clone())
        tensor.copy_(one + two if op == dist.ReduceOp.SUM else one.maximum(two))

    def all_gather_object(found: list[Any], value: Any, group: Any = None) -> None:
        found[:] = map(pickle.loads, exchanged(pickle.dumps(value)))

    def broadcast_object_list(box: list[Any], src: int, group: Any = None) -> None:
        box[:] = exchanged(list(box))[src]

    for stand_in in (all_reduce, all_gather_object, broadcast_object_list):
        monkeypatch.setattr(dist, stand_in.__name__, stand_in)
    monkeypatch.setattr(dist, "get_rank", lambda: own.rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)

    def work(rank: int) -> Result:
        own.rank = rank
        try:
            return compute(Processes(rank, 2))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, range(2)))
