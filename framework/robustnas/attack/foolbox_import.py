"""Imports foolbox where a plain import would fail or warn.

Foolbox imports GitPython, which refuses to be imported where no git is installed, and a name that SciPy deprecates.
Every use of foolbox imports it through here, and only when it is needed, so that listing plugins stays fast.
"""

from __future__ import annotations

import os
import warnings
from typing import Any


def load_foolbox() -> Any:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Please import .* from the .scipy\.ndimage. namespace", DeprecationWarning)
        import foolbox
    return foolbox
