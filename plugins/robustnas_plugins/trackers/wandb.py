"""Weights & Biases: one of its runs a run directory; offline unless asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field
from attrs.validators import instance_of

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas.options import option
from robustnas_plugins.trackers.numbers import numbers
from robustnas_plugins.trackers.package import needed


@define
class WandB:
    """Curves, settings and the table; `wandb sync RUN/trackers/wandb/wandb/offline-*` sends what is offline."""

    project: str = option("robustnas", "project that the run is in")
    online: bool = option(False, "send it while the run goes on, which needs `wandb login`", instance_of(bool))
    _run: Any = field(default=None, init=False)

    def check(self) -> None:
        needed("wandb")

    def start(self, run: TrackedRun) -> None:
        import wandb

        # a run that goes on has the same
        known = hashlib.sha256(str(run.directory.resolve()).encode()).hexdigest()[:12]
        self._run = wandb.init(
            project=self.project,
            name=run.name,
            id=known,
            resume="allow",
            mode="online" if self.online else "offline",
            dir=str(run.folder),
            config=dict(run.settings),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def begin(self, stage: TrackedStage) -> None:
        self._run.config.update({stage.title: stage.settings}, allow_val_change=True)

    def log(self, stage: TrackedStage, unit: str, at: int, figures: Mapping[str, float]) -> None:
        where = f"{stage.title}/{unit}"
        self._run.define_metric(f"{where}/*", step_metric=f"{where}/at")
        self._run.log({f"{where}/at": at} | {f"{where}/{name}": value for name, value in figures.items()})

    def finish(self, stage: TrackedStage, result: Mapping[str, Any] | None) -> None:
        self._run.summary.update({f"{stage.title}/{name}": one for name, one in numbers(result or {}).items()})

    def end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._run.summary.update({f"table/{row['method']}/{name}": one for name, one in numbers(row).items()})
        self._run.finish()
