"""What a stage tells about its progress while it works."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Called by a stage as it goes; the runner shows it to a person."""

    def __call__(self, done: int, total: int, unit: str, step: tuple[int, int] | None = None, **figures: float) -> None:
        """`done` of `total` units (`"epoch"`, `"image"`) are done.

        Args:
            step: in the middle of the next unit, how many of its steps are done, and how many it has.
            figures: the latest, by name; those of the last step in the middle of a unit.  A name with a slash
                (`scores/jacobian`) is one of several that a table would have side by side.
        """


def silent(done: int, total: int, unit: str, step: tuple[int, int] | None = None, **figures: float) -> None:
    """Tell nobody."""
