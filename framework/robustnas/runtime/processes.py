"""The processes that work on one run together (data parallel), and what they tell each other.

    torchrun --nproc-per-node N -m robustnas run RECIPE

Every process does the same steps on its own share of each batch; sums over processes make them agree, so each holds
the same weights, the same alpha and the same running statistics.  The first process (rank 0) alone writes.  Tensors
are summed by NCCL on CUDA devices and by Gloo elsewhere; short messages go by Gloo between the hosts, so that asking
whether to stop does not wait for a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from attrs import frozen
from torch import Tensor

from robustnas.errors import DeviceError, RobustnasError, RunError
from robustnas.runtime.interrupt import Interrupted, wanted
from robustnas.runtime.strangers import carried, traced

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each of its processes."""


Result = TypeVar("Result")


@frozen(eq=False)
class Processes:
    """Stands for this process among those that share a run.

    Args:
        rank: which one this is, from 0.
        size: how many there are.
        messages: the group for short messages between hosts; None where there is one process.
    """

    rank: int = 0
    size: int = 1
    messages: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Say which of `count` things in order are this process's: contiguous, and sizes differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Sum each tensor over processes, without a graph; the result is the same on all of them."""
        if self.size == 1:
            return list(tensors)
        summed: list[Tensor] = [torch.empty(0)] * len(tensors)
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
            # one message: hundreds of small ones would each wait for the slowest process
            flat = torch.cat([tensors[place].detach().reshape(-1) for place in places])
            dist.all_reduce(flat)
            parts = flat.split([tensors[place].numel() for place in places])
            for place, part in zip(places, parts, strict=True):
                summed[place] = part.view(tensors[place].shape)
        return summed

    def average(self, value: Tensor, count: int) -> Tensor:
        """Turn a mean over `count` things here into the mean over those of all processes, without a graph."""
        if self.size == 1:
            return value
        total, counts = self.sum([count * value, torch.tensor(float(count), device=value.device)])
        return total / counts.to(total.dtype)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.messages)
        return bool(flags)

    def gather(self, value: Any) -> list[Any]:
        """Gather plain data of every process, by rank, on every process."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.messages)
        return found

    def run_together(self, compute: Callable[[], Result]) -> list[Result]:
        """Run `compute` in every process; return its results, by rank, on every process.

        `compute` says nothing to the other processes.

        Raises:
            RobustnasError: it failed in one of them; then it fails in all, so that none waits for another.
            Interrupted: one of them was asked to stop; then all do.
        """
        if self.size == 1:
            return [compute()]
        result: Any = None
        fault: RobustnasError | Interrupted | None = None
        try:
            result = compute()
        except (RobustnasError, Interrupted) as raised:
            fault = raised
        except BaseException as raised:  # the others wait: whatever it is, they have to hear of it
            if wanted(raised):
                raise
            fault = RunError(traced(raised))
            fault.__cause__ = raised
        answers = self.gather((result, carried(fault) if isinstance(fault, RobustnasError) else fault))
        for _, found in answers:
            if isinstance(found, RobustnasError):
                found.shared = True
            if found is not None:
                raise found
        return [value for value, _ in answers]

    def broadcast(self, value: Any) -> Any:
        """Hand the first process's value to every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.messages)
        return box[0]


ALONE = Processes()
"""One process."""


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return all(name in os.environ for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def own_device(name: str) -> str:
    """The device of this process, where `auto` or `cuda` names one for each: its place on this machine counts them.

    Raises:
        DeviceError: one device is named for several processes, or there are fewer devices than processes here.
    """
    if not launched():
        return name
    place, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and count == 0):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise DeviceError(f"--device {name}: several processes need a device each; cuda, cpu or auto would do")
    if place >= count:
        raise DeviceError(
            f"torchrun started at least {place + 1} processes here and torch sees {count} CUDA device(s); "
            f"--nproc-per-node {max(count, 1)} or --device cpu would do"
        )
    return f"cuda:{place}"


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun started; this one alone where there are none."""
    if not launched():
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    try:
        messages = dist.new_group(backend="gloo")
        yield Processes(dist.get_rank(), dist.get_world_size(), messages)
    finally:
        dist.destroy_process_group()


def other_processes(path: Path, found: Any, processes: Processes) -> str:
    """The message for a checkpoint that another number of processes wrote."""
    return (
        f"{path} was written by {found} process(es) and here are {processes.size}: the random draws of an image depend "
        f"on how many share a batch; nothing is lost\n"
        f"  go on with --nproc-per-node {found}, or delete the folder {path.parent} to do that stage again"
    )
