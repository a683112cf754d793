"""The package that a tracker writes with: looked for without an import, so that its absence is told early."""

from __future__ import annotations

from importlib.util import find_spec

from robustnas.errors import InputError


def needed(name: str) -> None:
    """Require that a package is installed, which an extra of its name brings.

    Raises:
        InputError: it is not.
    """
    if find_spec(name) is None:
        raise InputError(
            f"tracker {name} needs the package {name}, which is not installed: pip install 'robustnas[{name}]', or "
            f"trackers without {name}, would do"
        )
