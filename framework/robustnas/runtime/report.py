"""What a stage tells about its progress while it works."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Called by a stage as it goes; the runner shows it to a person."""

    def __call__(self, done: int, total: int, unit: str, **figures: float) -> None:
        """`done` of `total` units (`"epoch"`, `"image"`) are done; `figures` are the latest, by name."""


def silent(done: int, total: int, unit: str, **figures: float) -> None:
    """Tell nobody."""
