"""Foolbox, imported without the two surprises of its import.

It imports GitPython, which refuses to be imported where no git is installed, and a name that SciPy
deprecates.  Everything that needs foolbox imports it through here, when it is used: listing plugins stays
fast.
"""

from __future__ import annotations

import os
import warnings
from typing import Any


def load_foolbox() -> Any:
    """Import and return the module `foolbox`."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Please import .* from the .scipy\.ndimage. namespace", DeprecationWarning)
        import foolbox
    return foolbox
