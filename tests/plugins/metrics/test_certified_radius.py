"""The certified-radius metric: where the certified margin is 0, and its gradient by the implicit function theorem."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustnas import certify
from robustnas.bounds import log_widths_within, margins_within
from robustnas.nn.margin import margin_to_best_other
from robustnas.search.warnings import warnings
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.metrics.certified_radius import FLOORS, CertifiedRadius, secant_slope
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.robust_darts import DartsS2
from support.networks import TinySupernet

SIDES = (1 - 1e-5, 1 + 1e-5)
THREAT = {norm: ThreatModel(norm, 0.05) for norm in NORMS}


def supernet(
    cells: int = 2, channels: int = 4, size: int = 5, tiny: bool = False, space: type[Darts] | type[DartsS2] = Darts
) -> tuple[nn.Module, Tensor, Tensor]:
    """A small supernet in float64, images it classifies as labelled, all but the last."""
    torch.manual_seed(0)
    net: Any = (
        TinySupernet((1, size, size)) if tiny else space(cells=cells, channels=channels).supernet((1, size, size), 3)
    ).double()
    images = torch.rand(5, 1, size, size, dtype=torch.float64)
    with torch.no_grad():
        for table in net.alpha.values():
            table.normal_()
        net.train()(torch.rand(16, 1, size, size, dtype=torch.float64))
        if tiny:
            net.head.bias.sub_(net.eval()(images).mean(dim=0))  # else one class is far ahead, whatever the image
        labels = net.eval()(images).argmax(dim=1)
    labels[-1] = (labels[-1] + 1) % 3
    return net, images, labels


def exact(
    net: nn.Module, images: Tensor, labels: Tensor, norm: str, around: Tensor, within: float, steps: int
) -> Tensor:
    """(N,) radii within this share of those given: by bisection, then where the chord crosses 0."""

    def bound(radius: Tensor) -> Tensor:
        return margins_within(net, images, labels, norm, radius, "crown-ibp", "strongest")[:, 0]

    below, above = (1 - within) * around, (1 + within) * around
    with torch.no_grad():
        for _ in range(steps):
            middle = (below + above) / 2
            right = bound(middle) > 0
            below, above = torch.where(right, middle, below), torch.where(right, above, middle)
        low, high = bound(below), bound(above)
        return below + (above - below) * low / (low - high)


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_radius_where_the_margin_is_0_and_its_gradient_that_of_finite_differences(norm: str):
    net, images, labels = supernet(tiny=True)
    metric = CertifiedRadius(scale="log", steps=10)
    score = metric.score(net, images, labels, THREAT[norm])
    assert score[-1].item() == pytest.approx(math.log(FLOORS["float32"]))
    assert CertifiedRadius().floored(score).tolist() == [*[False] * (len(score) - 1), True]
    right, right_labels = images[:-1], labels[:-1]
    radius = exact(net, right, right_labels, norm, score[:-1].detach().exp(), 1e-2, 11)
    torch.testing.assert_close(score[:-1].detach().exp(), radius, rtol=1e-4, atol=0)
    # where a line flips at the root itself the bound jumps over 0, and there is nothing to differentiate
    with torch.no_grad():
        across = [margins_within(net, right, right_labels, norm, radius * c, "crown-ibp", "strongest") for c in SIDES]
    smooth = ((across[0] - across[1])[:, 0].abs() < 1e-3 * net(right).std(dim=1)).nonzero().squeeze(1)
    assert len(smooth) >= 2
    right, right_labels, radius = right[smooth], right_labels[smooth], radius[smooth]
    tables = list(net.alpha.values())
    gradients = torch.autograd.grad(score[smooth].sum(), tables)
    draw, checked = torch.Generator().manual_seed(1), 0
    for table, gradient in zip(tables, gradients, strict=True):
        assert gradient.abs().max() > 1e-3
        direction = torch.randn(table.shape, dtype=table.dtype, generator=draw)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                table.add_(sign * 1e-6 * direction)
                values.append(exact(net, right, right_labels, norm, radius, 1e-4, 4).log().sum())
                table.sub_(sign * 1e-6 * direction)
        difference = float(values[0] - values[1]) / 2e-6
        assert difference == pytest.approx(float((gradient * direction).sum()), rel=2e-3, abs=1e-4)
        checked += 1
    assert checked == len(net.alpha) > 0


def test_the_slope_is_the_secant_to_the_nearest_radius_that_is_far_enough_and_1_where_none_is():
    at, width = torch.tensor([0.0, 0.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    near, far = torch.tensor([1e-3, 0.1, -0.5, 1e-3]), torch.tensor([1.0, 1.0, 0.2, -1e-4])
    widths = torch.tensor([9.0, 1.2, 0.0, 9.0]), torch.tensor([3.0, 9.0, torch.nan, 9.0])
    torch.testing.assert_close(
        secant_slope(at, width, [(near, widths[0]), (far, widths[1])]), torch.tensor([2.0, 2.0, 2.0, 1.0])
    )


def test_the_slope_of_two_steps_is_near_the_derivative():
    net, images, labels = supernet(tiny=True)
    metric = CertifiedRadius(scale="log")
    (found,) = torch.autograd.grad(metric.score(net, images, labels, THREAT["linf"]).sum(), net.alpha["normal"])
    more = CertifiedRadius(scale="log", steps=10).score(net, images, labels, THREAT["linf"]).sum()
    (exact_one,) = torch.autograd.grad(more, net.alpha["normal"])
    assert (found - exact_one).norm() < 0.1 * exact_one.norm()


@pytest.mark.parametrize("scale", ["log", "pixels"])
def test_it_cannot_be_improved_by_rescaling_logits(scale: str):
    net, images, labels = supernet(cells=1)
    metric = CertifiedRadius(scale=scale)
    was = metric.score(net, images, labels, THREAT["linf"])
    head = net.classifier
    slopes = torch.autograd.grad(was.sum(), [head.weight, head.bias])
    along = sum((slope * of).sum() for slope, of in zip(slopes, (head.weight, head.bias), strict=True))
    assert abs(along) < 1e-9 * sum(slope.norm() for slope in slopes)
    with torch.no_grad():
        head.weight.mul_(7.0)
        head.bias.mul_(7.0)
    torch.testing.assert_close(metric.score(net, images, labels, THREAT["linf"]), was)


def test_it_agrees_with_what_certify_finds_and_is_never_above_the_pixel_range():
    net, images, labels = supernet(cells=1)
    found = CertifiedRadius(scale="pixels", steps=8).score(net, images, labels, THREAT["linf"]).detach()
    certified = certify.radius(net, images, labels, "linf", tolerance=1e-4)
    assert found[-1] == certified[-1] == 0
    # one is to the strongest wrong class at the clean image, the other to all
    assert (certified <= found * 1.001).all()
    torch.testing.assert_close(found, certified, rtol=0.05, atol=0)
    with torch.no_grad():
        assert CertifiedRadius().score(net, images, labels, THREAT["l1"]).requires_grad is False


@pytest.mark.slow
def test_it_is_usable_in_float32_at_8_cells(monkeypatch: pytest.MonkeyPatch):
    # one bracket for both, and steps enough to end it: before that, rounding decides on which side of a jump they are
    monkeypatch.setitem(FLOORS, "float64", FLOORS["float32"])
    net, images, labels = supernet(cells=8, channels=2, size=4, space=DartsS2)
    images, labels = images[-2:], labels[-2:]
    score = CertifiedRadius(precision="float64", steps=12).score(net, images, labels, THREAT["linf"])
    wide = torch.autograd.grad(score.sum(), list(net.alpha.values()))
    net.float()
    narrow = CertifiedRadius(steps=12).score(net, images.float(), labels, THREAT["linf"])
    slopes = torch.autograd.grad(narrow.sum(), list(net.alpha.values()))
    assert (narrow[:-1] < -5).all()
    torch.testing.assert_close(narrow.double(), score.double(), rtol=1e-3, atol=1e-3)
    # the gradient of the one image that is right is divided by a secant's slope, which near jumps differs with the
    # radii that were tried; its direction does not
    for one, other in zip(slopes, wide, strict=True):
        cosine = (one.double() * other).sum() / (one.double().norm() * other.norm())
        assert cosine > 0.999
        assert 0.5 < one.double().norm() / other.norm() < 2


def test_a_soft_margin_gives_every_image_a_radius_and_a_gradient():
    """By hand: where the width is the margin's softplus; the gradient by finite differences in alpha."""
    net, images, labels = supernet(tiny=True)
    metric = CertifiedRadius(steps=10, margin="soft")
    score = metric.score(net, images, labels, THREAT["linf"])
    assert not metric.floored(score).any()
    logits = net(images)
    tau = logits.std(dim=1)
    aim = tau * torch.nn.functional.softplus(margin_to_best_other(logits, labels) / tau)
    widths = log_widths_within(net, images, labels, "linf", score.exp(), "crown-ibp", "strongest")[:, 0]
    torch.testing.assert_close(widths, aim.log(), rtol=1e-4, atol=1e-4)
    table = net.alpha["normal"]
    for one in (0, len(images) - 1):  # right, and wrong
        (slope,) = torch.autograd.grad(score[one], table, retain_graph=True)
        moved = []
        for side in (1e-4, -1e-4):
            with torch.no_grad():
                table[0, 0] += side
                moved.append(metric.score(net, images, labels, THREAT["linf"])[one])
                table[0, 0] -= side
        assert float(slope[0, 0]) == pytest.approx(float(moved[0] - moved[1]) / 2e-4, rel=1e-3)
    plain = CertifiedRadius(steps=10).score(net, images, labels, THREAT["linf"])
    assert (plain[:-1] < score[:-1]).all()  # a softplus is larger


def test_radii_that_float32_does_not_hold_are_found_in_float64(monkeypatch):
    """As if float32 ended at the middle of these radii; each image is then computed as it would be alone."""
    net, images, labels = supernet(tiny=True)
    net, images = net.float(), images.float()
    plain = CertifiedRadius(steps=6).score(net, images, labels, THREAT["linf"])
    ends = float(plain[:-1].detach().median()) + 0.01
    monkeypatch.setitem(FLOORS, "float32", math.exp(ends))
    metric = CertifiedRadius(steps=6)
    score = metric.score(net, images, labels, THREAT["linf"])
    torch.testing.assert_close(score[:-1], plain[:-1], rtol=1e-4, atol=1e-4)
    assert score[-1].item() == pytest.approx(ends, rel=1e-5)
    assert metric.floored(score).tolist() == [*[False] * (len(score) - 1), True]
    slope, expected = (torch.autograd.grad(one[:-1].sum(), net.alpha["normal"])[0] for one in (score, plain))
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-3)


def test_a_search_says_where_most_images_have_the_least_score():
    [note] = warnings([{"floored": 0.2}, {"floored": 0.75}], 0.0)
    assert "the robustness of 75 % of the images was the least that the metric tells" in note
    assert warnings([{"floored": 0.75}, {"floored": 0.5}], 0.0) == warnings([{}], 0.0) == warnings([], 0.0) == []
    scores = torch.tensor([math.log(1e-36), -80.0, -2.0])
    assert CertifiedRadius().floored(scores).tolist() == [True, False, False]
    pixels = scores.exp() * torch.tensor([0.0, 1.0, 1.0])
    assert CertifiedRadius(scale="pixels").floored(pixels).tolist() == [True, False, False]
