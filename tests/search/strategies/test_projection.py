"""Projection keeps what hurts most to remove, by each criterion, and goes on after a stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from robustnas.contracts import SearchContext
from robustnas.data.images import InMemory
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.processes import ALONE
from robustnas.runtime.report import silent
from robustnas.search.settings import Search
from robustnas.search.strategies import projection
from robustnas.search.strategies.projection import Projection
from robustnas.testing import check_strategy
from robustnas.testing.strategy import Asked
from robustnas.threat import ThreatModel

OPS = ("none", "weak", "strong", "wrong")
GAINS = torch.tensor([[0.0, 1.0, 9.0, -9.0], [0.0, 8.0, 2.0, -9.0], [0.0, 0.5, 0.25, -9.0]])
"""What each operation of three edges adds to the right logit."""


class Told(nn.Module):
    """A supernet whose edges tell the class, the better the larger their operations' gains; alpha prefers `wrong`."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Parameter(torch.tensor([[0.0, 0.0, 0.0, 2.0]] * 3))
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        return {"edges": self.edges}

    def mixing(self) -> dict[str, Tensor]:
        return {"edges": self.edges.softmax(dim=1)}

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        gain = ((self.mixing() if mixing is None else mixing)["edges"] * GAINS).sum(dim=1)
        # the first edge counts twice
        return self.scale * images.flatten(1)[:, :3] * (gain.sum() + gain[0])


class Space:
    """Keeps the strongest operation of each edge, and the order of the edges by their strength."""

    candidates: ClassVar = {"edges": OPS}

    def supernet(self, shape: Any, classes: int) -> Told:
        return Told()

    def genotype(self, supernet: Any) -> dict[str, Any]:
        rows = supernet.mixing()["edges"][:, 1:]
        order = sorted(range(3), key=lambda row: -float(rows[row].max()))
        return {"ops": [OPS[1 + int(row.argmax())] for row in rows], "order": order}


class Gain:
    """A score that prefers weak operations."""

    def score(self, network: Any, images: Tensor, labels: Tensor, threat: Any) -> Tensor:
        return network.mixing()["edges"][:, 1].sum().expand(len(images))


class Outer:
    """An outer loss that does as well."""

    def outer_loss(self, network: Any, images: Tensor, labels: Tensor, threat: Any, context: Any) -> Tensor:
        return -network.mixing()["edges"][:, 1].sum() + 0 * network(images).sum()


def context(folder: Path, *metrics: Any) -> SearchContext:
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    images = 0.1 * torch.rand(24, 1, 2, 2)
    images.flatten(1)[torch.arange(24), labels] += 0.8
    space: Any = Space()
    return SearchContext(
        dataset=Asked(InMemory(images, labels), shape=(1, 2, 2), mean=(0.0,), std=(1.0,)),
        space=space,
        metrics=tuple((1.0, metric) for metric in metrics),
        threat=ThreatModel("linf", 0.1),
        settings=Search(epochs=1, batch=8, alpha_lr=1e-9, w_lr=1e-9, w_lr_min=0.0, gamma=0.0),
        seed=0,
        generator=torch.Generator(),
        estimate=lambda genotype, how: {},
        report=silent,
        folder=StageFolder(folder / "search" / "one-0123456789ab"),
        device=torch.device("cpu"),
        processes=ALONE,
    )


def test_what_hurts_most_stays_though_alpha_prefers_something_else(tmp_path: Path):
    found = Projection().search(context(tmp_path))
    assert found["of_alpha"]["genotype"]["ops"] == ["wrong"] * 3
    assert found["search_seconds"] > 0
    assert found["genotype"]["ops"] == ["strong", "weak", "weak"]
    assert found["genotype"]["order"][0] == 0, "the edge counts most whose removal hurts most"
    assert sorted(row for _, row, _ in found["projected"]) == [0, 1, 2]


@pytest.mark.parametrize(("criterion", "metric"), [("metric", Gain()), ("outer", Outer())])
def test_the_method_s_metric_may_say_what_hurts(tmp_path: Path, criterion: Any, metric: Any):
    strategy = Projection(criterion=criterion)
    found = strategy.search(context(tmp_path, metric))
    assert found["genotype"]["ops"] == ["weak"] * 3
    assert strategy.asks == (("score",) if criterion == "metric" else ("outer_loss",))


@pytest.mark.parametrize("tune", [0, 1])
def test_it_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tune: int):
    strategy = Projection(tune=tune)
    whole = strategy.search(context(tmp_path / "whole"))
    own, calls = projection._Projecting._operation, []

    def stopping(self: Any, *given: Any) -> int:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(self, *given)

    monkeypatch.setattr(projection._Projecting, "_operation", stopping)
    stopped = context(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        strategy.search(stopped)
    assert len(json.loads((stopped.folder.path / projection.FILE).read_text())["decided"]) == 1
    again = strategy.search(stopped)
    assert len(calls) == 4, "the first edge is not decided again"
    assert again["genotype"] == whole["genotype"]
    assert again["projected"] == whole["projected"]
    assert not list(stopped.folder.path.glob("tuned-*"))


def test_tuning_moves_w_between_edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    changes: list[float] = []
    own = projection._Projecting._tune

    def noted(self: Any, number: int) -> None:
        before = self.supernet.supernet.scale.item()
        own(self, number)
        changes.append(self.supernet.supernet.scale.item() - before)

    monkeypatch.setattr(projection._Projecting, "_tune", noted)
    Projection(tune=2).search(evolve(context(tmp_path), settings=Search(epochs=1, batch=8, w_lr=0.5, gamma=0.0)))
    assert len(changes) == 3
    assert all(change != 0 for change in changes)


def test_alpha_is_that_of_the_result_where_a_search_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    own = projection._Projecting.of

    def noted(strategy: Any, context: Any, alpha: Any) -> Any:
        made = own(strategy, context, {"edges": [[9.0, 0.0, 0.0, 0.0]] * 3})
        seen.append(made.mixing["edges"].argmax(dim=1).tolist())
        return made

    monkeypatch.setattr(projection._Projecting, "of", noted)
    Projection().search(context(tmp_path))
    assert seen == [[0, 0, 0]]


def test_keeps_the_contract():
    assert "search returns plain data" in check_strategy(Projection(images=16))
