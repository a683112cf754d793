"""What is asked for: which network of a run, which images, which threat, which syntax."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

VERSIONS = {"1": ("1.0",), "2": ("2.0",), "both": ("1.0", "2.0")}
"""Versions of VNN-LIB, by what is asked for."""
IMAGES = 20
TIMEOUT = 300


@frozen
class Request:
    """One export.

    Args:
        run: the run directory.
        method: a method of its recipe.
        seed: one of its seeds, `"0.2"` for search seed 0 and training seed 2; None: the first.
        images: the first of those evaluated; None: IMAGES, or all where there are fewer.
        norm: None: the recipe's.
        epsilon: pixel units; None: the recipe's.
        vnnlib: a key of VERSIONS.
        enclosing_box: for another norm than l_inf, write the box around the ball.
        timeout: seconds a verifier is given for an image, as `instances.csv` says it; None: TIMEOUT.
        output: the folder to write; None: in the run directory.
    """

    run: Path
    method: str
    seed: int | str | None = None
    images: int | None = None
    norm: str | None = None
    epsilon: float | None = None
    vnnlib: str = "both"
    enclosing_box: bool = False
    timeout: int | None = None
    output: Path | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of VNN-LIB that are written; the first is the one that `instances.csv` lists."""
        return VERSIONS[self.vnnlib]
