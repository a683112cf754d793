"""What Ray is asked for, and what is made of its answers, played without a Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import define

from robustnas.contracts import Resources
from robustnas.errors import InputError, RunError
from robustnas.testing.executor import Tried, _work
from robustnas.testing.marking_job import WHY, MarkingJob
from robustnas_plugins.executors import ray as plugin
from robustnas_plugins.executors.ray import Ray


@define(eq=False)
class Task:
    """A task that was handed out."""

    name: str
    do: Callable[..., Any]
    given: tuple[Any, ...]
    outcome: Any = None


class Played:
    """A Ray that does a task when it is asked for its outcome, and can lose one."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self, lost: str = "") -> None:
        self.lost, self.cancelled, self.options = lost, [], []
        self._nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "memory": 4.0 * plugin.GIB}}, {"Alive": False}]

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Resources": {"GPU": 99}, **node} for node in self._nodes]

    def remote(self, do: Callable[..., Any]) -> Any:
        def options(**asked: Any) -> Any:
            self.options.append(asked)

            def later(*given: Any) -> Any:
                return Task(asked["name"], do, given)

            return SimpleNamespace(remote=later)

        return SimpleNamespace(options=options)

    def get(self, reference: Any) -> Any:
        if reference.name == self.lost:
            raise self.exceptions.RayError("the worker died unexpectedly\nand more")
        if reference.outcome is None:
            call, needs, *others = reference.given
            reference.outcome = reference.do(call, needs, *(self.get(other) for other in others))
        return reference.outcome

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:num_returns], references[num_returns:]

    def cancel(self, reference: Any, recursive: bool) -> None:
        self.cancelled.append(reference.name)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.setitem(sys.modules, "ray", Played())
    monkeypatch.setattr(plugin, "find_spec", lambda name: True)
    return sys.modules["ray"]  # type: ignore[return-value]


def handed(place: Path) -> Tried:
    return _work(place, Resources(cpus=2, gpus=1, memory=0.5))


def test_tasks_are_handed_the_outcomes_of_those_that_they_wait_for(played: Played, tmp_path: Path):
    work = handed(tmp_path)
    Ray(retries=3).run(work)
    assert played.options[0] == {
        "name": "m seed 0 search", "num_cpus": 2, "num_gpus": 1, "memory": plugin.GIB // 2, "max_retries": 3
    }  # fmt: skip
    assert work.ends == {
        "search1": WHY,
        "search2": None,
        "train1": "left out: what it needs is not done",
        "train2": None,
        "attack2": None,
    }, "the attack comes after a search that failed, and does not need it"


def test_a_task_that_is_lost_for_good_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", Played(lost="m seed 0 attack"))
    work = handed(tmp_path)
    Ray().run(work)
    assert work.ends["attack2"] == "Ray: the worker died unexpectedly"


def test_a_run_that_is_asked_to_stop_cancels_what_is_left(played: Played, tmp_path: Path):
    work = handed(tmp_path)
    work.stop = True
    Ray().run(work)
    assert played.cancelled == ["m seed 0 search", "m seed 0 train", "m seed 0 train", "m seed 0 attack"]


def test_what_no_node_has_is_refused(played: Played, monkeypatch: pytest.MonkeyPatch):
    Ray().check([Resources(cpus=8, memory=4.0)])
    for asked in (Resources(gpus=1), Resources(cpus=9), Resources(memory=5.0)):
        with pytest.raises(InputError, match="up to 8 CPUs, 0 GPUs and 4 GiB: less in section resources"):
            Ray().check([Resources(), asked])
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'robustnas\[ray\]'"):
        Ray().check([])


def test_what_a_plugin_raises_is_not_swallowed(tmp_path: Path):
    def breaks() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plugin._do(breaks, 0)
    with pytest.raises(RunError):
        MarkingJob(str(tmp_path), "a", fails=True)()
