"""Memory: how much a stage has used, how much it would, and what to change where there is too little.

peak = Peak(device)          before anything is built
peak.reset()                 at the start of an epoch
{**record, **peak.read()}    at its end: the epoch's `peak_memory` in bytes

with Tally() as tally:       counts tensors that are built and dropped inside, on the `meta` device too
    ...
tally.peak
"""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robustnas.errors import DeviceLostError, RobustnasError, RunError, first_line, said

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """The most memory that was in use since the last `reset`, for the run record.

    CUDA    bytes of tensors, as torch's allocator counts them, and what it has reserved from the device for them
            (`peak_memory_reserved`): more, as blocks are rounded up and cached.  Neither sees the CUDA context (some
            hundred MB), nor what libraries take behind the allocator's back, nor other processes on the device.
    CPU     growth of the process's resident memory since the object was made, at its highest since the last reset.
            This includes what the C allocator keeps after a tensor is gone, code pages of libraries that are loaded on
            first use, and everything else that the process did meanwhile, but no other process (workers that read
            images).  On Linux the high-water mark is set back where the system allows it; where it does not, an
            earlier and higher peak of the process hides a later one.  On macOS the mark is never set back and the
            figure is its growth: 0 if nothing was higher than before.  On Windows nothing is known.
    MPS     what the driver holds at the time of reading: it has no high-water mark.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.base = 0
        if device.type == "cpu":
            resident = _status("VmRSS")
            self.base = (_highest() or 0) if resident is None else resident
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            _lower_mark()

    def read(self) -> dict[str, int]:
        """`peak_memory` in bytes, on CUDA also `peak_memory_reserved`; empty where nothing is known."""
        if self.device.type == "cuda":
            return {
                "peak_memory": torch.cuda.max_memory_allocated(self.device),
                "peak_memory_reserved": torch.cuda.max_memory_reserved(self.device),
            }
        if self.device.type == "mps":
            return {"peak_memory": torch.mps.driver_allocated_memory()}
        highest = _highest() if self.device.type == "cpu" else None
        return {} if highest is None else {"peak_memory": max(highest - self.base, 0)}


def highest(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The figures of `Peak.read` for a whole stage, from the records of its epochs."""
    found: dict[str, int] = {}
    for record in records:
        for name in ("peak_memory", "peak_memory_reserved"):
            if name in record:
                found[name] = max(found.get(name, 0), int(record[name]))
    return found


def _status(field: str) -> int | None:
    """A figure of this process in bytes; None where the system does not tell."""
    try:
        text = STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _highest() -> int | None:
    """The high-water mark of resident memory in bytes."""
    mark = _status("VmHWM")
    if mark is not None:
        return mark
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lower_mark() -> None:
    """Set the high-water mark to what is resident now, where Linux lets a process do so."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return


class Tally(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive of those made inside, and their highest sum.

    Works on every device, and on `meta`, where nothing is allocated.  A storage counts from the operation that returns
    it until nothing refers to it: weights, gradients, optimiser state, what autograd saves, and results on their way.
    It does not see what an operation needs inside (work space of a convolution, say) and how an allocator rounds up.
    Tensors made inside a custom operation count when they are returned.

    Attributes:
        live: bytes alive now.
        trace: `live` after each operation that made something, since the last `restart`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.trace: list[int] = []
        self._sizes: dict[int, int] = {}

    @property
    def peak(self) -> int:
        """The highest sum since the last `restart`."""
        return max(self.trace, default=self.live)

    def restart(self) -> None:
        """Forget the past; what is alive goes on counting."""
        self.trace = [self.live]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self.live += storage.nbytes()
            self.trace.append(self.live)
            weakref.finalize(storage, self._drop, place).atexit = False

    def _drop(self, place: int) -> None:
        self.live -= self._sizes.pop(place)


def extrapolated(small: tuple[int, Sequence[int]], large: tuple[int, Sequence[int]], images: int) -> int:
    """The peak at `images` images, from traces at two sizes of the batch, each `(images, trace)`.

    Bytes are linear in the size of the batch at each moment of the same program, and which moment is the highest
    depends on the size: a trace is continued moment by moment where the two are of the same length, and by its peaks
    where they are not.
    """
    (few, low), (many, high) = small, large
    if len(low) != len(high):
        low, high = [max(low)], [max(high)]
    factor = (images - few) / (many - few)
    return max(round(a + (b - a) * factor) for a, b in zip(low, high, strict=True))


def text(count: float) -> str:
    """Bytes for people: two digits, in units of 1000 (850 kB, 1.2 GB, 120 GB)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.0f} TB" if count >= 9.95 else f"{count:.1f} TB"


CHANGES = {
    "search": "a smaller search.batch, a larger search.accumulate (parts that a batch is computed in), "
    "search.recompute_cells: true, or fewer cells or channels of search_space",
    "train": "a smaller train.batch, a larger train.accumulate, train.recompute_cells: true, or fewer network_cells or "
    "network_channels of search_space",
    "clean": "a smaller evaluate.batch",
    "probe": "an evaluate.images below 64, the images the probe looks at, or a smaller network",
    "attack": "a smaller evaluate.batch",
    "certify": "a smaller certify.batch, or another certify.method (crown holds most, crown-ibp less, ibp least)",
    "smooth": "a smaller smoothing.batch",
}
"""What to change where a stage of this kind runs out of memory."""

_TOO_LITTLE = re.compile(
    r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory|ALLOC_FAILED|Unable to allocate",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(?:tried to allocate|Unable to allocate) ([\d.]+ ?\w+)", re.IGNORECASE)
_FREE = re.compile(r"of which ([\d.]+ \w+) is free|max allowed: ([\d.]+ \w+)")
_CAPACITY = re.compile(r"total capacity of ([\d.]+ \w+)")

_LOST = re.compile(
    r"^CUDA error|^CUDA driver error|CUDNN_STATUS_(?!NOT_SUPPORTED|BAD_PARAM)"
    r"|CUBLAS_STATUS_(?!NOT_SUPPORTED|INVALID_VALUE)|CUDA unknown error|No CUDA GPUs are available"
)
_FAULT_OF_CODE = re.compile(r"device-side assert|no kernel image|invalid (argument|configuration|device function)")
_PEER = re.compile(r"\bNCCL\b|ncclUnhandled|gloo/transport|Connection (closed|reset) by peer")


def out_of_memory(fault: BaseException) -> bool:
    """Whether the fault says that memory ran out, on the device or on the host."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(fault, RuntimeError) and bool(_TOO_LITTLE.search(said(fault)))


def device_lost(fault: BaseException) -> bool:
    """Whether the fault says that the device, or another process of this run, no longer answers.

    Nothing more can be computed on that device in this process.  A fault that is the program's own, such as an
    assertion on the device, is none of these.
    """
    if not isinstance(fault, RuntimeError) or out_of_memory(fault) or _FAULT_OF_CODE.search(said(fault)):
        return False
    kind = getattr(torch, "AcceleratorError", None)
    return (kind is not None and isinstance(fault, kind)) or bool(
        _LOST.search(said(fault)) or _PEER.search(said(fault))
    )


def explain(fault: BaseException, kind: str) -> RobustnasError | None:
    """What a fault of the machine means to whoever runs a stage of this kind; None for any other fault."""
    if out_of_memory(fault):
        return RunError(
            f"out of memory{_figures(said(fault))}: {CHANGES[kind]} would do; "
            "stages that are done and the last checkpoint are intact"
        )
    if device_lost(fault):
        other = bool(_PEER.search(said(fault)))
        what = "another process of this run, or its device, was lost" if other else "the device was lost"
        first = first_line(fault)
        return DeviceLostError(
            f"{what} ({first}); stages that are done and the last checkpoint are intact: once it is back, run the same "
            "command again to go on"
        )
    return None


def _figures(message: str) -> str:
    """What was asked for and what there was, as far as the message tells."""
    asked, free, capacity = _ASKED.search(message), _FREE.search(message), _CAPACITY.search(message)
    parts = []
    if asked:
        number = re.fullmatch(r"(\d+) ?bytes", asked[1])
        parts.append(f"{text(int(number[1])) if number else asked[1]} more were asked for")
    if free:
        parts.append(
            f"{free[1]} of {capacity[1]} were free" if capacity and free[1] else f"{free[1] or free[2]} is all"
        )
    return f" ({', '.join(parts)})" if parts else ""
