"""The discretisation gap: the supernet's figures beside those of the genotype's path in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustnas.errors import UnsupportedOpError
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.search.gap import Judged, gap
from robustnas.search.objective import Objective
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.search_spaces.nas_bench_201 import NasBench201
from robustnas_plugins.search_spaces.pc_darts import PcDarts

SPACE = NasBench201(cells=1, channels=2, network_cells=1, network_channels=2)
CELL = {"cell": "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"}
THREAT = ThreatModel("linf", 0.03)


def judged(*metrics: Any) -> Judged:
    objective = Objective(tuple((1.0, metric) for metric in metrics), THREAT, 0.1)
    return Judged(torch.rand(9, 1, 8, 8), torch.arange(9) % 3, objective, 0)


def supernet(space: Any) -> PixelSupernet:
    torch.manual_seed(0)
    made = PixelSupernet(space.supernet((1, 8, 8), 3), (0.5,), (0.25,)).train()
    with torch.no_grad():
        for table in made.alpha.values():
            table.normal_()
    return made


def test_both_figures_are_those_of_one_batch_s_statistics():
    network, by = supernet(SPACE), judged(Jacobian(rows=1))
    before = {name: one.clone() for name, one in network.state_dict().items()}
    found = gap(network, SPACE, CELL, by)
    assert found is not None
    with torch.no_grad(), scratch_statistics(network):
        logits = [network(by.images), network(by.images, SPACE.path(CELL))]
    shares = [float((one.argmax(dim=1) == by.labels).double().mean()) for one in logits]
    assert list(found["accuracy"].values()) == shares
    assert found["images"] == 9
    assert found["jacobian"]["supernet"] != found["jacobian"]["genotype"]
    assert network.training
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())


def test_a_supernet_that_is_one_path_already_has_no_gap():
    network, by = supernet(SPACE), judged(Jacobian(rows=1))
    with torch.no_grad():
        for name, rows in SPACE.path(CELL).items():
            network.alpha[name].copy_(1e4 * rows)
    found = gap(network, SPACE, CELL, by)
    assert found is not None
    for name in ("accuracy", "jacobian"):
        assert found[name]["supernet"] == pytest.approx(found[name]["genotype"], rel=1e-4)


def test_a_score_that_fails_has_no_figure():
    class Failing:
        def score(self, *given: Any) -> Any:
            raise UnsupportedOpError("no rule")

    class Infinite:
        def score(self, network: Any, images: Any, labels: Any, threat: Any) -> Any:
            return torch.full((len(images),), torch.inf)

    found = gap(supernet(SPACE), SPACE, CELL, judged(Failing(), Infinite()))
    assert found is not None
    assert found["Failing"] == found["Infinite"] == {"supernet": None, "genotype": None}


def test_a_space_without_paths_has_none():
    space = PcDarts(cells=1, channels=4, network_cells=1, network_channels=4)
    assert gap(supernet(space), space, space.sample(torch.Generator().manual_seed(0)), judged()) is None
