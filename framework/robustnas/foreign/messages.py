"""What somebody else's code raised and returned, in the words of a message."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from robustnas.errors import InputError
from robustnas.runtime.strangers import contained

FEW = 5
"""Names that a message lists before it counts."""

ELSEWHERE = r"CUDA|NVIDIA|[Ss]ame device|\bMPS\b"
"""What torch says of tensors on another device than the CPU, or of one that is not there."""

Made = TypeVar("Made")


def theirs(run: Callable[[], Made], what: str) -> Made:
    """Run somebody else's code and return what it returns.

    Raises:
        InputError: it raised or exited; names the last line that is not torch's.  What robustnas found itself passes.
    """
    with contained(lambda text: InputError(f"{what} raised {text}")):
        return run()


def kind(thing: Any) -> str:
    """Say what something is, in a few words."""
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
    """List the first names, and count the others."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return (", ".join(names[:FEW]) or "nothing") + more
