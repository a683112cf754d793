"""What an attack did, image by image: the only record of an attack, in memory and on the disk.

    columns.npz     NumPy's own format: `numpy.load(file)` reads it, without robustnas

There are N images, P parts of the attack, and R rows, one for each radius or variant.  In memory a row is an
`Outcomes`; in the file are:

    figures of `Outcomes` that are stored    (N,) for what all rows share, else (R, N)
    norm, parts, access                      (), (P,), (P,)
    epsilon, variant, evaluations            (R,)

To add a figure, add a field to `Outcomes` and measure it: the file and the command `records` are made from the fields.
Nothing here imports torch before an attack is run, so that a table of finished results appears at once: figures are
tensors on the CPU where they were measured, and arrays where they were read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np
from attrs import Factory, field, frozen

from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.strangers import described
from robustnas.threat import NORMS, ThreatModel

FILE = "columns.npz"

Array = Any
"""A tensor on the CPU, or an array of NumPy."""


@frozen
class Figure:
    """How a figure is kept.

    Args:
        dtype: its type in memory.
        stored: its type in the file; None for a figure that is needed only while the attack is run.
        shared: whether the figure is the same in all rows.
        recent: whether files of older versions lack it; reading one of these gives the value for "nothing measured".
    """

    dtype: str
    stored: str | None = None
    shared: bool = False
    recent: bool = False


def _figure(dtype: str, stored: str | None = None, *, nothing: float | str | None = None, **kept: bool) -> Any:
    """Make a field with one value an image.

    Args:
        nothing: the value where nothing was measured, or the name of the figure whose value it then has.
    """

    def unmeasured(outcomes: Outcomes) -> Array:
        if isinstance(nothing, str):
            return getattr(outcomes, nothing)
        assert nothing is not None
        if isinstance(outcomes.index, np.ndarray):
            return np.full(len(outcomes.index), nothing, dtype)
        import torch

        return torch.full((len(outcomes.index),), nothing, dtype=getattr(torch, dtype))

    return field(
        default=attrs.NOTHING if nothing is None else Factory(unmeasured, takes_self=True),
        kw_only=True,
        metadata={"figure": Figure(dtype, stored, **kept)},
    )


@frozen(eq=False)
class Outcomes:
    """What one attack, or one part of it, did to each of N images at one radius or in one variant.

    `success` is `(clean == label) & (prediction != label)`, always.

    Args:
        threat: norm and epsilon that the attack was allowed.
        index: places of the images in the data set.
        label: true classes.
        clean: the network's predictions on the clean images.
        tried: how many of the attack's parts the image was given to; 0 where it was not attacked, being wrong when
            clean or fooled already.
        success: right when clean and wrong on the admissible image that the attack ended with.
        prediction: the class the network saw on that admissible image; that of the clean image where there is none.
        by: the place in `parts` of the part that fooled the image; -1 for none.
        distance: size of that admissible perturbation in the threat's norm, pixel units; 0 for none.
        size_linf: size of the smallest perturbation that fooled the network, inside the ball or not (attacks that
            minimise it go beyond); infinite where the attack found none.  A perturbation that was admissible to
            rounding counts as at most epsilon in the threat's norm.
        size_l2: as `size_linf`, in l_2.
        size_l1: as `size_linf`, in l_1.
        answer: the class the network saw on the image that `found` measures; the label where there is none.
        finder: the place in `parts` of the part that found that image; -1 for none.
        admissible: whether the image that a part proposed is in ball and box.
        cost: model evaluations that a part spent on the image: those of a batch in equal shares.
        parts: names of what the attack is made of, in the order in which they were tried.
        access: what each part knows of the network, of `robustnas.contracts.ACCESS`.
        variant: which of several columns of one attack this is (a corruption and its severity, the network that
            transferred images were made on); empty for the only one.
        evaluations: images that the attack put through the network, counted with repetition.
        left_out: names of parts that follow gradients and were not run, because the network has none.
    """

    threat: ThreatModel
    index: Array = _figure("int64", "int64", shared=True)
    label: Array = _figure("int64", "int32", shared=True)
    clean: Array = _figure("int64", "int32", shared=True)
    tried: Array = _figure("int64", "int32", nothing=0)
    success: Array = _figure("bool", "bool", nothing=0)
    prediction: Array = _figure("int64", "int32", nothing="clean")
    by: Array = _figure("int64", "int32", nothing=-1)
    distance: Array = _figure("float32", "float32", nothing=0.0)
    size_linf: Array = _figure("float64", "float64", nothing=np.inf)
    size_l2: Array = _figure("float64", "float64", nothing=np.inf)
    size_l1: Array = _figure("float64", "float64", nothing=np.inf)
    answer: Array = _figure("int64", nothing="label")
    finder: Array = _figure("int64", nothing="by")
    admissible: Array = _figure("bool", nothing=0)
    cost: Array = _figure("float64", nothing=0.0)
    parts: tuple[str, ...] = field(default=("",), kw_only=True)
    access: tuple[str, ...] = field(default=("white-box",), kw_only=True)
    variant: str = field(default="", kw_only=True)
    evaluations: int = field(default=0, kw_only=True)
    left_out: tuple[str, ...] = field(default=(), kw_only=True)

    def __attrs_post_init__(self) -> None:
        for name, figure in FIGURES.items():
            array = getattr(self, name)
            found, kind = tuple(array.shape), str(array.dtype).removeprefix("torch.")
            if found != (len(self.index),) or kind != figure.dtype:
                raise ValueError(f"{name} is {figure.dtype} of shape ({len(self.index)},), found {kind} of {found}")

    @property
    def correct(self) -> Array:
        """(N,) bool, whether the network is right on the clean image."""
        return self.clean == self.label

    @property
    def sizes(self) -> dict[str, Array]:
        """The size of the smallest perturbation that fooled, by norm (N,) float64; infinite for none."""
        return {norm: getattr(self, f"size_{norm}") for norm in NORMS}

    @property
    def found(self) -> Array:
        """The `sizes` in the threat's norm."""
        return self.sizes[self.threat.norm]

    def at(self, epsilon: float) -> Self:
        """Judge the same perturbations at another radius of the same norm.

        The result is complete for an attack that minimises, which run once serves every radius.  For any other attack
        it is what the perturbations prove at a larger radius, where running the attack again may find more.
        """
        import torch

        success = self.correct & (self.found <= epsilon)
        return attrs.evolve(
            self,
            threat=ThreatModel(self.threat.norm, epsilon),
            prediction=torch.where(success, self.answer, self.clean),
            success=success,
            by=torch.where(success, self.finder, -1),
            distance=torch.where(success, self.found, 0.0).float(),
        )

    def add(self, other: Outcomes, place: int) -> Self:
        """Add the outcomes of the part at `place` on some of these images, which stood before it."""
        import torch

        order = self.index.argsort()
        at = order[torch.searchsorted(self.index[order], other.index)]
        nearer = other.found < self.found[at]
        changed = {
            "success": self.success[at] | other.success,
            "prediction": torch.where(other.admissible, other.prediction, self.prediction[at]),
            "by": torch.where(other.success, place, self.by[at]),
            "distance": torch.where(other.admissible, other.distance, self.distance[at]),
            "answer": torch.where(nearer, other.answer, self.answer[at]),
            "finder": torch.where(nearer, place, self.finder[at]),
        }
        changed |= {f"size_{norm}": torch.minimum(self.sizes[norm][at], size) for norm, size in other.sizes.items()}
        return attrs.evolve(
            self,
            evaluations=self.evaluations + round(float(other.cost.sum())),
            **{name: getattr(self, name).index_put((at,), value) for name, value in changed.items()},
        )

    def joined(self, other: Outcomes) -> Self:
        """Append the images of `other` that are not among these."""
        import torch

        new = ~torch.isin(other.index, self.index)
        return self._each(lambda name, mine: torch.cat([mine, getattr(other, name)[new]]))

    def chosen(self, rows: Array) -> Self:
        """Select the images where `rows` (N,) bool is true."""
        return self._each(lambda _, mine: mine[rows])

    def of_part(self, place: int) -> Self:
        """Restrict the outcomes to one part: to the images that the parts before it left, and to what it fooled."""
        return attrs.evolve(
            self,
            parts=(self.parts[place],),
            access=(self.access[place],),
            tried=self.tried.clip(place, place + 1) - place,
            success=self.by == place,
        )

    def _each(self, change: Callable[[str, Array], Array]) -> Self:
        """Apply `change` to each figure, which it is given with its name."""
        return attrs.evolve(self, **{name: change(name, getattr(self, name)) for name in FIGURES})


FIGURES: dict[str, Figure] = {
    one.name: one.metadata["figure"] for one in attrs.fields(Outcomes) if "figure" in one.metadata
}
"""All figures of an image, by name."""

STORED = tuple(name for name, figure in FIGURES.items() if figure.stored)
"""The figures that are in the file, and in the lines of `records`."""


def robust(correct: Array, successes: Sequence[Array]) -> Array:
    """Take the worst case, image by image: (N,) bool, right when clean and fooled by none of the attacks.

    Args:
        correct: (N,) bool, right when clean.
        successes: (N,) bool for each attack, on the same images and under the same threat.
    """
    standing = correct
    for success in successes:
        if success.shape != correct.shape:
            raise ValueError(f"an attack on {len(success)} images beside {len(correct)}: not the same images")
        standing = standing & ~success
    return standing


def save(rows: Sequence[Outcomes], folder: StageFolder) -> None:
    """Write the file of an attack, whose rows are of the same images, into the folder of its stage."""
    arrays: dict[str, Any] = {
        "norm": np.array(rows[0].threat.norm),
        "parts": np.array(rows[0].parts),
        "access": np.array(rows[0].access),
        "epsilon": np.array([row.threat.epsilon for row in rows]),
        "variant": np.array([row.variant for row in rows]),
        "evaluations": np.array([row.evaluations for row in rows], dtype=np.int64),
    }
    for name in STORED:
        several = [np.asarray(getattr(row, name)) for row in rows]
        arrays[name] = (several[0] if FIGURES[name].shared else np.stack(several)).astype(FIGURES[name].stored)
    folder.write(FILE, lambda file: np.savez_compressed(file, **arrays))


def load(path: Path) -> list[Outcomes]:
    """Read the rows of an attack.

    Raises:
        RunDirectoryError: the file is not there, not what was written, damaged, or lacks a column.
    """
    with StageFolder(path).opened(FILE) as opened:
        try:
            with np.load(opened, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            return [_row(arrays, row) for row in range(len(arrays["epsilon"]))]
        except Exception as fault:  # NumPy and zipfile raise many kinds for a damaged file; all mean the same
            raise RunDirectoryError(damaged(path / FILE, described(fault))) from fault


def _row(arrays: dict[str, Any], row: int) -> Outcomes:
    """Make the `Outcomes` of one row of a file."""
    figures = {
        name: (arrays[name] if FIGURES[name].shared else arrays[name][row]).astype(FIGURES[name].dtype)
        for name in STORED
        if name in arrays or not FIGURES[name].recent
    }
    return Outcomes(
        ThreatModel(str(arrays["norm"]), float(arrays["epsilon"][row])),
        parts=tuple(map(str, arrays["parts"])),
        access=tuple(map(str, arrays["access"])),
        variant=str(arrays["variant"][row]),
        evaluations=int(arrays["evaluations"][row]),
        **figures,
    )
