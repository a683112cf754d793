"""Stages side by side, played by workers without processes."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import pytest
import torch

from robustnas.plan import Seed, Stage
from robustnas.run import scheduler, workers
from robustnas.run.agenda import Agenda
from robustnas.run.claims import Claims
from robustnas.run.progress import Progress
from robustnas.runtime import interrupt


class Played(workers.Worker):
    """A worker that is never done, and stops when it is asked to."""

    def __init__(self) -> None:
        ours, self.theirs = multiprocessing.Pipe()
        super().__init__(None, ours, ours)

    def give(self, stage: Stage) -> None:
        self.stage = stage
        self.theirs.send(("report", 1, 3, "epoch", (2, 5), {"loss": 1.0}))

    def interrupt(self) -> None:
        self.theirs.send(("interrupted",))

    def stop(self) -> None:
        assert self.stage is None


def test_workers_are_asked_to_stop_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pool: list[Played] = []
    monkeypatch.setattr(workers, "start", lambda *given: pool.append(Played()) or pool[-1])
    progress = Progress(quiet=True)
    agenda = Agenda([Stage("clean", key, key, Seed(0)) for key in "abc"], progress)
    nothing: Any = None
    with interrupt.limited(time.monotonic() + 0.05), pytest.raises(interrupt.Interrupted):
        scheduler._side_by_side(
            nothing, Claims(agenda, nothing, progress), nothing, [torch.device("cpu")] * 2, progress
        )
    assert len(pool) == 2
    assert progress._working["a"].place == "epoch 2/3 step 2/5"
    assert agenda.take() is None, "no other stage begins"
    assert not interrupt.asked()
