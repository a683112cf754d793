"""The threat model: which images are admissible, in every norm."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustnas.threat import DUAL_ORDER, NORMS, ThreatModel

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
SHAPE = (2, 4, 4)
SHARES = (0.0, 1e-6, 0.01, 0.3, 0.9, 2.0)
"""Radii as shares of the distance to the point that is projected."""


def exact_distance(images, clean, norm):
    """(N,) in float64."""
    return (images.double() - clean.double()).flatten(1).norm(p=ORDER[norm], dim=1)


def pairs(seed, spread, dtype=torch.float32, count=6):
    """Clean images, some with pixels on the border of the box, and others around them, some far outside."""
    generator = torch.Generator().manual_seed(seed)
    clean = (1.6 * torch.rand(count, *SHAPE, generator=generator, dtype=dtype) - 0.3).clamp(0, 1)
    return clean, clean + spread * torch.randn(count, *SHAPE, generator=generator, dtype=dtype)


def by_bisection(images, clean, epsilon):
    """The nearest point of l_1 ball and box: the least theta that brings the sum to epsilon, found by halving."""
    delta = (images - clean).double()
    room = torch.where(delta > 0, 1 - clean.double(), clean.double())

    def moved(theta):
        return torch.minimum((delta.abs() - theta.view(-1, 1, 1, 1)).clamp_min(0), room)

    low, high = torch.zeros(len(images)).double(), delta.abs().flatten(1).amax(1)
    for _ in range(80):
        middle = (low + high) / 2
        over = moved(middle).flatten(1).sum(1) > epsilon
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    inside = moved(torch.zeros_like(low)).flatten(1).sum(1) <= epsilon
    return clean.double() + delta.sign() * moved(torch.where(inside, 0.0, high))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10_000), st.sampled_from(NORMS), st.sampled_from(SHARES), st.sampled_from([0.01, 0.3, 3.0]))
def test_what_is_projected_is_admissible_and_stays_where_it_is(seed, norm, share, spread):
    clean, images = pairs(seed, spread)
    epsilon = share * float(exact_distance(images, clean, norm).median())
    threat = ThreatModel(norm, min(epsilon, 1.0) if norm == "linf" else epsilon)
    found = threat.project(images, clean)
    assert found.dtype == clean.dtype
    assert found.shape == clean.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert bool((exact_distance(found, clean, norm) <= threat.epsilon * (1 + 1e-6) + 1e-6).all())
    torch.testing.assert_close(threat.project(found, clean), found, atol=1e-6, rtol=0)
    if norm == "l1":  # without any tolerance
        assert bool((exact_distance(found, clean, norm) <= threat.epsilon * (1 + 1e-12)).all())
        assert torch.equal(threat.project(found, clean), found)
    # an image that is admissible is left alone
    near = threat.distance(images.clamp(0, 1), clean) <= threat.epsilon * (1 - 1e-6)
    torch.testing.assert_close(threat.project(images.clamp(0, 1), clean)[near], images.clamp(0, 1)[near])


def test_roundings_of_one_sign_do_not_add_up():
    """Thousands of equal pixels round alike: in float32 they would leave the ball by more than attacks may."""
    clean = torch.full((1, 3, 64, 64), 0.3)
    threat = ThreatModel("l1", 7.0)
    found = threat.project(clean + 0.5, clean)
    assert 7.0 - 1e-3 < exact_distance(found, clean, "l1") <= 7.0
    nearest = (clean.double() + 7.0 / clean.numel()).float()
    assert exact_distance(nearest, clean, "l1") > 7.0 + 1e-5


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from(SHARES), st.sampled_from([0.05, 0.5, 3.0]))
def test_in_l1_it_is_the_nearest_admissible_image(seed, share, spread):
    clean, images = pairs(seed, spread, torch.float64)
    threat = ThreatModel("l1", share * float(exact_distance(images, clean, "l1").median()))
    found = threat.project(images, clean)
    torch.testing.assert_close(found, by_bisection(images, clean, threat.epsilon), atol=1e-10, rtol=0)
    nearest = (found - images).flatten(1).norm(dim=1)
    others = [threat.project(clean + spread * torch.randn_like(clean), clean) for _ in range(20)]
    for other in others + [found + 0.1 * (other - found) for other in others]:
        assert bool(((other - images).flatten(1).norm(dim=1) >= nearest - 1e-9).all())


@pytest.mark.parametrize(
    ("clean", "image", "epsilon", "expected"),
    [
        ([0.5, 0.5, 0.5], [0.9, 0.7, 0.5], 0.4, [0.8, 0.6, 0.5]),  # theta 0.1
        ([0.5, 0.5, 0.5], [0.9, 0.4, 0.5], 0.2, [0.7, 0.5, 0.5]),  # theta 0.2, the second entry is dropped
        ([0.5, 0.5, 0.5], [0.7, 0.3, 0.7], 0.3, [0.6, 0.4, 0.6]),  # ties
        ([0.9, 0.5, 0.5], [3.0, 0.9, 0.5], 0.4, [1.0, 0.8, 0.5]),  # stops at the border, the rest goes elsewhere
        ([0.9, 0.5, 0.1], [3.0, 0.6, -2.0], 0.3, [1.0, 0.6, 0.0]),  # on the ball with nothing to shrink
        ([0.9, 0.5, 0.1], [3.0, 0.5, -2.0], 9.0, [1.0, 0.5, 0.0]),
        ([0.9, 0.5, 0.1], [3.0, 0.5, -2.0], 0.0, [0.9, 0.5, 0.1]),
        ([1.0, 0.0, 0.5], [2.0, -1.0, 0.9], 0.2, [1.0, 0.0, 0.7]),
    ],
)
def test_in_l1_worked_by_hand(clean, image, epsilon, expected):
    clean, image, expected = (torch.tensor(values).view(1, 1, 1, 3) for values in (clean, image, expected))
    torch.testing.assert_close(ThreatModel("l1", epsilon).project(image, clean), expected)


def test_each_ball_holds_the_next():
    clean, images = pairs(0, 0.2)
    threats = [ThreatModel(norm, 0.4) for norm in NORMS]
    assert len(threats) == 3
    for outer, inner in itertools.pairwise(threats):
        assert bool((outer.distance(images, clean) <= inner.distance(images, clean)).all())
        assert bool((outer.distance(inner.project(images, clean), clean) <= 0.4 + 1e-6).all())


def test_distances_and_dual_orders():
    clean = torch.zeros(2, 1, 1, 2)
    images = torch.tensor([[3.0, -4.0], [0.0, 0.5]]).view(2, 1, 1, 2)
    found = {norm: ThreatModel(norm, 0.1).distance(images, clean).tolist() for norm in NORMS}
    assert found == {"linf": [4.0, 0.5], "l2": [5.0, 0.5], "l1": [7.0, 0.5]}
    assert {norm: 1 / ORDER[norm] + 1 / DUAL_ORDER[norm] for norm in NORMS} == dict.fromkeys(NORMS, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_types_and_empty_batches_are_kept(norm, dtype):
    clean, images = (part.to(dtype) for part in pairs(1, 0.3))
    threat = ThreatModel(norm, 0.5)
    assert threat.project(images, clean).dtype == threat.distance(images, clean).dtype == dtype
    if norm == "l1":
        assert bool((exact_distance(threat.project(images, clean), clean, norm) <= 0.5 * (1 + 1e-12)).all())
        assert threat.project(images[:0], clean[:0]).shape == (0, *SHAPE)
        assert threat.distance(images[:0], clean[:0]).shape == (0,)


def test_epsilon_may_exceed_the_pixel_range_where_pixels_are_summed():
    assert str(ThreatModel("l1", 12)) == "l1 12"
    assert str(ThreatModel("l1", "8/255")) == "l1 8/255"
    assert str(ThreatModel("l2", 1.5)) == "l2 1.5"
    assert ThreatModel("linf", 1).epsilon == 1
    with pytest.raises(ValueError, match=r"at most 1, found 1\.5"):
        ThreatModel("linf", 1.5)
    for norm in NORMS:
        with pytest.raises(ValueError, match="at least 0, found -1"):
            ThreatModel(norm, -1)
    with pytest.raises(ValueError, match="l0"):
        ThreatModel("l0", 3)
