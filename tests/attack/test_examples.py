"""The images that are kept of an attack: the first it broke, whoever saw it and in however many sittings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustnas.attack import examples
from robustnas.attack.column import Column
from robustnas.attack.examples import MOST, Example, Kept
from robustnas.attack.outcomes import Outcomes
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import ThreatModel

COLUMN = Column("pgd", ThreatModel("linf", 0.1))


def outcomes(index: list[int], sizes: list[float], epsilon: float = 0.1) -> Outcomes:
    """Images of class 0 that were fooled by perturbations of these sizes, and taken for class 1."""
    found = torch.tensor(sizes, dtype=torch.float64)
    zero = torch.zeros(len(index), dtype=torch.int64)
    return Outcomes(
        ThreatModel("linf", epsilon),
        index=torch.tensor(index),
        label=zero,
        clean=zero,
        success=found <= epsilon,
        size_linf=found,
        answer=zero + 1,
    )


def noted(kept: Kept, index: list[int], sizes: list[float], epsilon: float = 0.1) -> None:
    """Note images whose pixels are a thousandth of their place."""
    clean = torch.tensor(index).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2) / 1000
    kept.note(outcomes(index, sizes, epsilon), clean, clean + torch.tensor(sizes).float().view(-1, 1, 1, 1))


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    return StageFolder(tmp_path / "attack" / "net-seed0-0123456789ab")


def test_the_first_in_the_test_split_are_kept_whatever_the_order(folder):
    kept = Kept(folder, 0, COLUMN)
    for some in ([40, 41], list(range(20, 30)), [3, 50], [21, 4]):
        noted(kept, some, [0.05] * len(some))
    assert [one.index for one in kept.found] == [3, 4, *range(20, 26)]
    assert len(kept.found) == MOST
    assert {(one.label, one.answer) for one in kept.found} == {(0, 1)}
    assert kept.found[0].clean == pytest.approx(np.full((1, 2, 2), 0.003))
    assert kept.found[0].perturbed == pytest.approx(np.full((1, 2, 2), 0.053))


def test_what_is_beyond_the_threat_is_not_kept(folder):
    kept = Kept(folder, 0, COLUMN)
    noted(kept, [1, 2, 3], [0.05, 0.2, float("inf")])
    noted(kept, [4], [0.05], epsilon=0.2)  # it stood at the attack's own threat
    noted(kept, [5], [0.02], epsilon=0.02)
    assert [one.index for one in kept.found] == [1, 5]


def test_a_sitting_goes_on_with_what_was_kept_before(folder):
    for rank, some in ((0, [7, 9]), (1, [6, 8])):
        kept = Kept(folder, rank, COLUMN)
        noted(kept, some, [0.05] * 2)
        kept.write()
    again = Kept(folder, 0, COLUMN)
    assert [one.index for one in again.found] == [6, 7, 8, 9]
    again.forget()
    assert Kept(folder, 0, COLUMN).found == []


def test_of_large_images_fewer_are_kept():
    large = np.zeros((3, 224, 224), np.float32)
    found = examples.first(Example(place, 0, 1, large, large) for place in range(8))
    assert [one.index for one in found] == [0, 1, 2]


def test_a_file_is_read_as_it_was_written_or_refused(folder):
    kept = Kept(folder, 0, COLUMN)
    examples.save([], folder)
    assert examples.load(folder) == []
    noted(kept, [2, 1], [0.05, 0.06])
    examples.save(kept.found, folder)
    (first, second) = examples.load(folder)
    assert (first.index, second.index) == (1, 2)
    assert (second.perturbed == kept.found[1].perturbed).all()
    folder.write(examples.FILE, lambda file: np.savez(file, index=np.arange(2)))
    with pytest.raises(RunDirectoryError, match=r"examples\.npz is damaged"):
        examples.load(folder)
    folder.write(
        examples.FILE, lambda file: np.savez(file, **{key: np.zeros((2,), kind) for key, kind in examples.KINDS})
    )
    with pytest.raises(RunDirectoryError, match=r"images of shape \(2,\)"):
        examples.load(folder)
