"""`robustnas` to which a signal comes in the middle of a search.

    python tests/support/struck.py SIGNAL WHOM STEP ARGUMENT...

In the step of that number, counted over epochs, `SIGKILL` or `SIGTERM` goes to the process itself (`self`) or to the
one that started it (`parent`), `none` to nobody.  Then the process waits in that step until it is asked to stop or
ends, so that what a test sees does not depend on how fast the machine is.  Workers run this file too, and do likewise.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from robustnas.cli import main
from robustnas.runtime import interrupt
from robustnas.search import loop


def struck_at(number: int, step: Callable[..., Any], name: str, process: int) -> Callable[..., Any]:
    """A search's inner step, and where it is called for the time of that number the signal to a process."""
    done = 0

    def struck(*given: Any) -> Any:
        nonlocal done
        done += 1
        if done == number:
            if name != "none":
                os.kill(process, signal.Signals[name])
            while not interrupt.asked():
                time.sleep(0.005)
        return step(*given)

    return struck


if __name__ in ("__main__", "__mp_main__"):
    process = os.getpid() if sys.argv[2] == "self" else os.getppid()
    loop.inner_step = struck_at(int(sys.argv[3]), loop.inner_step, sys.argv[1], process)

if __name__ == "__main__":
    sys.exit(main(sys.argv[4:]))
