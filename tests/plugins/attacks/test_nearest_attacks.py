"""Attacks that look for the nearest image that fools: DDN, FMN, the boundary attack and HopSkipJump.

Distances are held against exact ones, on linear networks and inside a ball, whose border is at a known distance from
each point in it.
"""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.network import Counted
from robustnas.runtime.seeding import seeded
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.boundary import Boundary
from robustnas_plugins.attacks.ddn import DDN
from robustnas_plugins.attacks.fmn import FMN
from robustnas_plugins.attacks.hopskipjump import SHORTER, HopSkipJump
from support.attacked_networks import Flat, Linear, around_grey, draws_of, proposed, wavy
from support.exact_distances import exact_distances

SHORT = {
    "ddn": DDN(steps=15),
    "fmn": FMN(steps=15),
    "boundary": Boundary(steps=25, sideways=0.1, inwards=0.1),
    "hopskipjump": HopSkipJump(steps=3, samples=20),
}
"""Each attack with few steps."""
DRAWS = Conditions(label="Jump")
"""The label is part of the seed, and how far the worst image of a dozen ends depends on what is drawn."""

KNOWN = {"ddn": ("l2",), "fmn": NORMS, "boundary": ("l2",), "hopskipjump": ("linf", "l2")}
EVERY = [pytest.param(name, norm, id=f"{name} {norm}") for name, norms in KNOWN.items() for norm in norms]
BLIND = [pytest.param(name, norm, id=f"{name} {norm}") for name in ("boundary", "hopskipjump") for norm in KNOWN[name]]
"""Those that see the predicted class only."""


def run(plugin: Any, norm: str, network: nn.Module, images: Tensor, labels: Tensor, chosen: Tensor | None = None):
    """What the attack finds for the images at `chosen`, all by default."""
    return proposed(plugin, ThreatModel(norm, 0.1), network, images, labels, chosen)


def size(norm: str, found: Tensor, images: Tensor) -> Tensor:
    """(N,) in float64."""
    return ThreatModel(norm, 0.0).distance(found.double(), images.double())


def assert_images(found: Tensor, images: Tensor) -> None:
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert bool(found.isfinite().all())
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("plugin", "norm", "median", "worst"),
    [
        # the worst is where an image ended at another class's boundary
        pytest.param(DDN(steps=100), "l2", 1.3, 3.0, id="ddn l2"),
        pytest.param(FMN(steps=100), "linf", 1.01, 1.4, id="fmn linf"),
        pytest.param(FMN(steps=100), "l2", 1.01, 1.4, id="fmn l2"),
        pytest.param(FMN(steps=100), "l1", 1.01, 1.4, id="fmn l1"),
        pytest.param(Boundary(steps=300, sideways=0.1, inwards=0.1), "l2", 1.06, 1.5, id="boundary l2"),
        pytest.param(HopSkipJump(steps=6, samples=30), "linf", 1.15, 1.5, id="hopskipjump linf"),
        pytest.param(HopSkipJump(steps=6, samples=30), "l2", 1.1, 3.0, id="hopskipjump l2"),
    ],
)
def test_on_a_linear_network_the_nearest_boundary_is_nearly_found(plugin, norm, median, worst, classes):
    network, images = Linear(classes), around_grey(12)
    labels = predict(network, images)
    exact = exact_distances(network, images, labels, norm)
    threat = ThreatModel(norm, float(exact.median()) * 1.1)
    record = evaluate(network, images, labels, plugin.build(threat), threat, DRAWS)
    share = record.found / exact
    assert bool((share >= 1 - 1e-4).all())  # nothing is nearer than the nearest
    assert float(share.median()) <= median
    assert float(share.max()) <= worst
    assert bool((record.success == (record.found <= threat.epsilon)).all())
    assert 0 < int(record.success.sum()) < 12
    assert 0 < record.evaluations <= plugin.evaluations(classes) * len(images)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_images_in_the_corners_of_the_box_are_attacked_inside_it(name, norm):
    network, images = Linear(3, seed=3, least=0.0), around_grey(20, 0.5).round()
    assert set(images.unique().tolist()) == {0.0, 1.0}
    labels = predict(network, images)
    exact = exact_distances(network, images, labels, norm)
    found = run(SHORT[name], norm, network, images, labels)
    assert_images(found, images)
    assert bool(exact.isfinite().all())
    assert bool((predict(network, found) != labels).all())
    share = size(norm, found, images) / exact
    assert bool((share >= 1 - 1e-4).all())
    assert float(share.median()) <= {"fmn": 1.01, "boundary": 3.0}.get(name, 1.4)


class Twins(nn.Module):
    """Logits of which the first two are one number; the first wins every tie."""

    def __init__(self):
        super().__init__()
        self.network = Linear(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[:, [0, 0, 1]]


class Saturated(nn.Module):
    """Decisions of a linear network whose logits have no slope that float32 can show."""

    def __init__(self):
        super().__init__()
        self.network = Linear(3)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return torch.tanh(1e6 * (logits - logits.detach().amax(dim=1, keepdim=True))) + 1e6


class Steep(Saturated):
    """Logits so large that the cross-entropy is 0, and its gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return 1e6 * self.network(images)


@pytest.mark.parametrize("subject", [Flat, Twins, Saturated, Steep])
@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_networks_without_slopes_leave_images_that_are_images(name, norm, subject):
    network = subject()
    images = torch.cat([around_grey(6), around_grey(4, 0.5).round(), torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)])
    labels = predict(network, images)
    found = run(SHORT[name], norm, network, images, labels)
    assert_images(found, images)
    if subject is Flat:
        assert torch.equal(found, images)
    elif name in ("boundary", "hopskipjump"):
        assert int((predict(network, found) != labels).sum()) >= 6  # decisions are enough


class Hard(nn.Module):
    """A network's decisions and nothing else."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images.detach())
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


@pytest.mark.parametrize(("name", "norm"), BLIND)
def test_decisions_are_all_that_a_blind_attack_sees(name, norm):
    network, images, labels = wavy(4, 20, (1, 3, 3))
    found = run(SHORT[name], norm, network, images, labels)
    assert int((predict(network, found) != labels).sum()) == len(images)
    assert torch.equal(run(SHORT[name], norm, Hard(network), images, labels), found)
    assert SHORT[name].access == SHORT[name].build(ThreatModel(norm, 0.1)).access == "black-box"


CENTRE, RADIUS = torch.tensor([0.3, 0.7] * 4 + [0.3]).view(1, 3, 3), 0.15


class Island(nn.Module):
    """Class 1 within a small l_2 ball that no guess meets, class 0 elsewhere; decided in float64."""

    def forward(self, images: Tensor) -> Tensor:
        away = (images.double() - CENTRE.double()).flatten(1).norm(dim=1)
        return torch.stack([away - RADIUS, RADIUS - away], dim=1).float()


def around_the_island() -> tuple[Tensor, Tensor]:
    """Images, and whether they are inside: from all others nothing that is tried as a start is fooled."""
    inside = CENTRE + 0.04 * (around_grey(6) - 0.5) / 0.1
    outside = 0.9 + (around_grey(5) - 0.5)
    images = torch.cat([inside, outside])[[0, 6, 1, 2, 7, 8, 3, 9, 4, 10, 5]]
    labels = predict(Island(), images)
    assert int(labels.sum()) == 6
    return images, labels == 1


@pytest.mark.parametrize(("name", "norm"), BLIND)
def test_an_image_without_a_start_stays_clean_and_leaves_the_others_as_they_are(name, norm):
    images, inside = around_the_island()
    labels = inside.long()
    together = run(SHORT[name], norm, Island(), images, labels)
    assert torch.equal(together[~inside], images[~inside])
    assert torch.equal(predict(Island(), together) != labels, inside)
    alone = run(SHORT[name], norm, Island(), images, labels, inside.nonzero().squeeze(1))
    torch.testing.assert_close(together[inside], alone, atol=1e-5, rtol=0)
    none = run(SHORT[name], norm, Island(), images, labels, (~inside).nonzero().squeeze(1))
    assert torch.equal(none, images[~inside])
    # and through the harness they stand
    record = evaluate(Island(), images, labels, SHORT[name].build(ThreatModel(norm, 0.9)), ThreatModel(norm, 0.9))
    assert torch.equal(record.success, inside)
    assert bool(record.found[~inside].isinf().all())


@pytest.mark.parametrize(
    ("plugin", "median"),
    [
        (FMN(steps=60), 1.001),
        (Boundary(steps=300, sideways=0.1, inwards=0.1), 1.2),
        (HopSkipJump(steps=10, samples=30), 1.25),
    ],
    ids=["fmn", "boundary", "hopskipjump"],
)
def test_from_inside_a_ball_its_border_is_found(plugin, median):
    images, inside = around_the_island()
    images = images[inside]
    exact = RADIUS - size("l2", images, CENTRE)
    assert float(exact.min()) > 0.01
    share = size("l2", run(plugin, "l2", Island(), images, torch.ones(6).long()), images) / exact
    assert bool((share >= 1 - 1e-4).all())
    assert float(share.median()) <= median


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_fmn_fools_black_and_white_images(norm):
    """Half of the gradient leads out of the box: followed nonetheless it takes half of the radius as well."""
    with seeded(0, "black and white"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(100, 60), nn.ReLU(), nn.Linear(60, 5)).requires_grad_(False)
        images = (torch.rand(50, 1, 10, 10) > 0.7).float()
    labels = predict(network, images)
    found = run(FMN(steps=40), norm, network, images, labels)
    assert int((predict(network, found) != labels).sum()) == 50
    assert int((predict(network, (images + (found - images) / 2)) != labels).sum()) == 0


@pytest.mark.parametrize(("name", "norm"), BLIND)
def test_more_steps_never_find_less(name, norm):
    network, images, labels = wavy(4, 20, (1, 3, 3))
    sizes = []
    for steps in (1, 3, 9, 27):
        plugin = attrs.evolve(SHORT[name], steps=steps)
        sizes.append(size(norm, run(plugin, norm, network, images, labels), images))
    for fewer, more in itertools.pairwise(sizes):
        assert bool((more <= fewer).all())
        assert float(more.mean()) < float(fewer.mean())


@pytest.mark.parametrize("name", ["fmn", "boundary", "hopskipjump"])
def test_random_numbers_are_those_of_the_image(name):
    """Nothing comes from a global generator, and nothing is taken from it; a flat network makes FMN draw too."""
    images, labels = around_grey(4), torch.zeros(4).long()
    network = Saturated()
    labels = predict(network, images)
    state = torch.random.get_rng_state()
    first = run(SHORT[name], "l2", network, images, labels)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(run(SHORT[name], "l2", network, images, labels), first)
    torch.random.set_rng_state(state)
    others = SHORT[name].build(ThreatModel("l2", 0.1)).nearest(network, images, labels, draws_of(4, seed=1))
    if name != "fmn":  # which need not have found anything
        assert not torch.equal(others, first)


def test_the_announced_cost_of_the_blind_attacks_is_nearly_spent():
    """An announcement that is far too high would put them behind attacks that cost more."""
    network, images, labels = wavy(4, 20, (1, 3, 3))
    counted = Counted(network)
    plugin = Boundary(steps=100, tries=1)
    run(plugin, "l2", counted, images, labels)
    begun = int((predict(network, 1 - images) != labels).sum())
    assert begun > 10
    assert counted.images == plugin.evaluations(5) * begun + len(images) - begun
    gradients = sum(HopSkipJump(samples=20, most_samples=30)._samples_of(jump) for jump in (1, 2, 3))
    assert gradients == 20 + 28 + 30
    small, large = HopSkipJump(steps=3, samples=20, most_samples=30), HopSkipJump(steps=3, samples=40, most_samples=60)
    assert large.evaluations(5) - small.evaluations(5) == gradients
    spent = []
    for plugin in (small, large):
        counted.images = 0
        run(plugin, "l2", counted, images, labels)
        spent.append(counted.images)
    assert gradients - 3 * SHORTER < (spent[1] - spent[0]) / len(images) < gradients + 3 * SHORTER
