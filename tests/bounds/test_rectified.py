"""A state that several rectify has one pair of lines; intervals before rectifiers are noted where somebody asks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.bounds import margins
from robustnas.bounds.rectified import rectified
from robustnas.threat import ThreatModel
from support.networks import convolutional

IMAGES, LABELS = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
THREAT = ThreatModel("linf", 0.1)


def test_they_are_those_of_interval_arithmetic_and_have_its_graph():
    network = convolutional((1, 4, 4), 3)
    for method in ("ibp", "crown-ibp"):
        with rectified() as seen:
            margins(network, IMAGES, LABELS, THREAT, method)
        ((centre, radius),) = seen
        lower, upper = (IMAGES - 0.1).clamp_min(0), (IMAGES + 0.1).clamp_max(1)
        layer = network[0]
        torch.testing.assert_close(centre, layer((lower + upper) / 2))
        torch.testing.assert_close(radius, F.conv2d((upper - lower) / 2, layer.weight.abs(), padding=1))
        assert torch.autograd.grad(radius.sum(), layer.weight)[0].abs().sum() > 0


class Twice(nn.Module):
    """One state that two branches rectify, and a second state."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x.flatten(1))
        return F.leaky_relu(self.two(F.relu(x) + x.relu()), 0.1)


def test_a_state_that_several_rectify_is_noted_once():
    with rectified() as seen:
        margins(Twice().eval(), IMAGES, LABELS, THREAT, "ibp")
    assert [centre.shape for centre, _ in seen] == [(3, 5), (3, 3)]


def test_passes_outside_are_not_noted_and_an_inner_block_has_its_own():
    network = convolutional((1, 4, 4), 3)
    with rectified() as outer:
        with rectified() as inner:
            margins(network, IMAGES, LABELS, THREAT, "ibp")
        assert (len(outer), len(inner)) == (0, 1)
        margins(network, IMAGES, LABELS, THREAT, "ibp")
    margins(network, IMAGES, LABELS, THREAT, "ibp")
    assert (len(outer), len(inner)) == (1, 1)


class Cancelled(nn.Module):
    """Adds to the logits what is 0 wherever both branches rectify the same."""

    def __init__(self, first, second) -> None:
        super().__init__()
        self.one, self.two, self.first, self.second = nn.Linear(16, 5), nn.Linear(5, 3), first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.one(x.flatten(1))
        return self.two(self.first(state) - self.second(state))


@pytest.mark.parametrize("method", ["crown-ibp", "crown", "alpha-crown"])
def test_linear_bounds_see_the_sum_of_what_reaches_one_state(method):
    network = Cancelled(F.relu, lambda state: F.relu(state, inplace=False)).eval()
    bias = network.two.bias
    found = margins(network, IMAGES, LABELS, THREAT, method)
    exact = torch.stack([bias[label] - torch.cat([bias[:label], bias[label + 1 :]]) for label in LABELS.tolist()])
    torch.testing.assert_close(found, exact)
    assert (margins(network, IMAGES, LABELS, THREAT, "ibp") < found).all()


def _raised(state: torch.Tensor) -> torch.Tensor:
    result = F.relu(state)
    result += 1.0
    return result


def _overwritten(state: torch.Tensor) -> torch.Tensor:
    state = state + 0.0
    F.relu_(state)
    state -= 0.25
    return F.relu(state)


@pytest.mark.parametrize(("first", "second"), [(_raised, F.relu), (F.relu, _overwritten), (_overwritten, _raised)])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_what_is_written_into_one_branch_does_not_reach_the_other(first, second, method):
    network = Cancelled(first, second).eval()
    found = margins(network, IMAGES, LABELS, THREAT, method)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        disturbed = (IMAGES + 0.1 * (2 * torch.rand(IMAGES.shape, generator=generator) - 1)).clamp(0, 1)
        logits = network(disturbed)
        for image, label in enumerate(LABELS.tolist()):
            others = torch.cat([logits[image, :label], logits[image, label + 1 :]])
            assert (logits[image, label] - others >= found[image] - 1e-5).all()
