"""The examples of an attack, put together from what all processes saw and what was taken over from another stage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from robustnas.attack import examples
from robustnas.attack.examples import Example
from robustnas.run.evaluation import _examples
from robustnas.run.taken_over import TakenOver
from robustnas.runtime.artifacts import StageFolder


def made(*index: int) -> list[Example]:
    pixels = np.zeros((1, 2, 2), np.float32)
    return [Example(place, 0, 1, pixels, pixels) for place in index]


def test_processes_and_stages_that_were_taken_over_give_the_first_of_all(tmp_path: Path):
    folder = StageFolder(tmp_path / "attack" / "net-seed0-0123456789ab")
    examples.save(made(1, 4, 9), folder)
    task = SimpleNamespace(processes=SimpleNamespace(gather=lambda own: [own, made(3, 8)]))
    indices = torch.tensor([1, 3, 4, 5, 8])
    fresh = TakenOver(torch.full_like(indices, -1))
    assert [one.index for one in _examples(task, fresh, indices, made(5))] == [3, 5, 8]
    kept = TakenOver(torch.tensor([0, -1, 1, -1, -1]), folder)  # image 9 is not evaluated any more
    assert [one.index for one in _examples(task, kept, indices, made(5))] == [1, 3, 4, 5, 8]
