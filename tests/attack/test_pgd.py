"""Projected gradient descent for training and search."""

import functools

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import nn

from robustnas.attack.pgd import ascend, pgd, pushes, random_image
from robustnas.threat import NORMS, ThreatModel
from support.networks import TinySupernet, batch

THREATS = [ThreatModel("linf", "16/255"), ThreatModel("l2", 0.5), ThreatModel("l1", 3)]


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


SLOPE = torch.tensor([1.0, -2.0, 0.5, -0.1])


@pytest.mark.parametrize(
    ("norm", "epsilon", "steps", "expected", "atol"),
    [
        ("linf", 0.1, 12, 0.5 - 0.1 * SLOPE.sign(), 1e-5),
        ("l2", 0.1, 60, 0.5 - 0.1 * SLOPE / SLOPE.norm(), 2e-3),
        # in l_1 pixel after pixel is filled, the steepest first
        ("l1", 0.1, 40, [0.5, 0.6, 0.5, 0.5], 1e-5),
        ("l1", 0.7, 40, [0.3, 1.0, 0.5, 0.5], 1e-5),
        ("l1", 1.2, 40, [0.0, 1.0, 0.3, 0.5], 1e-5),
        ("l1", 5.0, 40, [0.0, 1.0, 0.0, 1.0], 1e-5),
    ],
)
def test_on_a_linear_network_it_finds_the_corner(norm, epsilon, steps, expected, atol):
    """f(x) = [w.x, -w.x]: the loss of class 0 is highest where w.x is lowest in ball and box."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    net[1].weight.data = torch.stack([SLOPE, -SLOPE])
    images, labels = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.long)
    loss = functools.partial(F.cross_entropy, target=labels)
    found = pgd(net, images, loss, ThreatModel(norm, epsilon), steps=steps, generator=generator())
    corner = torch.as_tensor(expected).view(1, 1, 2, 2).expand(3, -1, -1, -1)
    torch.testing.assert_close(found, corner, atol=atol, rtol=0)


def test_the_l1_step_is_the_best_linear_change_of_its_length_in_the_box():
    """Against the linear program it is."""
    torch.manual_seed(0)
    images, gradient = torch.rand(5, 1, 2, 3, dtype=torch.float64), torch.randn(5, 1, 2, 3, dtype=torch.float64)
    images[0, 0, 0] = torch.tensor([0.0, 1.0, 1.0])
    gradient[1, 0, 1, 2] = 0.0
    for length in (0.05, 0.8, 2.0, 9.0):
        found = (images + pushes(images, gradient, length)).clamp(0, 1)
        assert ThreatModel("l1", length).distance(found, images).max() <= length + 1e-12
        for slope, image, moved in zip(gradient, images, found, strict=True):
            # rises and falls of pixels apart, each at least 0
            best = linprog(
                torch.cat([-slope.flatten(), slope.flatten()]).tolist(),
                A_ub=[[1.0] * 12],
                b_ub=[length],
                bounds=[(0, float(1 - x)) for x in image.flatten()] + [(0, float(x)) for x in image.flatten()],
            )
            assert (slope * (moved - image)).sum().item() == pytest.approx(-best.fun, abs=1e-9)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_random_start_fills_the_ball(threat):
    images = torch.full((400, 1, 3, 3), 0.5)
    small = ThreatModel(threat.norm, 0.1)
    start = pgd(nn.Flatten(), images, torch.sum, small, steps=0, generator=generator())
    distance = small.distance(start, images) / small.epsilon
    # In 9 dimensions the share of the ball within half its radius is 1/512, of an l_inf ball too.
    assert distance.max() <= 1 + 1e-5
    assert 0.85 < distance.mean() < 0.95  # 9/10 for the uniform distribution, in every norm
    assert (start - images).mean().abs() < 0.01
    other = pgd(nn.Flatten(), images, torch.sum, small, steps=0, generator=generator(1))
    assert not torch.equal(start, other)
    assert torch.equal(start, pgd(nn.Flatten(), images, torch.sum, small, steps=0, generator=generator()))


def test_the_random_start_in_l1_has_the_marginals_of_the_uniform_distribution():
    """|x_i| / epsilon is distributed as Beta(1, d): mean 1 / (d + 1), mean square 2 / (d + 1)(d + 2)."""
    images = torch.full((4000, 1, 2, 2), 0.5)
    share = (random_image(images, ThreatModel("l1", 0.4), generator()) - images).flatten(1) / 0.4
    torch.testing.assert_close(share.abs().mean(dim=0), torch.full((4,), 1 / 5), atol=0.01, rtol=0)
    torch.testing.assert_close(share.square().mean(dim=0), torch.full((4,), 2 / 30), atol=0.005, rtol=0)
    torch.testing.assert_close((share > 0).float().mean(dim=0), torch.full((4,), 0.5), atol=0.03, rtol=0)


def test_without_a_random_start_it_begins_at_the_clean_image():
    images = torch.rand(3, 1, 2, 2)
    walked = 0
    for norm in NORMS:
        options = {"threat": ThreatModel(norm, 0.2), "steps": 0, "generator": generator()}
        assert torch.equal(ascend(torch.sum, images, **options, noise=0.0), images)
        assert not torch.equal(ascend(torch.sum, images, **options), images)
        walked += 1
    assert walked == 3


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

    loss = functools.partial(F.cross_entropy, target=labels, reduction="none")
    own, other = (pgd(network, x, loss, THREATS[1], steps=3, generator=generator()) for x in (images, changed))
    torch.testing.assert_close(own[1:], other[1:])


def test_a_flat_loss_and_a_ball_of_radius_zero_are_fine():
    images = torch.rand(4, 1, 2, 2)
    for norm in NORMS:
        flat = pgd(nn.Flatten(), images, lambda z: 0 * z, ThreatModel(norm, 0.1), steps=3, generator=generator())
        assert flat.isfinite().all()
        same = pgd(nn.Flatten(), images, torch.sum, ThreatModel(norm, 0.0), steps=3, generator=generator())
        torch.testing.assert_close(same, images)


def test_the_step_size_is_honoured():
    images = torch.full((2, 1, 2, 2), 0.5)
    for norm in NORMS:
        threat = ThreatModel(norm, 0.4)
        start = pgd(nn.Flatten(), images, torch.sum, threat, steps=0, generator=generator())
        moved = pgd(nn.Flatten(), images, torch.sum, threat, steps=1, step_size=0.001, generator=generator())
        torch.testing.assert_close(threat.distance(moved, start), torch.full((2,), 0.001), atol=1e-6, rtol=0)
        default = pgd(nn.Flatten(), images, torch.sum, threat, steps=1, generator=generator())
        spelled = pgd(nn.Flatten(), images, torch.sum, threat, steps=1, step_size=0.1, generator=generator())
        assert torch.equal(default, spelled)
