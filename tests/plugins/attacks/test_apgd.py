"""The gradient attacks in plain torch: properties that hold for all of them, then what each is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustnas.attack.pgd import along
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy, AutoPGDLogitsRatio, AutoPGDTargeted, radii, windows
from robustnas_plugins.attacks.cw_linf import MarginPGD
from robustnas_plugins.attacks.gradient_steps import shares
from robustnas_plugins.attacks.losses import dlr, margin, targeted_dlr
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.pgd import PGD
from robustnas_plugins.attacks.random_images import far, inside
from robustnas_plugins.attacks.transfer import Transfer
from support.attacked_networks import draws_of, proposed, wavy

EPSILON = {"linf": 0.08, "l2": 0.2, "l1": 0.3}
"""Radii at which some of the images below are fooled and some are not."""


def attacked(plugin, norm, network, images, labels):
    """What an attack proposes for the images."""
    return proposed(plugin, ThreatModel(norm, EPSILON[norm]), network, images, labels)


def oversure(network, classes):
    """The network with logits so large that their cross-entropy has no gradient in float32."""
    last = nn.Linear(classes, classes, bias=False).requires_grad_(False)
    last.weight.copy_(1e4 * torch.eye(classes))
    return nn.Sequential(network, last)


def test_gradients_whose_squares_are_0_still_have_a_direction():
    gradient = torch.tensor([3.0, -4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    for scale in (1e-36, 1e-30, 1.0, 1e30):
        direction = along(shares(scale * gradient))
        torch.testing.assert_close(direction, gradient / 5)
    assert torch.equal(shares(0 * gradient), 0 * gradient)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_restarts_are_never_weaker(norm):
    network, images, labels = wavy()
    gained = 0
    for form, options in (
        (PGD, {"steps": 2, "step_size": 0.05}),
        (AutoPGDCrossEntropy, {"steps": 5}),
        (AutoPGDLogitsRatio, {"steps": 5}),
        (AutoPGDTargeted, {"steps": 3, "target_classes": 1}),
    ):
        once, often = (attacked(form(**options, restarts=runs), norm, network, images, labels) for runs in (1, 5))
        fell, fell_often = (network(found).argmax(1) != labels for found in (once, often))
        assert bool((fell_often | ~fell).all())
        assert torch.equal(once[fell], often[fell])
        gained += int(fell_often.sum()) - int(fell.sum())
    assert gained > 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_with_few_classes_differences_stand_in_for_the_ratios(norm):
    two = wavy(2)
    run = {"steps": 8}
    ratio = attacked(AutoPGDLogitsRatio(**run), norm, *two)
    assert torch.equal(attacked(AutoPGDTargeted(**run), norm, *two), ratio)
    for classes in (2, 3):
        logits = torch.arange(classes).flip(0).double().requires_grad_()
        label = torch.tensor([0])
        for loss, target in ((dlr, 0), *((targeted_dlr, target) for target in range(1, classes))):
            (slope,) = torch.autograd.grad(loss(logits[None], label, torch.tensor([target])).sum(), logits)
            assert slope.any(), (loss, classes, target)
    # the cross-entropy of a network as sure as this has no gradient in float32, nor has a ratio of two logits
    network, images, labels = two
    sure = oversure(network, 2)
    fell = [
        int((sure(attacked(form(steps=8), norm, sure, images, labels)).argmax(1) != labels).sum())
        for form in (AutoPGDCrossEntropy, AutoPGDLogitsRatio, AutoPGDTargeted)
    ]
    assert fell[0] < min(fell[1:])
    assert [AutoPGDTargeted(steps=10).evaluations(classes) for classes in (2, 3, 4, 10, 100)] == [14, 27, 40, 118, 118]


def test_the_losses_by_hand_and_what_changes_them():
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0], [1.0, 2.0, 0.0, 4.0]])
    labels, targets = torch.tensor([0, 1]), torch.tensor([1, 3])
    assert margin(logits, labels, labels).tolist() == [-1.0, 2.0]
    torch.testing.assert_close(dlr(logits, labels, labels), torch.tensor([-1 / 3, 2 / 3]))
    torch.testing.assert_close(targeted_dlr(logits, labels, targets), torch.tensor([-3 / 3.5, 2 / 3.5]))
    moved = 100 * logits + 7
    torch.testing.assert_close(dlr(moved, labels, labels), dlr(logits, labels, labels))
    torch.testing.assert_close(targeted_dlr(moved, labels, targets), targeted_dlr(logits, labels, targets))


def test_the_margin_has_a_gradient_where_the_cross_entropy_has_none():
    network, images, labels = wavy()
    sure = oversure(network, 5)
    plain, by_margin, by_ratio = (
        int((sure(attacked(plugin, "linf", sure, images, labels)).argmax(1) != labels).sum())
        for plugin in (PGD(10, 0.03), MarginPGD(10, 0.03), AutoPGDLogitsRatio(10))
    )
    assert plain < min(by_margin, by_ratio) - 10


def test_momentum_adds_gradients_of_one_size():
    """Against the two lines of the source's algorithm, on a network whose gradient turns on the way."""
    network, images, labels = wavy()
    at, memory = images.clone(), torch.zeros_like(images)
    threat = ThreatModel("linf", EPSILON["linf"])
    for _ in range(6):
        at.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(at), labels, reduction="sum"), at)
        memory = memory + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        at = (at + 0.05 * memory.sign()).detach()
        at = torch.minimum(torch.maximum(at, images - threat.epsilon), images + threat.epsilon).clamp(0, 1)
    found = attacked(Transfer(steps=6, step_size=0.05), "linf", network, images, labels)
    torch.testing.assert_close(found, at)
    plain = attacked(Transfer(steps=6, step_size=0.05, momentum=0), "linf", network, images, labels)
    assert not torch.allclose(plain, at)


def test_images_made_to_transfer_go_on_when_their_source_is_fooled():
    network, images, labels = wavy()
    left, stayed = (
        attacked(form(steps=6, step_size=0.05), "l2", network, images, labels) for form in (MomentumFGSM, Transfer)
    )
    assert (Transfer.access, Transfer.transfers) == ("black-box", True)
    fell = network(left).argmax(1) != labels
    inner = torch.arange(60) >= 20  # at the border the box takes part of every step
    distance = ThreatModel("l2", 1.0).distance
    further = distance(stayed, images) > distance(left, images) + 1e-4
    assert int((fell & inner).sum()) > 5
    assert int(further[fell & inner].sum()) > 0.8 * int((fell & inner).sum())
    assert torch.allclose(left[~fell], stayed[~fell], atol=1e-6)


def test_checkpoints_and_radii_are_those_of_the_papers():
    hundred = windows(100)
    assert [next(hundred) for _ in range(9)] == [22, 19, 16, 13, 10, 7, 6, 6, 6]
    assert radii("linf", 100) == radii("l2", 100) == [(1.0, 100)]
    assert radii("l1", 100) == [(3.0, 30), (2.0, 30), (1.0, 40)]
    for steps in range(1, 60):
        parts = radii("l1", steps)
        assert sum(number for _, number in parts) == steps
        assert parts[-1][0] == 1.0
        assert all(number >= 1 for _, number in parts)
        assert next(windows(steps)) >= 1


class Peak(nn.Module):
    """Two classes; the lead of the right one, class 0, is 1 plus the squared distance to one point, steep and flat."""

    def __init__(self, peak):
        super().__init__()
        self.peak = peak
        self.slopes = torch.linspace(1.0, 30.0, peak.numel())

    def forward(self, images):
        lead = 1 + ((images.flatten(1) - self.peak.flatten()) ** 2 * self.slopes).sum(1)
        return torch.stack([lead, torch.zeros_like(lead)], dim=1)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.3), ("l2", 0.6), ("l1", 1.5)])
def test_steps_shrink_so_that_a_peak_inside_the_ball_is_met(norm, epsilon):
    clean = torch.full((8, 1, 3, 3), 0.5)
    peak = 0.5 + 0.05 * torch.tensor([1.0, -1, 1, 1, -1, 1, -1, -1, 1]).view(1, 3, 3)
    network, labels, threat = Peak(peak), torch.zeros(8, dtype=torch.int64), ThreatModel(norm, epsilon)
    draws = draws_of(8)

    def height(attack):
        """(8,), how far the attack stays below the peak, at its highest image."""
        return network(attack.build(threat).perturbed(network, clean, labels, threat, draws).detach())[:, 0] - 1

    short, long = (height(AutoPGDCrossEntropy(steps)) for steps in (10, 100))
    fixed = height(PGD(100, epsilon / 4))
    assert bool((long < 0.1 * fixed).all())
    assert float(long.mean()) < 0.5 * float(short.mean())


class Flickering(nn.Module):
    """Linear, with a large term added to the gradient at every other pass and taken off at the others."""

    def __init__(self):
        super().__init__()
        self.sign = 1.0
        with seeded(5, "flickering"):
            self.weight, self.noise = torch.randn(16), 50 * torch.randn(16)

    def forward(self, images):
        self.sign = -self.sign
        pixels = images.flatten(1) - 0.5
        margin = 0.5 + pixels @ self.weight
        noise = (pixels - pixels.detach()) @ self.noise  # 0, and has a gradient
        return torch.stack([margin + self.sign * noise, torch.zeros_like(margin)], dim=1)


def test_gradients_are_averaged_over_passes():
    images, labels = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    network = Flickering()
    # just beyond the distance to the boundary: nearly every pixel must go the right way
    threat = ThreatModel("linf", 1.02 * 0.5 / float(network.weight.abs().sum()))
    draws = draws_of(4)
    fell = {}
    for samples in (1, 2, 4):
        found = AutoPGDCrossEntropy(20, eot_samples=samples).perturbed(network, images, labels, threat, draws)
        fell[samples] = int((network(found).argmax(1) != labels).sum())
    assert fell == {1: 0, 2: 4, 4: 4}
    assert AutoPGDCrossEntropy(10, eot_samples=4).evaluations(10) == 4 * 13


def test_target_classes_are_the_likeliest_wrong_ones_in_turn():
    """A target that no other loss looks at: class 3 is last of the clean logits, and the only one to be reached."""

    class Hidden(nn.Module):
        def forward(self, images):
            brightness = images.flatten(1).mean(1)
            ones = torch.ones_like(brightness)
            return torch.stack([3 * ones, 2.9 - 0 * ones, 2.8 * ones, 40 * (brightness - 0.5)], dim=1)

    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    threat, draws = ThreatModel("linf", 0.1), draws_of(3)
    network = Hidden()
    two, three = (
        (network(AutoPGDTargeted(10, target_classes=number).perturbed(
            network, images, labels, threat, draws
        )).argmax(1) != labels).sum().item()
        for number in (2, 3)
    )  # fmt: skip
    assert (two, three) == (0, 3)
    # those there are, if more are asked for
    many = AutoPGDTargeted(10, target_classes=50).perturbed(network, images, labels, threat, draws)
    assert bool((network(many).argmax(1) == 3).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_starts_are_in_ball_and_box_and_each_image_has_its_own(norm):
    clean = torch.full((400, 1, 4, 4), 0.5)
    threat = ThreatModel(norm, 0.3)
    draws = draws_of(400)
    for start in (inside, far):
        images = start(clean, threat, draws)
        sizes = threat.distance(images, clean)
        assert float(sizes.max()) <= threat.epsilon + 1e-6
        assert torch.equal(start(clean[5:9], threat, draws.at(torch.arange(5, 9))), images[5:9])
        assert len(images.flatten(1).unique(dim=0)) > 200  # in l1 some lie at the same corner of the ball
        # means of 400 draws: a pixel's deviation is at most epsilon, so this is 3 standard errors and more
        assert float((images - clean).mean(dim=0).abs().max()) < 0.15 * threat.epsilon
    assert float(far(clean, threat, draws).sub(clean).abs().amax()) > 0
    assert float(threat.distance(far(clean, threat, draws), clean).min()) > 0.999 * threat.epsilon
    # uniform in a ball of 16 dimensions: half lie beyond the radius of half the volume
    beyond = (threat.distance(inside(clean, threat, draws), clean) > threat.epsilon * 0.5 ** (1 / 16)).float().mean()
    assert 0.4 < float(beyond) < 0.6
