"""The first images that an attack broke, with what it made of them: kept to be looked at, and for no figure.

`examples.npz` is NumPy's own format: index, label, answer (n,), clean, perturbed (n, C, H, W) float32 in [0, 1]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import numpy as np
from attrs import field, frozen

from robustnas.attack.column import Column
from robustnas.attack.outcomes import Outcomes
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged, forget
from robustnas.runtime.strangers import described

FILE = "examples.npz"

MOST, MOST_VALUES = 8, 1 << 19
"""So many images are kept of an attack, of large ones as many as have so many pixel values together."""


@frozen(eq=False)
class Example:
    """An image that was broken.

    Args:
        index: its place in the test split.
        label: its class.
        answer: the class that the network saw on the perturbed image.
        clean: (C, H, W), float32 in [0, 1].
        perturbed: what the attack made of it, of the same form.
    """

    index: int
    label: int
    answer: int
    clean: np.ndarray[Any, Any]
    perturbed: np.ndarray[Any, Any]


def first(examples: Iterable[Example]) -> list[Example]:
    """Keep the images that come first in the test split, each once."""
    found = {one.index: one for one in examples}
    kept = [found[index] for index in sorted(found)][:MOST]
    return kept[: max(1, MOST_VALUES // kept[0].clean.size)] if kept else []


@attrs.define(eq=False)
class Kept:
    """Keeps what one process sees broken at the attack's own threat, over all sittings of its stage.

    Args:
        folder: the stage's; it holds what earlier sittings kept.
        rank: number of this process.
        column: the attack.
    """

    folder: StageFolder
    rank: int
    column: Column
    found: list[Example] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.found = first(one for path in self._files() for one in load(self.folder, path.name))

    def note(self, outcomes: Outcomes, clean: Any, perturbed: Any) -> None:
        """Note images that were fooled, at any size, as `robustnas.attack.conditions.Watch` is given them."""
        epsilon = self.column.threat.epsilon
        if outcomes.threat.epsilon > epsilon:
            return
        # an attack that minimises is run for the smallest radius, and also breaks images beyond it
        broken = outcomes.success if self.column.is_corruption else outcomes.found <= epsilon
        index, rows = outcomes.index.tolist(), broken.nonzero()[:, 0].tolist()
        if len(self.found) == MOST:
            rows = [row for row in rows if index[row] < self.found[-1].index]
        rows = sorted(rows, key=index.__getitem__)[:MOST]
        new = [
            Example(
                index[row],
                int(outcomes.label[row]),
                int(outcomes.answer[row]),
                clean[row].numpy().copy(),
                perturbed[row].numpy().copy(),
            )
            for row in rows
        ]
        self.found = first([*new, *self.found])

    def write(self) -> None:
        """Write what this process has kept: whatever is kept of the attack's progress comes after it."""
        save(self.found, attrs.evolve(self.folder, writes=True), f"examples-{self.rank}.npz")

    def forget(self) -> None:
        """Remove the files of `write`, which are not needed once those of all processes are in one."""
        forget(self._files())

    def _files(self) -> list[Any]:
        return self.folder.files("examples-*.npz")


def save(examples: list[Example], folder: StageFolder, name: str = FILE) -> None:
    """Write a file of examples into the folder of an attack's stage."""
    arrays: dict[str, Any] = {key: np.array([getattr(one, key) for one in examples], kind) for key, kind in KINDS}
    folder.write(name, lambda file: np.savez_compressed(file, **arrays))


KINDS = (("index", "int64"), ("label", "int64"), ("answer", "int64"), ("clean", "float32"), ("perturbed", "float32"))
"""The arrays of the file, and their types."""


def load(folder: StageFolder, name: str = FILE) -> list[Example]:
    """Read a file of examples.

    Raises:
        RunDirectoryError: the file is not there, not what was written, or does not hold examples.
    """
    with folder.opened(name) as opened:
        try:
            with np.load(opened, allow_pickle=False) as found:
                index, label, answer, clean, perturbed = (found[key].astype(kind) for key, kind in KINDS)
            if clean.shape != perturbed.shape or (len(clean) and clean.ndim != 4):
                raise ValueError(f"images of shape {clean.shape} beside {perturbed.shape}")
            rows = zip(index.tolist(), label.tolist(), answer.tolist(), clean, perturbed, strict=True)
            return [Example(*row) for row in rows]
        except Exception as fault:  # NumPy and zipfile raise many kinds for a damaged file; all mean the same
            raise RunDirectoryError(damaged(folder.path / name, described(fault))) from fault
