"""Certificates of networks that repeat pixels before they mix them: against exact minima, in every norm.

python -m pytest -n 0 tests/evidence/test_soundness_copies.py     prints what was checked
"""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import define
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.soundness.copies import COPYING, Copying, chain, least_logits
from robustnas import bounds, certify
from robustnas.bounds import METHODS, Value, linear_rule, rule
from robustnas.bounds.ball import Ball
from robustnas.bounds.region import Region
from robustnas.errors import InputError
from robustnas.nn.normalize import PixelNetwork
from robustnas.threat import NORMS, ThreatModel

SHAPE = (1, 3, 4)
NETWORKS = 2 * len(COPYING)
EPSILON = {"linf": 0.05, "l2": 0.2, "l1": 0.4}


def some_images(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    images = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return torch.where(images < 0.2, images.round(), images)


@define
class Count:
    checks: int = 0
    violations: int = 0
    exact: int = 0

    def add(self, bound: Tensor, least: Tensor) -> None:
        """Bounds held against exact minima, (N, S) both."""
        tolerance = 1e-12 * (1 + least.abs())
        self.checks += bound.numel()
        self.violations += int((bound > least + tolerance).sum())
        self.exact += int((bound > least - 1e-6 * (1 + least.abs())).sum())


def counted(methods: tuple[str, ...] = METHODS, seeds: range = range(NETWORKS)) -> dict[tuple[str, str], Count]:
    """The campaign: every function that copies, alone and behind others, in every norm and by every method."""
    counts: dict[tuple[str, str], Count] = {}
    for seed in seeds:
        network, images = Copying(seed, chain(seed), SHAPE).double(), some_images(seed)
        for norm in NORMS:
            # from a ball that no face of the box cuts, where the dual norm is exact, to one that is cut
            threat = ThreatModel(norm, EPSILON[norm] * (1e-3, 1.0)[seed // len(COPYING) % 2])
            least = least_logits(network, images, threat)
            for method in methods:
                with torch.no_grad():
                    bound = bounds.linear_bounds(network, images, torch.eye(3).double(), threat, method)
                counts.setdefault((method, norm), Count()).add(bound, least)
    return counts


@pytest.mark.parametrize(
    "seeds", [range(len(COPYING)), pytest.param(range(len(COPYING), NETWORKS), marks=pytest.mark.slow)], ids=str
)
def test_copies_of_a_pixel_are_one_pixel(seeds: range, capsys: pytest.CaptureFixture[str]):
    counts = counted(seeds=seeds)
    with capsys.disabled():
        for (method, norm), count in counts.items():
            print(f"\n  copies, {method:12s} {norm:5s} {count}", end="")
    assert set(counts) == {(method, norm) for method in METHODS for norm in NORMS}
    for (method, norm), count in counts.items():
        assert count.violations == 0, (method, norm)
        assert count.checks == len(seeds) * 6
        # linear bounds of a linear network are exact; intervals where copies have alike coefficients, at least
        assert count.exact >= (count.checks if method != "ibp" else len(seeds) // 7), (method, norm)


def test_a_mean_and_a_deviation_for_three_channels_of_a_grey_image():
    """(x - mean) / std broadcasts one channel to three; the network that reads them looks at all."""
    network = PixelNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1])
    exact = copy.deepcopy(network.eval())
    for norm, epsilon in (("l2", 0.2), ("l1", 0.4)):
        threat = ThreatModel(norm, epsilon)
        slopes = torch.autograd.functional.jacobian(exact, images)[0, :, 0].flatten(1)
        rows = slopes[1] - slopes[[0, 2, 3]]
        length = rows.abs().amax(dim=1) if norm == "l1" else rows.norm(dim=1)
        least = (exact(images)[:, 1:2] - exact(images)[:, [0, 2, 3]]) - epsilon * length
        for method in METHODS:
            assert (certify.margins(network, images, label, threat, method) <= least).all(), (norm, method)


# --- planted faults: what would be seen if a rule were wrong by 1 %


def test_copies_that_are_taken_for_pixels_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Ball, "reach", lambda self, norm: self.scale)
    counts = counted(("ibp",))
    assert counts["ibp", "l2"].violations > 20
    assert counts["ibp", "l1"].violations > 20
    assert counts["ibp", "linf"].violations == 0


def test_a_reach_that_is_short_by_1_percent_is_found(monkeypatch: pytest.MonkeyPatch):
    reach = Ball.reach
    monkeypatch.setattr(Ball, "reach", lambda self, norm: 0.99 * reach(self, norm))
    counts = counted(("ibp",))
    assert counts["ibp", "l2"].violations > 3
    assert counts["ibp", "l1"].violations > 3


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_minimum_over_the_region_that_is_high_by_1_percent_is_found(method: str, monkeypatch: pytest.MonkeyPatch):
    minimum = Region.minimum
    monkeypatch.setattr(Region, "minimum", lambda self, slopes: 0.99 * minimum(self, slopes))
    for norm, count in ((norm, count) for (_, norm), count in counted((method,), range(len(COPYING))).items()):
        assert count.violations > len(COPYING), norm


# --- no rule of anybody's can bring copies back as pixels


def stacked_twice(x: Tensor) -> Tensor:
    return torch.cat([x, x], dim=1)


def swapped(x: Tensor) -> Tensor:
    return x[:, :, :, torch.tensor([0, 0, 1, 1])]


@pytest.mark.parametrize("function", [stacked_twice, swapped])
@pytest.mark.parametrize("form", ["linear", "general", "in place"])
def test_a_third_partys_rule_that_copies(function, form: str):
    """No form of a rule has a way to hand on a ball: behind it, the intervals are those of the box."""
    named = bounds.boundable(function)

    def general(called, value: Value) -> Value:
        plain = None if value.clean is None else function(value.clean)
        return value.like(plain, function(value.centre), function(value.radius))

    def in_place(called, value: Value) -> Value:
        value.clean = None if value.clean is None else function(value.clean)
        value.centre, value.radius = function(value.centre), function(value.radius)
        return value

    if form == "linear":
        linear_rule(named)(function)
    else:
        rule(named)(general if form == "general" else in_place)
    network, images = Copying(3, (named,), SHAPE).double(), some_images(0)
    for norm in ("l2", "l1"):
        threat = ThreatModel(norm, EPSILON[norm])
        least = least_logits(Copying(3, (function,), SHAPE).double(), images, threat)
        for method in METHODS:
            assert (bounds.linear_bounds(network, images, torch.eye(3).double(), threat, method) <= least + 1e-12).all()


def test_a_rule_that_exchanges_the_streams_of_logits_does_not_keep_what_was_in_front_of_them():
    """The margin of a last linear layer is folded into it; not where something has changed its output."""

    @bounds.boundable
    def opposite(x: Tensor) -> Tensor:
        return -x

    @rule(opposite)
    def handler(called, value: Value) -> Value:
        value.clean = None if value.clean is None else -value.clean
        value.centre = -value.centre
        return value

    layer, image = nn.Linear(12, 3).double(), some_images(1)[:1]
    for method in METHODS:
        bound = bounds.linear_bounds(
            lambda x: opposite(layer(x.flatten(1))), image, torch.eye(3).double(), ThreatModel("linf", 0.01), method
        )
        assert (bound <= -layer(image.flatten(1))).all()


def test_what_mixes_is_not_taken_for_a_move():
    ball = Ball.of(some_images(0))
    assert ball is not None
    for mixing in (
        lambda x: x + x.flip(3),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: x.cumsum(3),
        lambda x: F.relu(x - 2),
    ):
        with pytest.raises(InputError, match="mixes entries"):
            ball.moved(mixing)
