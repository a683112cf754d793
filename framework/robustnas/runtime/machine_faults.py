"""Faults of the machine: memory that ran out, a device that was lost; told from faults of the code that met them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robustnas.errors import DeviceLostError, RobustnasError, RunError
from robustnas.runtime import interrupt
from robustnas.runtime.memory import text
from robustnas.runtime.strangers import first_line, kind_of, text_of

OF_TRAINING = (
    "a smaller train.batch, a larger train.accumulate, train.recompute_cells: true, or fewer network_cells or "
    "network_channels of search_space"
)
CHANGES = {
    "search": "a smaller search.batch, a larger search.accumulate (parts that a batch is computed in), "
    "search.recompute_cells: true, or fewer cells or channels of search_space",
    "candidate": OF_TRAINING,
    "choose": OF_TRAINING,
    "supernet": "a smaller search.batch, or fewer cells or channels of search_space",
    "score": "a smaller rank.batch",
    "train": OF_TRAINING,
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
    return isinstance(fault, RuntimeError) and bool(_TOO_LITTLE.search(text_of(fault)))


def device_lost(fault: BaseException) -> bool:
    """Whether the fault says that the device, or another process of this run, no longer answers.

    Nothing more can be computed on that device in this process.  A fault that is the program's own, such as an
    assertion on the device, is none of these.
    """
    if not isinstance(fault, RuntimeError) or out_of_memory(fault) or _FAULT_OF_CODE.search(text_of(fault)):
        return False
    kind = getattr(torch, "AcceleratorError", None)
    return (kind is not None and isinstance(fault, kind)) or bool(
        _LOST.search(text_of(fault)) or _PEER.search(text_of(fault))
    )


def explain(fault: BaseException, kind: str) -> RobustnasError | None:
    """Say what a fault of the machine means to whoever runs a stage of this kind; None for any other fault."""
    if out_of_memory(fault):
        return RunError(
            f"out of memory{_figures(text_of(fault))}: {CHANGES[kind]} would do; "
            "stages that are done and the last checkpoint are intact"
        )
    if device_lost(fault):
        other = bool(_PEER.search(text_of(fault)))
        what = "another process of this run, or its device, was lost" if other else "the device was lost"
        first = first_line(fault)
        return DeviceLostError(
            f"{what} ({first}); stages that are done and the last checkpoint are intact: once it is back, run the same "
            "command again to go on"
        )
    return None


def _figures(message: str) -> str:
    """Say what was asked for and what there was, as far as the message tells."""
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


@contextmanager
def blaming(who: str, when: str) -> Iterator[None]:
    """Blame a network or an attack that runs inside for whatever it raises: one stage fails, and the run goes on.

    Args:
        who: what to call it, as in `the network`.
        when: what it was doing, as in `in its forward pass`.

    Raises:
        RunError: it raised.  Faults of the machine, of ours and a request to stop pass as they are.
    """
    try:
        yield
    except RobustnasError:
        raise
    except BaseException as fault:
        if interrupt.wanted(fault) or out_of_memory(fault) or device_lost(fault):
            raise  # whoever runs the stage is told what would do
        what = f"{who} raised {kind_of(fault)} {when}"
        raise RunError(f"{what}: {text}" if (text := text_of(fault)) else what) from fault
