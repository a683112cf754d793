"""TensorBoard: an event file a stage, in the run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas_plugins.trackers.numbers import numbers
from robustnas_plugins.trackers.package import needed


@define
class TensorBoard:
    """Curves of every stage, and the table, for `tensorboard --logdir RUN/trackers/tensorboard` (offline)."""

    _run: Any = field(default=None, init=False)
    _writers: dict[str, Any] = field(factory=dict, init=False)

    def check(self) -> None:
        needed("tensorboard")

    def start(self, run: TrackedRun) -> None:
        self._run = run
        self._writer("run").add_text("recipe", f"```\n{json.dumps(run.settings, indent=1)}\n```")

    def begin(self, stage: TrackedStage) -> None:
        self._writer(stage.place).add_text("settings", f"```\n{json.dumps(stage.settings, indent=1)}\n```")

    def log(self, stage: TrackedStage, unit: str, at: int, figures: Mapping[str, float]) -> None:
        writer = self._writer(stage.place)
        for name, value in figures.items():
            writer.add_scalar(f"{unit}/{name}", value, at)
        if unit == "epoch":
            writer.flush()

    def finish(self, stage: TrackedStage, result: Mapping[str, Any] | None) -> None:
        writer = self._writers.pop(stage.place)
        for name, value in numbers(result or {}).items():
            writer.add_scalar(f"result/{name}", value)
        writer.close()

    def end(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            for name, value in numbers(row).items():
                self._writer("run").add_scalar(f"{row['method']}/{name}", value)
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, place: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if place not in self._writers:
            self._writers[place] = SummaryWriter(str(self._run.folder / place))  # type: ignore[no-untyped-call]
        return self._writers[place]
