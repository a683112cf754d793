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

from robustnas.errors import RecipeError, RobustnasError
from robustnas.runtime import interrupt

OURS = str(Path(__file__).parent)


@contextmanager
def contained(blamed: Callable[[str], RobustnasError]) -> Iterator[None]:
    """Run other people's code inside: what it raises becomes an exception of ours, what it leaves changed is put back.

    Args:
        blamed: makes an exception of ours from the description of theirs.

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
            raise blamed(traced(fault)) from fault


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


LONGEST = 2000
"""Characters of an exception's text that a message takes: a page."""


def kind_of(thing: object) -> str:
    """The name of something's class, read without running any of that class's own code."""
    name: str = type.__dict__["__name__"].__get__(type(thing))
    return name


def text_of(fault: BaseException) -> str:
    """The text of an exception, whoever wrote its class.

    Where its own code fails to make the text, this says so; a text longer than `LONGEST` is cut.
    """
    try:
        text = str.__str__(str(fault))
    except BaseException as raised:  # whatever it is, it is about a text
        return f"its text cannot be had, as that raises {kind_of(raised)}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"


def first_line(fault: BaseException) -> str:
    """The first line of an exception's text, or its kind where it has no text."""
    lines = text_of(fault).strip().splitlines()
    return lines[0] if lines else kind_of(fault)


def described(fault: BaseException, *, whole: bool = False, at: str = "") -> str:
    """Kind and text of an exception, as in `KeyError: 'width' (net.py:12)`.

    Args:
        whole: take all lines of its text instead of the first.
        at: the place in brackets; without one there are no brackets.
    """
    text = text_of(fault)
    lines = text.strip().splitlines()
    some = text if whole else "".join(lines[:1])
    return kind_of(fault) + (f": {some}" if some else "") + (f" ({at})" if at else "")


def traced(fault: BaseException) -> str:
    """An exception described with the last line of its author's code: not of this package, of torch or of Python."""
    if isinstance(fault, SyntaxError):
        return f"{kind_of(fault)}: {fault.msg} ({fault.filename}:{fault.lineno})"
    torch = sys.modules.get("torch")
    home = str(Path(torch.__file__).parent) if torch is not None and torch.__file__ is not None else OURS
    passed = (OURS, home, "<frozen", str(Path(os.__file__).parent / "importlib"))
    frames = [one for one in traceback.extract_tb(fault.__traceback__) if not one.filename.startswith(passed)]
    frames = [one for one in frames if f"{os.sep}stevedore{os.sep}" not in one.filename]
    return described(fault, at=f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "")


def last_line(fault: BaseException) -> str:
    """File and number of the line that raised an exception."""
    frame = traceback.extract_tb(fault.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


def carried(fault: RobustnasError) -> RobustnasError:
    """The same fault as another process can read it: of a class of ours, whatever a plugin derives from them."""
    kind: type[RobustnasError] = next(
        one for one in type(fault).__mro__ if one.__module__ == "robustnas.errors" and one is not RecipeError
    )
    return kind(text_of(fault))
