"""Certified margins and radii: what is verified is verified, and the network is left as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustnas import bounds, certify
from robustnas.certify import margins_and_radii
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.threat import DUAL_ORDER, ThreatModel


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Dropout(),
        nn.Flatten(), nn.Linear(4 * 9, 3),
    )  # fmt: skip


IMAGES = torch.rand(9, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def predicted(net: nn.Module) -> Tensor:
    mode = net.training
    labels = net.eval()(IMAGES).argmax(dim=1)
    net.train(mode)
    return labels


def test_margins_are_those_of_the_bounds_less_a_slack_and_do_not_depend_on_the_batch():
    net, threat = network(), ThreatModel("linf", 0.01)
    labels = predicted(net)
    found = certify.margins(net, IMAGES, labels, threat, batch=4)
    assert found.shape == (9, 2)
    assert not found.requires_grad
    torch.testing.assert_close(found, certify.margins(net, IMAGES, labels, threat, batch=9), rtol=0, atol=1e-5)
    exact = bounds.margins(net.eval(), IMAGES, labels, threat).detach()
    assert (found < exact).all()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radius_of_a_linear_network_is_margin_over_dual_norm(norm: str):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    images = 0.45 + 0.1 * IMAGES
    with torch.no_grad():
        net[1].weight.mul_(3)
        labels = net(images).argmax(dim=1)
        logits = net(images)
        rows = net[1].weight[labels][:, None] - net[1].weight[None]
        dual = torch.linalg.vector_norm(rows, ord=DUAL_ORDER[norm], dim=2)
        ratio = (logits.gather(1, labels[:, None]) - logits) / dual
        exact = ratio.scatter(1, labels[:, None], torch.inf).amin(dim=1)
    # the box must not bind, or the radius is larger
    inside = exact < (0.4 if norm == "linf" else 0.45)
    assert inside.sum() >= 5
    found = certify.radius(net, images, labels, norm)
    assert (found <= exact + 1e-6)[inside].all()
    torch.testing.assert_close(found[inside], exact[inside], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radius_was_verified_and_a_little_more_was_not(norm: str, method: str):
    net = network()
    labels = predicted(net)
    labels[0] = (labels[0] + 1) % 3
    found = certify.radius(net, IMAGES, labels, norm, method)
    assert found[0] == 0
    assert (found[1:] > 0).all()
    for share, certified in ((1.0, True), (1.003, False)):
        for image, label, radius in zip(IMAGES[1:], labels[1:], found[1:], strict=True):
            threat = ThreatModel(norm, float(radius) * share)
            lowest = certify.margins(net, image[None], label[None], threat, method).min()
            # what holds in one batch holds in another up to rounding
            assert (lowest > -1e-5) if certified else (lowest < 1e-5)


def test_a_tolerance_finer_than_the_number_format_ends_too():
    net = network()
    labels = predicted(net)[:3]
    coarse, fine = (certify.radius(net, IMAGES[:3], labels, "linf", "ibp", tolerance) for tolerance in (1e-6, 1e-12))
    torch.testing.assert_close(fine, coarse, rtol=1e-5, atol=0.0)


def test_radius_grows_with_the_method():
    net = network()
    labels = predicted(net)
    loose, tight = (certify.radius(net, IMAGES[:3], labels[:3], "linf", method) for method in ("ibp", "crown-ibp"))
    assert (tight >= loose * 0.998).all()
    assert (tight > loose).any()


class Constant(nn.Module):
    """Always the first class."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])


@pytest.mark.parametrize(("norm", "reach"), [("linf", 1.0), ("l2", 6.0)])
def test_radius_is_never_above_the_reach_of_the_box(norm: str, reach: float):
    found = certify.radius(Constant(), IMAGES[:3], torch.tensor([0, 0, 1]), norm)
    assert math.sqrt(IMAGES[0].numel()) == 6
    torch.testing.assert_close(found, torch.tensor([reach, reach, 0.0]))


class Refuses(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3].sin()


def test_mode_and_gradients_are_put_back_module_by_module_also_after_an_error():
    net = network().train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    labels = torch.zeros(9, dtype=torch.int64)
    certify.margins(net, IMAGES, labels, ThreatModel("linf", 0.01))
    certify.radius(net, IMAGES[:2], labels[:2], "linf", tolerance=0.1)
    broken = nn.Sequential(net, Refuses())
    with pytest.raises(UnsupportedOpError):
        certify.margins(broken, IMAGES, labels, ThreatModel("linf", 0.01))
    assert [module.training for module in net.modules()] == modes
    assert broken.training
    assert not net[0].weight.requires_grad
    assert net[0].bias.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_overflowing_bound_ends_the_search_and_not_in_nan():
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(10):
        layers += [nn.Linear(36, 36), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(36, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2500.0)
    labels = net(IMAGES).argmax(dim=1)
    assert net(IMAGES).isfinite().all()
    assert certify.margins(net, IMAGES, labels, ThreatModel("linf", 1.0)).isneginf().all()
    found = certify.radius(net, IMAGES, labels, "linf")
    assert found.isfinite().all()
    assert (found > 0).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": 0}, "batch 0"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "9 images but labels"),
        ({"norm": "l3"}, "norm 'l3' is unknown"),
        ({"tolerance": 0.0}, "tolerance 0"),
    ],
)
def test_bad_input_has_a_clear_message(change: dict[str, object], words: str):
    given = {"images": IMAGES, "labels": torch.zeros(9, dtype=torch.int64), "norm": "linf", **change}
    with pytest.raises(InputError, match=words):
        certify.radius(network(), **given)


class Twice(nn.Module):
    """A linear network whose answer is not a function of the image: `how` says why."""

    def __init__(self, how: str, size: float):
        super().__init__()
        torch.manual_seed(2)
        self.how, self.size, self.calls = how, size, 0
        self.layer = nn.Linear(36, 3)
        self.register_buffer("offsets", torch.randn(9, 1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.how == "draws":
            x = x + self.size * torch.randn(x.shape, dtype=x.dtype)
        elif self.how == "draws from a generator of its own":
            x = x + self.size * torch.as_tensor(np.random.default_rng().normal(size=x.shape)).to(x)
        elif self.how == "counts":
            x = x + self.size * self.calls
        else:
            x = x + self.size * self.offsets[: len(x)]
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("how", ["draws", "draws from a generator of its own", "counts", "place in the batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_that_answers_one_image_in_different_ways_is_refused(how: str, dtype: torch.dtype):
    # noise from torch's generator is seen whatever its size
    net = Twice(how, 1e-9 if how == "draws" else 0.03).to(dtype)
    images, labels, threat = IMAGES.to(dtype), torch.zeros(9, dtype=torch.int64), ThreatModel("linf", 0.01)
    with pytest.raises(UnsupportedOpError, match="the same image in different ways"):
        certify.margins(net, images, labels, threat)
    with pytest.raises(UnsupportedOpError, match="the same image in different ways"):
        certify.radius(net, images, labels, "l2")


def test_a_lower_bound_is_rounded_down():
    """Also far below the logits, and for an epsilon that float32 would make smaller."""
    values = torch.cat([torch.randn(500, dtype=torch.float64) * 10.0**power for power in range(-40, 40, 8)])
    for dtype in (torch.float32, torch.float64):
        assert (certify.rounded(values, dtype, up=False).double() <= values).all()
        assert (certify.rounded(values, dtype, up=True).double() >= values).all()
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False)).eval()
    net[1].weight.data = torch.randn(3, 36, generator=torch.Generator().manual_seed(0)) * 1000
    labels, images = torch.zeros(9, dtype=torch.int64), IMAGES.clone()
    for epsilon in (0.1, 0.3, 1 / 3, 8 / 255):
        threat = ThreatModel("linf", epsilon)
        weight = net[1].weight.detach().double()
        rows = weight[:1] - weight[1:]
        for dtype in (torch.float32, torch.float64):
            clean = images.double().flatten(1)
            low, high = (clean - epsilon).clamp_min(0), (clean + epsilon).clamp_max(1)
            least = torch.where(rows[:, None] > 0, low, high).mul(rows[:, None]).sum(dim=2).T
            found = certify.margins(net.to(dtype), images.to(dtype), labels, threat, "crown")
            assert (found.double() <= least).all()
            torch.testing.assert_close(found.double(), least, rtol=1e-4, atol=1e-1)


def test_the_largest_certified_epsilon_is_found_with_a_bound_for_what_is_undecided_alone(monkeypatch):
    net, epsilons = network(), [0.1, 0.12, 0.15]
    labels = predicted(net)
    labels[0] = (labels[0] + 1) % 3
    asked = []

    def counted(network: nn.Module, some: Tensor, own: Tensor, threat: ThreatModel, method: str, batch: int) -> Tensor:
        asked.append((method, len(some)))
        return margins(network, some, own, threat, method, batch)

    margins = margins_and_radii.margins
    monkeypatch.setattr(margins_and_radii, "margins", counted)
    found = certify.largest_certified(net, IMAGES, labels, "linf", epsilons, "crown")
    expected = torch.zeros(9, dtype=torch.float64)
    for epsilon in epsilons:
        verified = margins(net, IMAGES, labels, ThreatModel("linf", epsilon), "crown").amin(dim=1) > 0
        expected[verified] = epsilon
    assert torch.equal(found, expected)
    assert set(found.tolist()) == {0.0, 0.1, 0.12, 0.15}, "the case tells all of them apart"
    expected_questions, open_images = [], expected.new_zeros(9).bool()
    open_images[1:] = True
    for epsilon in sorted(epsilons, reverse=True):
        for method in ("crown-ibp", "crown"):
            expected_questions.append((method, int(open_images.sum())))
            verified = margins(net, IMAGES, labels, ThreatModel("linf", epsilon), method).amin(dim=1) > 0
            open_images = open_images & ~verified
    assert asked == expected_questions, "never the image that is wrong, nor what a cheaper method has decided"
    by_the_cheaper = [before - after for (_, before), (_, after) in zip(asked[::2], asked[1::2], strict=True)]
    assert any(by_the_cheaper), "the cheaper method decides some"
    known = torch.full((9,), 0.13, dtype=torch.float64)
    again = certify.largest_certified(net, IMAGES, labels, "linf", epsilons, "crown", known=known)
    assert torch.equal(again, found.clamp_min(0.13)), "what is known is not lowered"
    assert asked[6:] == asked[:2], "and decides the smaller ones"
