"""Other people's code, and what it may do to whoever calls it: plugins, networks, data sets, whatever they import.

Such code raises what it likes: `SystemExit`, `GeneratorExit`, an exception of its own kind, a `KeyboardInterrupt` that
nobody typed, one whose text cannot be had.  It also leaves the process as it likes.  `contained` makes one of our
exceptions of the first and puts back the second, so that none of it ends the program or passes for success.

Out of reach are `os._exit`, a signal that the code sends, a crash of the interpreter, and a thread that never ends.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robustnas.errors import RobustnasError, kind_of, said
from robustnas.runtime import interrupt

OURS = str(Path(__file__).parent)


@contextmanager
def contained(blamed: Callable[[str], RobustnasError]) -> Iterator[None]:
    """Inside, other people's code runs.

    Args:
        blamed: makes an exception of what is told of theirs.

    Raises:
        RobustnasError: what `blamed` makes; or theirs, where it is one of ours.
        KeyboardInterrupt: the user's.
    """
    with unchanged():
        try:
            yield
        except RobustnasError:
            raise
        except BaseException as fault:
            if interrupt.wanted(fault):
                raise
            raise blamed(told(fault)) from fault


@contextmanager
def unchanged() -> Iterator[None]:
    """Put back afterwards what the whole process shares: working directory, streams, torch's defaults and the like."""
    folder, streams, limit = os.getcwd(), (sys.stdout, sys.stderr), sys.getrecursionlimit()
    torch: Any = sys.modules.get("torch")
    modes = None if torch is None else (torch.get_default_dtype(), torch.is_grad_enabled())
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        sys.setrecursionlimit(limit)
        with suppress(OSError):  # it may be gone, and then there is nothing to go back to
            os.chdir(folder)
        if modes is not None:
            torch.set_default_dtype(modes[0])
            torch.set_grad_enabled(modes[1])


def told(fault: BaseException) -> str:
    """Kind and text of an exception, and the last line of its author's code that it came through."""
    kind = kind_of(fault)
    if isinstance(fault, SyntaxError):
        return f"{kind}: {fault.msg} ({fault.filename}:{fault.lineno})"
    torch = sys.modules.get("torch")
    home = str(Path(torch.__file__).parent) if torch is not None and torch.__file__ is not None else OURS
    passed = (OURS, home, "<frozen", str(Path(os.__file__).parent / "importlib"))
    frames = [one for one in traceback.extract_tb(fault.__traceback__) if not one.filename.startswith(passed)]
    frames = [one for one in frames if f"{os.sep}stevedore{os.sep}" not in one.filename]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    lines = said(fault).strip().splitlines()
    return f"{kind}: {lines[0]}{where}" if lines else f"{kind}{where}"
