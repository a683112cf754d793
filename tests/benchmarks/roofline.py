"""How near a computation comes to what the machine can do: arithmetic and memory traffic counted, peaks measured.

    least time = max(operations / peak rate of a matrix product, bytes / rate of a copy in memory)

Operations are those of convolutions and products (a multiplication and an addition are two).  Bytes are the tensors
that each aten operation reads and writes, each once: what a machine without caches would move.  Data that stays in a
cache from one operation to the next is counted all the same, so small computations can come out above one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from attrs import define, frozen
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product gives the peak rate."""

ENTRIES = {"cpu": 2**24, "cuda": 2**28}
"""Entries of the tensor whose copy gives the memory's rate: 64 MiB and 1 GiB, more than caches hold."""


@frozen
class Machine:
    """Measured peaks: operations a second, bytes a second."""

    operations: float
    bytes: float

    @classmethod
    def measured(cls, device: torch.device | str = "cpu", rounds: int = 7) -> Machine:
        """The best of several rounds each, with the threads and the rounding that torch is set to."""
        kind = torch.device(device).type
        side, entries = SIDE[kind], ENTRIES[kind]
        a, b = torch.randn(2, side, side, device=device)
        source = torch.randn(entries, device=device)
        target = torch.empty_like(source)
        product = _best(lambda: a @ b, rounds, device)
        copy = _best(lambda: target.copy_(source), rounds, device)
        return cls(2 * side**3 / product, 2 * 4 * entries / copy)

    def least_seconds(self, work: Work) -> float:
        """The time the work takes at least."""
        return max(work.operations / self.operations, work.bytes / self.bytes)


@define
class Work:
    """What a computation does."""

    operations: float = 0.0
    bytes: float = 0.0
    calls: int = 0


def counted(compute: Callable[[], Any]) -> Work:
    """The work of one call, backward passes and optimisers included."""
    mode = _Counting()
    with mode:
        compute()
    return mode.work


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        returns = function._schema.returns
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        if not is_view and function is not torch.ops.aten.detach.default:
            read, written = _tensors((args, kwargs)), _tensors(result)
            moved = {id(one): _bytes(one) for one in read}
            fresh = {id(one): _bytes(one) for one in written if id(one) not in moved}
            in_place = sum(moved[id(one)] for one in written if id(one) in moved and "out" not in kwargs)
            self.work.bytes += sum(moved.values()) + sum(fresh.values()) + in_place
            self.work.operations += _operations(function, args, result)
            self.work.calls += 1
        return result


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [one for part in tree for one in _tensors(part)] if isinstance(tree, list | tuple) else []


def _bytes(tensor: Tensor) -> int:
    """Of the entries in memory: those of an expanded tensor are there once."""
    entries = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        entries *= size if stride else 1
    return entries * tensor.element_size()


def _operations(function: Any, args: Any, result: Any) -> float:
    packet, aten = function.overloadpacket, torch.ops.aten
    if packet in (aten.mm, aten.bmm):
        return 2.0 * args[0].numel() * args[1].shape[-1]
    if packet is aten.addmm:
        return 2.0 * args[1].numel() * args[2].shape[-1]
    if packet is aten.convolution:
        return 2.0 * result.numel() * args[1][0].numel()
    if packet is aten.convolution_backward:
        slope, _, weight, *_, wanted = args
        return 2.0 * slope.numel() * weight[0].numel() * sum(wanted[:2])
    return 0.0


def _best(compute: Callable[[], Any], rounds: int, device: torch.device | str) -> float:
    def wait() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    found = []
    for _ in range(rounds + 1):
        wait()
        began = time.perf_counter()
        compute()
        wait()
        found.append(time.perf_counter() - began)
    return min(found[1:])
