"""MLflow: one of its runs a run directory, in a database there or on a server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas.options import option
from robustnas_plugins.trackers.numbers import numbers
from robustnas_plugins.trackers.package import needed

TAG = "robustnas.directory"
"""By this tag a run that goes on is found again."""


@define
class MLflow:
    """Curves, settings and the table, for `mlflow ui --backend-store-uri sqlite:///RUN/trackers/mlflow/mlflow.db`."""

    uri: str | None = option(None, "tracking server or database (default: a file in the run directory, offline)")
    experiment: str = option("robustnas", "name of the experiment that the run is in")
    _client: Any = field(default=None, init=False)
    _id: str = field(default="", init=False)

    def check(self) -> None:
        needed("mlflow")

    def start(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        self._client = client = MlflowClient(self.uri or f"sqlite:///{run.folder.resolve()}/mlflow.db")
        place = None if self.uri else (run.folder.resolve() / "artifacts").as_uri()
        known = client.get_experiment_by_name(self.experiment)
        within = known.experiment_id if known else client.create_experiment(self.experiment, place)
        here = str(run.directory.resolve())
        found = client.search_runs([within], f"tags.`{TAG}` = '{here}'")
        made = found[0] if found else client.create_run(within, tags={TAG: here}, run_name=run.name)
        self._id = made.info.run_id
        client.update_run(self._id, "RUNNING")
        client.log_dict(self._id, run.settings, "recipe.json")

    def begin(self, stage: TrackedStage) -> None:
        self._client.log_dict(self._id, stage.settings, f"{stage.place}/settings.json")

    def log(self, stage: TrackedStage, unit: str, at: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._client.log_metric(self._id, _key(f"{stage.title}/{unit}/{name}"), value, step=at)

    def finish(self, stage: TrackedStage, result: Mapping[str, Any] | None) -> None:
        self.log(stage, "result", 0, numbers(result or {}))

    def end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for name, value in numbers(row).items():
                self._client.log_metric(self._id, _key(f"table/{row['method']}/{name}"), value)
        self._client.set_terminated(self._id)


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", name)
