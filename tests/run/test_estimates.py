"""What candidates are worth: the figures are those of their networks, are asked for once, and outlive a stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from attrs import frozen

from robustnas import train
from robustnas.cli import main
from robustnas.contracts import Estimation
from robustnas.errors import DivergedError, PluginError
from robustnas.plan import make
from robustnas.recipe.load import load
from robustnas.run.directory import RunDirectory
from robustnas.run.estimates import FILE, Estimates
from robustnas.run.task import Task
from robustnas.runtime.interrupt import Interrupted
from robustnas.runtime.report import silent
from robustnas.search import single_path
from robustnas.train.capacity import count, multiply_adds
from robustnas.train.settings import Match

RECIPE = """
dataset: {name: digits, train_images: 64}
search_space: {name: nas-bench-201, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.03}
search: {epochs: 1, batch: 32}
train: {epochs: 1, batch: 32, lr: 0.1, cutout: 0, drop_path: 0, auxiliary: 0}
methods:
  METHOD
attacks: []
certify: false
evaluate: {images: 8}
"""
METHODS = {
    "found": "found: {strategy: {name: evolution, candidates: 5, population: 2, tournament: 1}}",
    "shot": "shot: {strategy: {name: one-shot, candidates: 3, epochs: 1, keep: 0.6}, "
    "metric: [{name: adversarial-training, steps: 1}, jacobian]}",
}
GENOTYPE = {"cell": "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"}


def task(folder: Path, name: str = "shot") -> Task:
    (folder / "r.yaml").write_text(RECIPE.replace("METHOD", METHODS[name]))
    plan = make(load(folder / "r.yaml"))
    stage = next(one for one in plan.stages if one.method == name and one.kind == "search")
    return Task(plan, stage, RunDirectory(folder / "run"), torch.device("cpu"), silent)


def asking(todo: Task, **changes: Any) -> Task:
    """The task with a strategy that says beforehand that it asks for all of this."""
    said = Estimation(("clean", "robust", "certified", "metric", "parameters", "multiply_adds"), **changes)

    @frozen
    class Anything:
        estimation: Estimation = said

    strategy: Any = Anything()
    method = attrs.evolve(todo.method, strategy=strategy)
    return attrs.evolve(todo, plan=attrs.evolve(todo.plan, methods={**todo.plan.methods, "shot": method}))


def test_what_a_strategy_does_not_say_beforehand_is_refused(tmp_path: Path):
    estimates = Estimates(task(tmp_path))
    for how in (Estimation(("clean",), "inherited"), Estimation(("robust",), "trained")):
        with pytest.raises(PluginError, match=r"strategy OneShot asks for .* its `estimation` is"):
            estimates(GENOTYPE, how)


def test_a_capacity_out_of_reach_is_no_end_of_a_search(tmp_path: Path):
    todo = asking(task(tmp_path))
    far = attrs.evolve(todo.method, train=attrs.evolve(todo.method.train, match=Match(parameters=3)))
    todo = attrs.evolve(todo, plan=attrs.evolve(todo.plan, methods={**todo.plan.methods, "shot": far}))
    estimates = Estimates(todo)
    assert math.isnan(estimates(GENOTYPE, Estimation(("robust",)))["robust"])
    assert "out of reach" in estimates.candidates[0]["why"]


def test_what_is_new_moves_no_draws_of_whoever_asks(tmp_path: Path):
    estimates = Estimates(asking(task(tmp_path), network="untrained"))
    how = Estimation(("metric",), "untrained")
    torch.manual_seed(0)
    estimates(GENOTYPE, how)
    after = torch.rand(1)
    torch.manual_seed(0)
    estimates(GENOTYPE, how)
    assert torch.equal(torch.rand(1), after), "asked again it draws nothing, so it must not draw the first time"


def test_a_supernet_that_diverges_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def diverge(*given: Any, **named: Any) -> Any:
        raise DivergedError("training diverged: the loss is nan")

    monkeypatch.setattr(single_path, "run", diverge)
    with pytest.raises(DivergedError):
        Estimates(task(tmp_path))(GENOTYPE, Estimation(("robust",), "inherited"))


def test_sizes_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    todo = asking(task(tmp_path))
    monkeypatch.setattr(train, "run", None)
    found = Estimates(todo)(GENOTYPE, Estimation(("parameters", "multiply_adds")))
    space: Any = todo.method.space
    with torch.device("meta"):
        network = space.network(GENOTYPE, (1, 8, 8), 10)
    assert found == {"parameters": count(network), "multiply_adds": multiply_adds(network, (1, 8, 8))}


def test_a_candidate_is_judged_once_and_what_it_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    todo = asking(task(tmp_path))
    estimates = Estimates(todo)
    how = Estimation(("clean", "robust", "certified"), "trained", epochs=1)
    first = estimates(GENOTYPE, how)
    assert 0 <= first["robust"] <= first["clean"] <= 1
    assert first["certified"] <= first["clean"]
    assert not list(todo.folder.path.glob("candidate-*"))
    monkeypatch.setattr(train, "run", None)  # nothing is trained again, here or by whoever goes on
    assert estimates(GENOTYPE, how) == Estimates(todo)(GENOTYPE, how) == first
    assert estimates.seconds > 0
    (kept,) = json.loads((todo.folder.path / FILE).read_text())["candidates"]
    assert kept["genotype"] == GENOTYPE


def test_untrained_and_inherited_networks_are_scored_by_the_method_s_metric(tmp_path: Path):
    untrained = Estimates(asking(task(tmp_path), network="untrained"))(GENOTYPE, Estimation(("metric",), "untrained"))
    estimates = Estimates(asking(task(tmp_path), network="inherited"))
    inherited = estimates(GENOTYPE, Estimation(("metric", "robust"), "inherited"))
    tuned = estimates(GENOTYPE, Estimation(("metric",), "inherited", epochs=1))["metric"]
    assert len({untrained["metric"], inherited["metric"], tuned}) == 3
    assert list(estimates.task.folder.path.glob("supernet-*"))
    estimates.clear()
    assert not list(estimates.task.folder.path.glob("supernet-*"))


def test_the_supernet_never_sees_the_images_that_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    todo, seen = asking(task(tmp_path), network="inherited"), []
    own = single_path.run

    def noted(asked: Any, *others: Any, **named: Any) -> Any:
        seen.append((asked.metrics, len(asked.dataset.split("train").labels)))
        return own(asked, *others, **named)

    monkeypatch.setattr(single_path, "run", noted)
    Estimates(todo)(GENOTYPE, Estimation(("clean",), "inherited", holdout=0.25))
    assert seen == [(todo.method.metrics, 48)]


def test_what_diverges_has_no_figure_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    estimates = Estimates(asking(task(tmp_path)))

    def diverge(*given: Any, **named: Any) -> Any:
        raise DivergedError("training diverged: the loss is nan")

    monkeypatch.setattr(train, "run", diverge)
    how = Estimation(("robust",), epochs=1)
    assert math.isnan(estimates(GENOTYPE, how)["robust"])
    assert math.isnan(estimates(GENOTYPE, how)["robust"]), "asked again"
    assert estimates.candidates[0]["figures"] == {"robust": None}
    assert estimates.candidates[0]["why"] == "training diverged: the loss is nan"


def test_a_metric_that_fails_has_no_figure_and_the_search_goes_on(tmp_path: Path):
    class Failing:
        def score(self, network: Any, images: Any, labels: Any, threat: Any) -> Any:
            raise ZeroDivisionError("a metric of somebody's")

    todo = asking(task(tmp_path), network="untrained")
    method = attrs.evolve(todo.method, metrics=((1.0, Failing()),))
    todo = attrs.evolve(todo, plan=attrs.evolve(todo.plan, methods={**todo.plan.methods, "shot": method}))
    estimates = Estimates(todo)
    found = estimates(GENOTYPE, Estimation(("metric",), "untrained"))
    assert math.isnan(found["metric"])
    assert "a metric of somebody's" in estimates.candidates[0]["why"]


@pytest.mark.parametrize("name", ["found", "shot"])
def test_a_search_that_is_stopped_and_goes_on_finds_what_one_does_that_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    def searched(folder: Path, *stops: int) -> dict[str, Any]:
        folder.mkdir()
        (folder / "r.yaml").write_text(RECIPE.replace("METHOD", METHODS[name]))
        command = ["run", str(folder / "r.yaml"), "--out", str(folder / "run"), "--until", "search", "--quiet"]
        own, calls = Estimates._figures, 0

        def some(self: Estimates, *given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls in stops:
                raise Interrupted
            return own(self, *given)

        monkeypatch.setattr(Estimates, "_figures", some)
        for _ in stops:
            assert main(command) == 130
        assert main(command) == 0
        monkeypatch.setattr(Estimates, "_figures", own)
        (result,) = (folder / "run" / "search").glob("*/result.json")
        assert not [path for path in result.parent.iterdir() if path.is_dir()]
        return json.loads(result.read_text())

    whole, stopped = searched(tmp_path / "whole"), searched(tmp_path / "stopped", 2, 4)
    assert whole["genotype"] == stopped["genotype"]
    assert [one["figures"] for one in whole["candidates"]] == [one["figures"] for one in stopped["candidates"]]
    assert whole["search_seconds"] > 0
