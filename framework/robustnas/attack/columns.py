"""The records of a stage as one file of columns, so that a later table or figure is a query and not a rerun.

    columns.npz     NumPy's own format: `numpy.load(file)` reads it, without robustnas

N images, R rows (a radius, or a variant, each), P parts; one column a name:

    index, label, clean                        (N,)    place in the test split, class, prediction on the clean image
    norm, parts, access                        (), (P,), (P,)
    epsilon, variant                           (R,)    radius in pixel units; which corruption or which source network
    tried, success, prediction, by, distance   (R, N)  as in `AttackRecord`
    size_linf, size_l2, size_l1                (R, N)  smallest perturbation that fooled, in each norm; inf for none
    evaluations                                (R,)    model evaluations
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from numpy.typing import NDArray
from torch import Tensor

from robustnas.attack.record import AttackRecord
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.strangers import described
from robustnas.threat import NORMS

FILE = "columns.npz"
NAMES = (
    "index", "label", "clean", "norm", "parts", "access", "epsilon", "variant", "tried", "success", "prediction", "by",
    "distance", *(f"size_{norm}" for norm in NORMS), "evaluations",
)  # fmt: skip


@frozen(eq=False)
class Columns:
    """The columns of one stage's attack; arrays as the module says."""

    arrays: dict[str, NDArray[Any]]

    @property
    def norm(self) -> str:
        """Of the attack's threat."""
        return str(self.arrays["norm"])

    @property
    def variants(self) -> list[str]:
        """(R) names, empty for the only one."""
        return [str(name) for name in self.arrays["variant"]]

    def tensor(self, name: str) -> Tensor:
        """A column of numbers."""
        return torch.from_numpy(self.arrays[name])

    def size(self, norm: str) -> Tensor:
        """(N,) float64, the smallest perturbation that fooled in any row, in `norm`; infinite for none."""
        return self.tensor(f"size_{norm}").amin(dim=0)


def of_records(records: Sequence[AttackRecord], indices: Tensor) -> Columns:
    """The columns of one attack's records, which are of the same images.

    Args:
        records: one a radius or a variant.
        indices: (N,) int64, the images' places in the test split.
    """
    first = records[0]

    def stacked(pick: str, dtype: type) -> NDArray[Any]:
        return torch.stack([getattr(record, pick) for record in records]).numpy().astype(dtype)

    sizes = {f"size_{norm}": torch.stack([record.sizes[norm] for record in records]).numpy() for norm in NORMS}
    return Columns(
        {
            "index": indices.numpy().astype(np.int64),
            "label": first.labels.numpy().astype(np.int32),
            "clean": first.clean.numpy().astype(np.int32),
            "norm": np.array(first.threat.norm),
            "parts": np.array(first.parts),
            "access": np.array(first.access),
            "epsilon": np.array([record.threat.epsilon for record in records]),
            "variant": np.array([record.variant for record in records]),
            "tried": stacked("tried", np.int32),
            "success": stacked("success", np.bool_),
            "prediction": stacked("perturbed", np.int32),
            "by": stacked("by", np.int32),
            "distance": stacked("distance", np.float32),
            **sizes,
            "evaluations": np.array([record.evaluations for record in records], dtype=np.int64),
        }
    )


def write(columns: Columns, folder: StageFolder) -> None:
    """Write the file into a stage's folder."""
    folder.write(FILE, lambda file: np.savez_compressed(file, **columns.arrays))  # type: ignore[arg-type]


def read(path: Path) -> Columns:
    """Read a stage's file.

    Args:
        path: of the stage's folder.

    Raises:
        RunDirectoryError: it is not there, not what was written, damaged, or lacks a column.
    """
    with StageFolder(path).opened(FILE) as opened:
        try:
            with np.load(opened, allow_pickle=False) as found:
                return Columns({name: found[name] for name in NAMES})
        except Exception as fault:  # NumPy and zipfile raise many kinds for a damaged file; all mean the same
            raise RunDirectoryError(damaged(path / FILE, described(fault))) from fault
