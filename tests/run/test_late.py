"""Results that a file system hides for a while are waited for, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.plan import Plan, Stage
from robustnas.run import late, stage_log
from robustnas.run.directory import RunDirectory
from robustnas.runtime import interrupt
from support.tiny_plan import RECIPE, plan


class Clock:
    """Time that passes when somebody sleeps; at some moments something happens."""

    def __init__(self) -> None:
        self.now, self.then = 0.0, {}

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then.pop(self.now, lambda: None)()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(late, "time", clock)
    return clock


@pytest.fixture
def made(tmp_path: Path) -> tuple[Plan, RunDirectory, Stage, Stage]:
    """A plan, a run directory, and a training with its search."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    found = plan(tmp_path / "r.yaml")
    train = next(stage for stage in found.until(None) if stage.kind == "train")
    return found, RunDirectory(tmp_path / "run"), train, found.by_key[train.needs[0]]


def test_a_result_that_appears_late_is_seen(
    made: tuple[Plan, RunDirectory, Stage, Stage], clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    plan, directory, train, search = made
    listed: list[str] = []
    real = late.os.listdir
    monkeypatch.setattr(late.os, "listdir", lambda path: listed.append(str(path)) or real(path))
    clock.then[59.0] = lambda: directory.folder(search).finish({})
    assert late.absent(plan, directory, train) is None
    assert clock.now == 59.0
    folder = directory.folder(search).path
    assert {str(folder), str(folder.parent)} <= set(listed), "their lists are asked of the server"


def test_one_that_never_appears_is_waited_for_a_minute(made: tuple[Plan, RunDirectory, Stage, Stage], clock: Clock):
    plan, directory, train, search = made
    assert late.absent(plan, directory, train) == search
    assert clock.now == late.CACHED
    assert not late.appears(directory, search, 0.0)
    assert clock.now == late.CACHED


def test_what_failed_is_not_waited_for_nor_what_needs_it(made: tuple[Plan, RunDirectory, Stage, Stage], clock: Clock):
    plan, directory, train, search = made
    stage_log.failed(directory.folder(search), "the loss is not finite")
    assert late.absent(plan, directory, train) == search
    clean = next(stage for stage in plan.until(None) if train.key in stage.needs)
    assert late.absent(plan, directory, clean) is not None
    assert clock.now == 0.0


def test_a_process_that_is_to_stop_waits_no_longer(made: tuple[Plan, RunDirectory, Stage, Stage], clock: Clock):
    plan, directory, train, search = made
    clock.then[3.0] = lambda: interrupt.request("a test")
    try:
        assert late.absent(plan, directory, train) == search
        assert clock.now == 3.0
    finally:
        interrupt.withdraw()
