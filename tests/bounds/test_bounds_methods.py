"""What the methods promise of each other, linear functions of the logits, and the l_1 ball."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from robustnas import bounds, certify
from robustnas.bounds import IBP, METHODS, AlphaCrown, Crown, CrownIBP, linear_bounds, margins
from robustnas.bounds.region import Region
from robustnas.threat import ThreatModel


def network(seed: int, leak: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(9, 12), nn.LeakyReLU(leak) if leak else nn.ReLU()]
    layers += [nn.Linear(12, 10), nn.LeakyReLU(leak) if leak else nn.ReLU(), nn.Linear(10, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 3)).eval().double()


def some_images(seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 1, 3, 3, dtype=torch.float64, generator=draw)
    images = torch.where(torch.rand(images.shape, generator=draw) < 0.3, images.round(), images)
    return images, torch.randint(0, 3, (3,), generator=draw)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.4), ("l1", 0.8)])
@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_tightness_grows_with_the_method_and_optimised_slopes_gain(norm: str, epsilon: float, leak: float):
    gained = 0
    for seed in range(2):
        net, (images, labels) = network(seed, leak), some_images(seed)
        found = [margins(net, images, labels, ThreatModel(norm, epsilon), method) for method in METHODS]
        assert len(found) == 4
        for looser, tighter in itertools.pairwise(found):
            assert (tighter >= looser).all()
        gained += int((found[3] > found[2] + 1e-6).sum())
    assert gained >= 6  # of 12 margins


@pytest.mark.parametrize("method", [IBP(), CrownIBP(), Crown(), AlphaCrown()], ids=METHODS)
def test_a_method_is_its_name_or_an_object(method: bounds.BoundMethod):
    net, (images, labels), threat = network(0), some_images(0), ThreatModel("linf", 0.1)
    with torch.no_grad():
        assert torch.equal(*(margins(net, images, labels, threat, asked) for asked in (method, method.name)))
        image, label = images[:1].float(), labels[:1]
        for certified in (certify.margins, lambda *case: certify.radius(*case[:3], "l2", case[4], tolerance=0.5)):
            found = [certified(net.float(), image, label, threat, asked) for asked in (method, method.name)]
            assert torch.equal(*found)
    with pytest.raises(AttributeError):
        method.steps = 3


def test_more_steps_of_ascent_never_lose_and_none_is_crown():
    net, (images, labels), threat = network(0), some_images(0), ThreatModel("linf", 0.1)
    with torch.no_grad():
        found = [margins(net, images, labels, threat, AlphaCrown(steps=steps)) for steps in (0, 3)]
        torch.testing.assert_close(found[0], margins(net, images, labels, threat, Crown()), rtol=0, atol=1e-12)
    assert (found[1] >= found[0]).all()
    assert (found[1] > found[0] + 1e-6).any()


def test_alpha_crown_keeps_a_graph_whose_value_is_its_bound():
    net, (images, labels) = network(0), some_images(0)
    threat = ThreatModel("linf", 0.1)
    bound = margins(net, images, labels, threat, "alpha-crown")
    with torch.no_grad():
        torch.testing.assert_close(margins(net, images, labels, threat, "alpha-crown"), bound)
    gradients = torch.autograd.grad(bound.sum(), list(net.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.abs().max() > 0 for gradient in gradients[:-1])


@pytest.mark.parametrize("method", METHODS)
def test_linear_bounds_of_margin_rows_are_margins_and_of_negated_rows_are_upper_bounds(method: str):
    net, (images, labels) = network(1), some_images(1)
    threat = ThreatModel("l2", 0.2)
    unit = torch.eye(3, dtype=torch.float64)
    others = torch.tensor([[j for j in range(3) if j != y] for y in labels.tolist()])
    rows = unit[labels][:, None] - unit[others]
    torch.testing.assert_close(
        linear_bounds(net, images, rows, threat, method), margins(net, images, labels, threat, method)
    )
    lower, upper = linear_bounds(net, images, unit, threat, method), -linear_bounds(net, images, -unit, threat, method)
    assert lower.shape == (3, 3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        noise = torch.randn(images.shape, dtype=images.dtype, generator=draw)
        noise = 0.2 * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        logits = net((images + noise).clamp(0, 1))
        assert (lower <= logits + 1e-9).all()
        assert (logits <= upper + 1e-9).all()
    mean = torch.full((1, 3), 1 / 3)
    torch.testing.assert_close(
        linear_bounds(net, images, mean, ThreatModel("linf", 0.0), method)[:, 0], net(images).mean(dim=1)
    )


def test_the_least_value_over_an_l1_ball_cut_by_the_box_is_that_of_a_linear_program():
    checked = 0
    for seed, epsilon in itertools.product(range(6), (0.05, 0.7, 3.0, 40.0)):
        images, _ = some_images(seed)
        slopes = torch.randn(2, *images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = Region(images, "l1", torch.full((3,), epsilon, dtype=torch.float64)).minimum(slopes)
        for row, index in itertools.product(range(2), range(3)):
            # x - x0 = up - down, both at least 0
            cost = slopes[row, index].flatten()
            clean = images[index].flatten()
            limits = [(0, float(1 - c)) for c in clean] + [(0, float(c)) for c in clean]
            program = linprog(
                torch.cat([cost, -cost]).numpy(), A_ub=torch.ones(1, 18).numpy(), b_ub=[epsilon], bounds=limits
            )
            assert found[row, index] == pytest.approx(program.fun, abs=1e-9)
            checked += 1
    assert checked == 144


def test_the_l1_minimum_has_the_gradient_of_the_program_and_the_multiplier_s_in_epsilon():
    images, _ = some_images(0)
    epsilon = torch.full((3,), 0.7, dtype=torch.float64, requires_grad=True)
    slopes = torch.randn(2, *images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert torch.autograd.gradcheck(
        lambda s, e: Region(images, "l1", e).minimum(s), (slopes.requires_grad_(), epsilon), atol=1e-6
    )
