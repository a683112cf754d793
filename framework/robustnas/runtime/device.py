"""The devices a run computes on, by the names that its user gives them, and what they can do."""

from __future__ import annotations

import re

import torch

from robustnas.errors import DeviceError


def resolve(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` as a device of this machine; `auto` takes the fastest there is.

    Raises:
        DeviceError: the name is unknown, or this machine has no such device; says which it has.
    """
    has_mps = torch.backends.mps.is_available()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(f"cuda:{index}" for index in range(count)), *(["mps"] if has_mps else [])]
    if name == "auto":
        return torch.device("cuda:0" if count else "mps" if has_mps else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise DeviceError(f"--device {name}: not a device; auto, cpu, cuda, cuda:N or mps would do")
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in here:
        reason = "" if count or "cuda" not in name else f" (torch {torch.__version__} sees no CUDA device)"
        raise DeviceError(f"--device {name}: this machine has {', '.join(here)}{reason}; --device auto would do")
    return torch.device(wanted)


def spread(name: str, jobs: int) -> list[torch.device]:
    """Devices of so many jobs side by side: where `auto` or `cuda` names all of CUDA's, they take them in turn.

    Raises:
        DeviceError: as `resolve`.
    """
    first = resolve(name)
    if first.type != "cuda" or name not in ("auto", "cuda"):
        return [first] * jobs
    count = torch.cuda.device_count()
    return [torch.device("cuda", job % count) for job in range(jobs)]


def can_fuse(device: torch.device) -> bool:
    """Whether torch's optimisers have one kernel for all parameters there.

    On the CPU a step of SGD on 300 small tensors takes a tenth of the time so.
    """
    return device.type in ("cpu", "cuda")


def float64_here(device: torch.device) -> bool:
    """Whether the device computes in float64; Apple's does not."""
    return device.type != "mps"
