"""A text that somebody gave, in quotes and short enough for a message."""

from __future__ import annotations

LONGEST = 60
"""Characters."""


def quoted(given: object) -> str:
    """A text in quotes, what does not print escaped, and its end left out where it is long; another value as it is."""
    if not isinstance(given, str):
        return repr(given)
    return repr(given if len(given) <= LONGEST else f"{given[: LONGEST - 3]}...")
