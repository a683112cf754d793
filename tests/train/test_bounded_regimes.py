"""SABR, MTL-IBP and noise training: their losses are those of the papers, and lie between what they stand between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from robustnas import certify, train
from robustnas.nn.normalize import PixelNetwork
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import NORMS, ThreatModel
from robustnas.train.regimes.adversarial import Adversarial
from robustnas.train.regimes.certified import Certified
from robustnas.train.regimes.mtl_ibp import MTLIBP
from robustnas.train.regimes.noise import Noise
from robustnas.train.regimes.sabr import SABR
from robustnas.train.regimes.standard import Standard
from robustnas.train.settings import Train
from support import places
from support.networks import Bars, TinyNetwork, TinySpace
from support.training_context import loss_of

CPU = torch.device("cpu")
IMAGES = Bars().split("train")
RADII = {"linf": 0.03, "l2": 0.2, "l1": 0.6}
GROWN = {"warmup_epochs": 0.0, "ramp_epochs": 0.0}
"""Epsilon is at its end from the first step on."""


def network(seed: int = 0) -> PixelNetwork:
    """Without dropout, in eval mode: statistics stay as they are, so that passes can be compared."""
    with seeding.seeded(seed, "test"):
        net = TinyNetwork(4, 3, True)
    net.body[3].p = 0.0  # type: ignore[union-attr,assignment]
    return PixelNetwork(net, Bars.mean, Bars.std).eval()


def loss(regime: Any, norm: str = "linf", **options: Any) -> float:
    threat = ThreatModel(norm, RADII[norm])
    return loss_of(regime, network(), IMAGES.pixels, IMAGES.labels, threat, **options).loss.item()


@pytest.mark.parametrize("norm", NORMS)
def test_small_boxes_lie_within_the_ball_and_around_worse_images(norm: str):
    threat, regime, net = ThreatModel(norm, RADII[norm]), SABR(box=0.3, **GROWN), network()
    middles = regime.middles(net, IMAGES.pixels, IMAGES.labels, threat, torch.Generator().manual_seed(0))
    reached = threat.distance(middles, IMAGES.pixels) + regime.box * threat.epsilon
    assert float(reached.max()) <= threat.epsilon * (1 + 1e-4)
    assert float(reached.max()) > 0.9 * threat.epsilon
    assert 0 <= float(middles.min()) <= float(middles.max()) <= 1
    before, after = (F.cross_entropy(net(images), IMAGES.labels) for images in (IMAGES.pixels, middles))
    assert after > before


@pytest.mark.parametrize("norm", NORMS)
def test_sabr_lies_between_pgd_and_ibp_and_its_whole_box_is_ibp(norm: str):
    found = [loss(SABR(box=box, **GROWN), norm) for box in (1e-6, 0.3, 0.7, 1.0)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(loss(Certified(kappa_end=0.0, beta_end=0.0, **GROWN), norm), rel=1e-5)
    attack = Adversarial(steps=8)
    assert found[0] == pytest.approx(loss(attack, norm), rel=1e-2)


def test_mtl_ibp_is_the_weighted_sum_of_both_losses():
    attacked = loss(Adversarial(steps=8))
    bounded = loss(Certified(kappa_end=0.0, beta_end=0.0, **GROWN))
    assert attacked < bounded
    for weight in (0.01, 0.5, 1.0):
        wanted = (1 - weight) * attacked + weight * bounded
        assert loss(MTLIBP(weight=weight, **GROWN)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("regime", [SABR(warmup_epochs=1.0), MTLIBP(warmup_epochs=1.0)])
def test_while_epsilon_is_0_they_train_on_clean_images(regime: Any):
    assert loss(regime, passed=0.5, epochs=10) == pytest.approx(loss(Standard()))
    names = [
        set(loss_of(regime, network(), IMAGES.pixels, IMAGES.labels, ThreatModel("linf", 0.03), **at).figures)
        for at in ({"passed": 0.5, "epochs": 10}, {"passed": 9.0, "epochs": 10})
    ]
    assert names[0] == names[1] != set(), "figures have one name throughout"


@pytest.mark.parametrize("regime", [SABR(**GROWN), MTLIBP(**GROWN)])
def test_the_auxiliary_head_is_trained_whatever_is_bounded(regime: Any):
    net = network()
    threat = ThreatModel("linf", 0.03)
    found = loss_of(regime, net, IMAGES.pixels, IMAGES.labels, threat, auxiliary=0.5, backward=True)
    assert found.loss > loss_of(regime, network(), IMAGES.pixels, IMAGES.labels, threat).loss
    unmoved = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert unmoved == []


@pytest.mark.parametrize("regime", [SABR(0.15, 0.2, 2.0), MTLIBP(0.15, 0.2, 2.0, weight=0.5)])
def test_they_certify_what_standard_training_does_not(regime: Any, tmp_path: Path):
    threat, shares = ThreatModel("linf", 0.15), {}
    images = Bars().split("test")
    for name, each in (("standard", Standard()), ("bounded", regime)):
        wanted = Train(epochs=6, batch=16, lr=0.1, cutout=0, drop_path=0, auxiliary=0, regime=each)
        task = train.TrainTask(Bars(), TinySpace(), {"width": 4}, threat, wanted, seed=3)
        train.run(task, StageFolder(tmp_path / name), CPU)
        net = train.load(StageFolder(tmp_path / name), TinySpace(), {"width": 4}, Bars(), wanted)
        shares[name] = float((certify.margins(net, images.pixels, images.labels, threat) > 0).all(1).float().mean())
    assert shares["bounded"] > shares["standard"] + 0.3


def test_noise_is_gaussian_of_its_deviation_and_not_clipped():
    net, shape = network(), IMAGES.pixels.shape
    found = loss_of(Noise(sigma=0.5), net, IMAGES.pixels, IMAGES.labels, ThreatModel("linf", 0.1), seed=7)
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    noisy = IMAGES.pixels + 0.5 * draws
    assert not 0 <= float(noisy.min()) <= float(noisy.max()) <= 1
    torch.testing.assert_close(found.loss, F.cross_entropy(net(noisy), IMAGES.labels))
    assert not Noise.sees_threat, "one network serves every threat"


def test_their_options_are_documented_with_their_defaults():
    text = (places.ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for regime, name, of in ((SABR, "box", "sabr"), (MTLIBP, "weight", "mtl-ibp")):
        field = next(each for each in regime.__attrs_attrs__ if each.name == name)  # type: ignore[attr-defined]
        assert f"\n| `{name}` of `{of}` | `{field.default}` | {field.metadata['help']} |\n" in text
