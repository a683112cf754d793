"""Projected gradient descent for training and search."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.perturb import pgd
from robustnas.threat import ThreatModel
from tiny_supernet import TinySupernet, batch

THREATS = [ThreatModel("linf", "16/255"), ThreatModel("l2", 0.5)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TinySupernet()


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("mean", [True, False])
def test_images_are_admissible_and_the_loss_rises(network, threat, mean):
    images, labels = batch()

    def loss(logits):
        each = F.cross_entropy(logits, labels, reduction="none")
        return each.mean() if mean else each

    found = pgd(network, images, loss, threat, steps=10, generator=generator())
    assert not found.requires_grad
    assert threat.distance(found, images).max() <= threat.epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    network.eval()
    clean, raised = F.cross_entropy(network(images), labels), F.cross_entropy(network(found), labels)
    start = pgd(network, images, loss, threat, steps=0, generator=generator())
    assert raised > max(clean, F.cross_entropy(network(start), labels)) + 1e-3


def test_on_a_linear_network_it_finds_the_corner():
    """f(x) = [w.x, -w.x]: the loss of class 0 is highest at x - epsilon sign(w), inside the box."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    w = torch.tensor([1.0, -2.0, 0.5, -0.1])
    net[1].weight.data = torch.stack([w, -w])
    images = torch.full((3, 1, 2, 2), 0.5)
    labels = torch.zeros(3, dtype=torch.long)
    found = pgd(
        net,
        images,
        lambda logits: F.cross_entropy(logits, labels),
        ThreatModel("linf", 0.1),
        steps=12,
        generator=generator(),
    )
    torch.testing.assert_close(found, images - 0.1 * w.sign().view(1, 1, 2, 2))
    found = pgd(
        net,
        images,
        lambda logits: F.cross_entropy(logits, labels),
        ThreatModel("l2", 0.1),
        steps=60,
        generator=generator(),
    )
    torch.testing.assert_close(found, images - 0.1 * (w / w.norm()).view(1, 1, 2, 2), atol=2e-3, rtol=0)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_random_start_fills_the_ball(threat):
    images = torch.full((400, 1, 3, 3), 0.5)
    small = ThreatModel(threat.norm, 0.1)
    start = pgd(nn.Flatten(), images, torch.sum, small, steps=0, generator=generator())
    distance = small.distance(start, images) / small.epsilon
    # In 9 dimensions the share of the ball within half its radius is 1/512, of an l_inf ball too.
    assert distance.max() <= 1 + 1e-5
    assert 0.85 < distance.mean() < 0.95  # 9/10 for the uniform distribution, in both norms
    assert (start - images).mean().abs() < 0.01
    other = pgd(nn.Flatten(), images, torch.sum, small, steps=0, generator=generator(1))
    assert not torch.equal(start, other)
    assert torch.equal(start, pgd(nn.Flatten(), images, torch.sum, small, steps=0, generator=generator()))


def test_the_network_is_left_as_it_was(network):
    images, labels = batch()
    network.train()
    network.edges[0].eval()
    for parameter in network.stem.parameters():
        parameter.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():  # a caller may have gradients switched off
        pgd(network, images, lambda z: F.cross_entropy(z, labels), THREATS[0], steps=2, generator=generator())
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [p.requires_grad for p in network.stem.parameters()] == [False] * 4
    assert not images.requires_grad


def test_an_image_is_perturbed_on_its_own(network):
    """The sum of per-image losses mixes nothing: changing image 0 leaves the others' perturbation alone."""
    images, labels = batch()
    changed = torch.cat([1 - images[:1], images[1:]])

    def attack(x):
        return pgd(
            network,
            x,
            lambda z: F.cross_entropy(z, labels, reduction="none"),
            THREATS[1],
            steps=3,
            generator=generator(),
        )

    torch.testing.assert_close(attack(images)[1:], attack(changed)[1:])


def test_a_flat_loss_and_a_ball_of_radius_zero_are_fine():
    images = torch.rand(4, 1, 2, 2)
    for norm in ("linf", "l2"):
        flat = pgd(nn.Flatten(), images, lambda z: 0 * z, ThreatModel(norm, 0.1), steps=3, generator=generator())
        assert flat.isfinite().all()
        same = pgd(nn.Flatten(), images, torch.sum, ThreatModel(norm, 0.0), steps=3, generator=generator())
        torch.testing.assert_close(same, images)


def test_the_step_size_is_honoured():
    images = torch.full((2, 1, 2, 2), 0.5)
    for norm in ("linf", "l2"):
        threat = ThreatModel(norm, 0.4)
        start = pgd(nn.Flatten(), images, torch.sum, threat, steps=0, generator=generator())
        moved = pgd(nn.Flatten(), images, torch.sum, threat, steps=1, step_size=0.001, generator=generator())
        torch.testing.assert_close(threat.distance(moved, start), torch.full((2,), 0.001), atol=1e-6, rtol=0)
        default = pgd(nn.Flatten(), images, torch.sum, threat, steps=1, generator=generator())
        spelled = pgd(nn.Flatten(), images, torch.sum, threat, steps=1, step_size=0.1, generator=generator())
        assert torch.equal(default, spelled)
