"""The shipped trackers write what they are told: TensorBoard for real where it is installed, others to stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas.errors import InputError
from robustnas.testing import check_tracker
from robustnas_plugins.trackers.mlflow import MLflow
from robustnas_plugins.trackers.numbers import numbers
from robustnas_plugins.trackers.package import needed
from robustnas_plugins.trackers.tensorboard import TensorBoard
from robustnas_plugins.trackers.wandb import WandB

STAGE = TrackedStage("m seed 0 search", "search/m-seed0-1a", "search", "m", "0", {"search": {"epochs": 2}})
ROWS = [
    {"method": "m", "clean": {"mean": 0.5, "values": [0.5]}, "attacks": {"pgd-20 (l2)": {"mean": 0.25}}, "flags": []}
]


def told(tracker: Any, folder: Path) -> None:
    """Tell of a small run."""
    tracker.start(TrackedRun("r", folder, folder, {"dataset": {"name": "digits"}}))
    tracker.begin(STAGE)
    tracker.log(STAGE, "step", 7, {"loss": 3.0})
    tracker.log(STAGE, "epoch", 1, {"loss": 2.0, "scores/jacobian": -1.0})
    tracker.finish(STAGE, {"search_seconds": 1.5, "genotype": {"normal": []}})
    tracker.end(ROWS)


def test_numbers_are_flat_and_figures_are_their_means() -> None:
    assert numbers({"a": 1, "b": {"c": 2.5, "d": {"mean": 3.0, "values": [3.0]}}, "e": [1], "f": "x", "g": None,
                    "h": {"mean": None}, "i": True}) == {"a": 1.0, "b/c": 2.5, "b/d": 3.0}  # fmt: skip


def test_a_package_that_is_missing_is_told_with_its_extra() -> None:
    needed("attrs")
    with pytest.raises(InputError, match=r"pip install 'robustnas\[no_such_package\]', or trackers without"):
        needed("no_such_package")


def test_tensorboard_has_a_file_a_stage_with_its_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="robustnas[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(place: str) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(tmp_path / place)).Reload()
        return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    told(TensorBoard(), tmp_path)
    assert scalars("search/m-seed0-1a") == {
        "step/loss": [(7, 3.0)], "epoch/loss": [(1, 2.0)], "epoch/scores/jacobian": [(1, -1.0)],
        "result/search_seconds": [(0, 1.5)],
    }  # fmt: skip
    assert scalars("run") == {"m/clean": [(0, 0.5)], "m/attacks/pgd-20 (l2)": [(0, 0.25)]}


class Client:
    """What `mlflow.MlflowClient` is asked for, kept over objects as a server would."""

    runs: dict[str, str]
    metrics: list[tuple[str, float, int]]

    def __init__(self, uri: str):
        assert uri.startswith("sqlite:////")

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1") if self.runs else None

    def create_experiment(self, name: str, place: str) -> str:
        assert place.startswith("file:///")
        return "1"

    def search_runs(self, within: list[str], wanted: str) -> list[Any]:
        found = [known for known in self.runs if f"'{known}'" in wanted]
        return [SimpleNamespace(info=SimpleNamespace(run_id=self.runs[known])) for known in found]

    def create_run(self, within: str, tags: dict[str, str], run_name: str) -> Any:
        (place,) = tags.values()
        self.runs[place] = f"id{len(self.runs)}"
        return SimpleNamespace(info=SimpleNamespace(run_id=self.runs[place]))

    def log_metric(self, run: str, key: str, value: float, step: int = 0) -> None:
        assert run in self.runs.values()
        assert not set(key) & set("[]()#,")
        self.metrics.append((key, value, step))

    def update_run(self, *given: Any) -> None: ...
    def log_dict(self, *given: Any) -> None: ...
    def set_terminated(self, *given: Any) -> None: ...


def test_mlflow_has_one_run_a_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("mlflow")
    module.MlflowClient = type("Fresh", (Client,), {"runs": {}, "metrics": []})
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setattr(MLflow, "check", lambda self: None)
    check_tracker(MLflow)
    assert len(module.MlflowClient.runs) == 1, "it went on"
    module.MlflowClient.metrics.clear()
    told(MLflow(), tmp_path)
    assert module.MlflowClient.metrics == [
        ("m seed 0 search/step/loss", 3.0, 7), ("m seed 0 search/epoch/loss", 2.0, 1),
        ("m seed 0 search/epoch/scores/jacobian", -1.0, 1), ("m seed 0 search/result/search_seconds", 1.5, 0),
        ("table/m/clean", 0.5, 0), ("table/m/attacks/pgd-20 _l2_", 0.25, 0),
    ]  # fmt: skip


def test_wandb_is_offline_and_goes_on_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("wandb")
    begun: list[dict[str, Any]] = []
    logged: list[dict[str, float]] = []
    summary: dict[str, float] = {}

    def init(**given: Any) -> Any:
        begun.append(given)
        config = SimpleNamespace(update=lambda *given, **keys: None)
        return SimpleNamespace(
            config=config, define_metric=lambda *given, **keys: None, log=logged.append, summary=summary,
            finish=lambda: None,
        )  # fmt: skip

    module.init, module.Settings = init, lambda **given: given
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(WandB, "check", lambda self: None)
    check_tracker(WandB)
    assert {one["mode"] for one in begun} == {"offline"}
    assert len({one["id"] for one in begun}) == 1
    logged.clear()
    summary.clear()
    told(WandB(online=True), tmp_path)
    assert begun[-1]["mode"] == "online"
    assert logged[0] == {"m seed 0 search/step/at": 7, "m seed 0 search/step/loss": 3.0}
    assert summary == {"m seed 0 search/search_seconds": 1.5, "table/m/clean": 0.5, "table/m/attacks/pgd-20 (l2)": 0.25}
