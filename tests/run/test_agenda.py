"""Which stage begins when, whichever ends first, and what becomes of those that need one that failed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from robustnas.errors import DiskFullError, RunError
from robustnas.plan import Seed, Stage
from robustnas.run.agenda import Agenda
from robustnas.run.progress import Progress


def stage(key: str, *needs: str, after: tuple[str, ...] = ()) -> Stage:
    return Stage("clean", key, key, Seed(0), needs, after)


def agenda(*stages: Stage) -> tuple[Agenda, io.StringIO]:
    text = io.StringIO()
    return Agenda(stages, Progress(console=Console(file=text, width=200))), text


def taken(agenda: Agenda) -> list[str]:
    stages = list(iter(agenda.take, None))
    for one in stages:
        agenda._progress.started(one)
    return [one.key for one in stages]


def test_a_stage_begins_when_all_it_waits_for_have_ended_and_the_first_of_the_flow_first() -> None:
    first, second = stage("a"), stage("b")
    found, _ = agenda(first, second, stage("c", "a", "b", "before"), stage("d", after=("b",)), stage("e", "a"))
    assert taken(found) == ["a", "b"], "what is not in the list was done before"
    found.finished(second)
    assert taken(found) == ["d"]
    found.finished(first)
    assert taken(found) == ["c", "e"]


def test_what_needs_a_stage_that_failed_is_left_out_and_what_comes_after_it_is_not() -> None:
    first = stage("a")
    stages = first, stage("b", "a"), stage("c", "b"), stage("d", after=("a", "b")), stage("e")
    found, text = agenda(*stages)
    assert taken(found) == ["a", "e"]
    found.failed(first, RunError("the loss is not finite"))
    assert taken(found) == ["d"]
    assert [(stage.key, str(why)) for stage, why in found.failures] == [("a", "the loss is not finite")]
    lines = text.getvalue().splitlines()
    assert "failed: a seed 0 clean: the loss is not finite" in lines
    assert [line.split()[2] for line in lines if line.startswith("left out")] == ["b", "c"]


def test_what_would_stop_every_stage_is_raised_and_a_cleared_list_begins_nothing() -> None:
    first = stage("a")
    found, _ = agenda(first, stage("b"), stage("c", "a"))
    fault: Any = DiskFullError("no space left")
    assert taken(found) == ["a", "b"]
    with pytest.raises(DiskFullError):
        found.failed(first, fault)
    found.clear()
    found.finished(first)
    assert found.take() is None
