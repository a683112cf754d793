"""First weights of certified training: intervals keep their width, beside the spread of the values where that is 1."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from robustnas import train
from robustnas.bounds import margins
from robustnas.bounds.rectified import rectified
from robustnas.nn.batch_statistics import noted_statistics
from robustnas.nn.normalize import PixelNetwork
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import ThreatModel
from robustnas.train.regimes.certified import Certified
from robustnas.train.regimes.first_weights import KEPT, draw
from robustnas.train.settings import Train
from robustnas_plugins.search_spaces.darts import Darts
from support.networks import Bars, TinySpace

IMAGES, LABELS = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
THREAT = ThreatModel("linf", 0.001)


def widths(network: nn.Module) -> list[float]:
    """Mean half widths in front of every rectifier, and of the worst margins last, with the batch's own statistics."""
    with noted_statistics(network) as noted:
        with noted.watched():
            clean = network(IMAGES)
        with noted.lent(), torch.no_grad(), rectified() as seen:
            found = margins(network, IMAGES, LABELS, THREAT, "ibp")
    drop = (clean.gather(1, LABELS[:, None]) - clean).amax(1) - found.amin(1)
    return [*(radius.mean().item() for _, radius in seen), drop.mean().item()]


def deep(kind: str) -> nn.Module:
    """Eight rectified layers."""
    if kind == "linear":
        layers = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(8)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 3))
    layers = [nn.Sequential(nn.Conv2d(each, 16, 3, padding=1), nn.ReLU()) for each in (1, *[16] * 7)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 3))


@pytest.mark.parametrize("kind", ["linear", "convolutional"])
def test_gaussian_first_weights_keep_the_width_of_intervals(kind: str):
    with seeding.seeded(0, "deep"):
        network = deep(kind)
        *wide, _ = widths(network)
        draw(network, "ibp")
    *kept, _ = widths(network)
    assert len(kept) == 8
    assert all(0.5 < after / before < 1.5 for before, after in pairwise(kept))
    assert kept[-1] / kept[0] > 0.2
    assert all(after / before > 1.5 for before, after in pairwise(wide)), "torch's own widen with every layer"


def test_gaussian_weights_have_the_deviation_that_the_formula_gives():
    layer = nn.Conv2d(32, 64, 3, groups=2)
    draw(layer, "ibp")
    inputs = 16 * 9
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / inputs, rel=0.05)
    assert inputs * layer.weight.abs().mean().item() == pytest.approx(2, rel=0.05)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_in_cells_with_batch_norm_it_is_the_identity_that_keeps_them():
    found = {}
    for kind in ("network", "ibp", "identity"):
        with seeding.seeded(0, "cells"):
            space = Darts(network_cells=3, network_channels=4)
            network = PixelNetwork(space.network(space.published["DARTS_V2"], (1, 8, 8), 3), (0.5,), (0.25,))
            draw(network, kind)
        found[kind] = widths(network)
    assert found["identity"][-1] < 0.2 * min(found["network"][-1], found["ibp"][-1])
    growth = {kind: max(each[:-1]) / each[0] for kind, each in found.items()}
    assert growth["identity"] < 25 < 100 < min(growth["network"], growth["ibp"]), growth


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_an_identity_shows_its_inputs_channels(groups: int):
    layer = nn.Conv2d(8, 16, 3, padding=1, groups=groups, bias=False)
    before = layer.weight.detach().clone()
    draw(layer, "identity")
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        own = nn.functional.conv2d(x, KEPT * before, padding=1, groups=groups)
        each = 8 // groups
        wanted = torch.cat([part.repeat(1, 16 // groups // each or 1, 1, 1)[:, : 16 // groups]
                            for part in x.split(each, dim=1)], dim=1)  # fmt: skip
        torch.testing.assert_close(layer(x) - own, wanted)


def test_training_begins_with_the_weights_that_the_regime_draws(tmp_path: Path):
    found = {}
    for name in ("network", "ibp", "again"):
        regime = Certified(initialisation="network" if name == "network" else "ibp", warmup_epochs=0.0)
        settings = Train(epochs=1, batch=32, lr=1e-30, decay=0.0, cutout=0, drop_path=0, auxiliary=0, regime=regime)
        task = train.TrainTask(Bars(), TinySpace(), {"width": 4}, ThreatModel("linf", 0.1), settings, seed=3)
        train.run(task, StageFolder(tmp_path / name), torch.device("cpu"))
        weights = StageFolder(tmp_path / name).load_tensors("network.pt")
        assert weights is not None
        found[name] = next(value for key, value in weights.items() if value.dim() == 4 and "weight" in key)
    assert torch.equal(found["ibp"], found["again"])
    inputs = found["ibp"][0].numel()
    assert inputs * found["ibp"].abs().mean().item() == pytest.approx(2, rel=0.4)
    assert not torch.allclose(found["network"], found["ibp"])
