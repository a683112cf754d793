"""What somebody else's code raised and returned, in the words of a message."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from robustnas.errors import InputError, RunError

FEW = 5
"""Names that a message lists before it counts."""

ELSEWHERE = r"CUDA|NVIDIA|[Ss]ame device|\bMPS\b"
"""What torch says of tensors on another device than the CPU, or of one that is not there."""

Made = TypeVar("Made")


def theirs(run: Callable[[], Made], what: str) -> Made:
    """What somebody else's code returns.

    Raises:
        InputError: it raised or exited; names the last line that is not torch's.  What robustnas found itself passes.
    """
    try:
        return run()
    except (InputError, RunError):
        raise
    except (Exception, SystemExit) as fault:  # a stranger's code: a script that parses arguments exits
        raise InputError(f"{what} raised {told(fault)}") from fault


def told(fault: BaseException) -> str:
    """Kind and text of an exception, and the last line of its author's code it came through."""
    if isinstance(fault, SyntaxError):
        return f"{type(fault).__name__}: {fault.msg} ({fault.filename}:{fault.lineno})"
    passed = (str(Path(__file__).parent), str(Path(torch.__file__).parent), "<frozen")
    frames = traceback.extract_tb(fault.__traceback__)
    inside = [frame for frame in frames if not frame.filename.startswith(passed)]
    where = f" ({inside[-1].filename}:{inside[-1].lineno})" if inside else ""
    lines = str(fault).strip().splitlines()
    return f"{type(fault).__name__}: {lines[0]}{where}" if lines else f"{type(fault).__name__}{where}"


def kind(thing: Any) -> str:
    """What something is, in a few words."""
    if isinstance(thing, Tensor):
        return f"a tensor {thing.dtype} of shape {tuple(thing.shape)}"
    if isinstance(thing, Mapping):
        return f"a {type(thing).__name__} with {few([str(key) for key in thing])}"
    if isinstance(thing, list | tuple):
        return f"a {type(thing).__name__} of {len(thing)}"
    if thing is None:
        return "None"
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return f"the {'class' if inspect.isclass(thing) else 'function'} {thing.__name__}"
    return f"a {type(thing).__name__}"


def few(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return (", ".join(names[:FEW]) or "nothing") + more
