"""The most memory that a stage has used, and bytes as people read them.

peak = Peak(device)          before anything is built
peak.reset()                 at the start of an epoch
{**record, **peak.read()}    at its end: the epoch's `peak_memory` in bytes
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

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
        """Set the mark back: from now on peaks count anew."""
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


def text(count: float) -> str:
    """Bytes for people: two digits, in units of 1000 (850 kB, 1.2 GB, 120 GB)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 9.95 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.0f} TB" if count >= 9.95 else f"{count:.1f} TB"
