"""The command `robustnas`: what may be typed, and the exit status it ends with.

    0 done    1 the run failed    2 something given is wrong    3 the budget is over    130 interrupted

`parser` is what may be typed, `commands` what it does.  Only what a command needs is imported when it runs, so that
help and lists answer at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from robustnas.cli import commands
from robustnas.cli.parser import parse
from robustnas.errors import InputError, RecipeError, RobustnasError
from robustnas.runtime.given_file import shown
from robustnas.runtime.interrupt import Ended, Interrupted, OutOfTime, ending
from robustnas.runtime.strangers import described, last_line, text_of
from robustnas.runtime.terminal import tell

__all__ = ["main"]

OUT_OF_TIME, INTERRUPTED = 3, 130

NAMES = (errno.ENAMETOOLONG, errno.ELOOP)
"""What the system answers to a path that cannot be one; we make none that it answers so."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a fault of the input is a message on stderr."""
    typed = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = parse(typed)
    except SystemExit as done:  # argparse has printed help or what is wrong
        return done.code if isinstance(done.code, int) else 2
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        with ending():
            for given in getattr(arguments, "plugin", ()):
                from robustnas.registry.plugin_file import register

                register(given)
            status = command(arguments)
        sys.stdout.flush()
        return status
    except RobustnasError as fault:
        # The faults of a recipe begin with their places in its file, as editors expect.
        if not (fault.shared and os.environ.get("RANK", "0") != "0"):  # what all processes raise, one says
            tell("\n".join(fault.faults) if type(fault) is RecipeError else f"robustnas: {text_of(fault)}", error=True)
        return 2 if isinstance(fault, InputError) else 1  # whatever a plugin's own says
    except (Ended, Interrupted) as stop:
        goes_on = command in (commands.run, commands.rank, commands.evaluate)
        hint = f"; to go on where it stopped: {_launcher()} {shlex.join(typed)}" if goes_on else ""
        over = isinstance(stop, OutOfTime)
        tell(f"robustnas: {f'the budget is over, {text_of(stop)}' if over else 'interrupted'}{hint}", error=True)
        return OUT_OF_TIME if over else INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left.  Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as fault:  # a disk that became full or read-only where nothing more precise is known, or a path
        where = f"{shown(str(fault.filename))}: " if fault.filename else ""
        tell(f"robustnas: {where}{fault.strerror or text_of(fault)}", error=True)
        return InputError.exit_status if fault.errno in NAMES else 1
    except BaseException as fault:  # a plugin's own, before any stage could be blamed for it, or ours
        if isinstance(fault.__context__, BrokenPipeError):
            return 1  # rich, whose reader has left, has put stdout out of reach already
        tell(f"robustnas: {_unforeseen(fault)}", error=True)
        return 1


def _unforeseen(fault: BaseException) -> str:
    """What is said of an exception that nobody meant to raise; its traceback goes to a file."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="robustnas-", suffix=".txt", delete=False, encoding="utf-8") as kept:
        kept.write("".join(traceback.format_exception(fault)))
    return (
        f"{described(fault, whole=True, at=f'at {last_line(fault)}')}, a fault of the plugin or of robustnas in "
        f"which that line is; the traceback is in {kept.name}"
    )


def _launcher() -> str:
    """How this program was started, as far as it can be told."""
    size = os.environ.get("WORLD_SIZE", "1")
    return "robustnas" if size == "1" else f"torchrun --nproc-per-node {size} -m robustnas"
