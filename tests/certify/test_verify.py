"""Verification: every image is proved, refuted by an image that is there, or open; never two of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustnas import certify
from robustnas.bounds import Branching
from robustnas.certify import verdicts
from robustnas.certify.settings import Certify
from robustnas.plan.stages import Seed
from robustnas.table.rows import SeedResult, row
from robustnas.threat import NORMS, ThreatModel

EPSILONS = {"linf": 0.2, "l2": 0.55, "l1": 1.2}


def network() -> nn.Sequential:
    """In training mode, with batch norm and dropout, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 2), nn.ReLU(), nn.Dropout(),
            nn.Flatten(), nn.Linear(6, 3),
        )  # fmt: skip
        for parameter in net.parameters():
            parameter.data.mul_(2.0)
    return net


IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("norm", NORMS)
def test_each_image_is_proved_or_refuted_and_alpha_crown_proves_fewer(norm: str):
    net, threat = network(), ThreatModel(norm, EPSILONS[norm])
    labels = net.eval()(IMAGES).argmax(1)
    net.train()
    found = certify.verify(net, IMAGES, labels, threat, Branching(parts=300, seconds=1e9), batch=8)
    assert net.training
    assert all(module.training for module in net.modules())
    assert not (found.certified & found.refuted).any()
    decided = int((found.certified | found.refuted).sum())
    assert decided >= {"linf": 12, "l2": 11, "l1": 9}[norm]
    net.eval().double()
    wrong = net(found.witnesses.double()).argmax(1) != labels
    assert torch.equal(wrong, found.refuted)
    assert (threat.distance(found.witnesses, IMAGES) <= threat.epsilon * (1 + 1e-6)).all()
    alpha = (certify.margins(net.float(), IMAGES, labels, threat, "alpha-crown") > 0).all(1)
    assert not (alpha & ~found.certified).any()
    assert int(alpha.sum()) < int(found.certified.sum())


def test_what_is_wrong_when_clean_is_refuted_by_itself_and_costs_nothing():
    net, threat = network().eval(), ThreatModel("linf", 0.05)
    labels = (net(IMAGES).argmax(1) + 1) % 3
    found = certify.verify(net, IMAGES, labels, threat, Branching(parts=1, seconds=1e9))
    assert found.refuted.all()
    assert not found.certified.any()
    torch.testing.assert_close(found.witnesses.float(), IMAGES)


def test_without_a_budget_it_is_open_and_not_refuted():
    net, threat = network().eval(), ThreatModel("linf", 0.2)
    labels = net(IMAGES).argmax(1)
    some, all_of_it = (
        certify.verify(net, IMAGES, labels, threat, Branching(parts=n, steps=0, seconds=1e9)) for n in (1, 300)
    )
    left = ~some.certified & ~some.refuted
    assert left.any()
    assert not (some.certified & ~all_of_it.certified).any()
    assert torch.equal(
        certify.margins(net, IMAGES, labels, threat, Branching(parts=1, steps=0, seconds=1e9)), some.margins
    )
    assert int((~all_of_it.certified & ~all_of_it.refuted).sum()) < int(left.sum())


def test_the_table_counts_broken_and_open_of_the_images_that_were_verified():
    found = verdicts.broken(
        [], torch.tensor([True, False, True, True]).numpy(), [False, False, True], ThreatModel("linf", 0.1)
    )
    assert found == [False, True, True]
    assert verdicts.broken([], torch.tensor([True]).numpy(), None, ThreatModel("linf", 0.1)) is None
    result = SeedResult(Seed(0), certified=[True, False, False], broken=[False, True, False])
    made = row("m", [result], [])
    assert [made[key]["mean"] for key in ("certified", "broken", "open")] == pytest.approx([1 / 3] * 3)
    bounds_alone = row("m", [SeedResult(Seed(0), certified=[True])], [])
    assert bounds_alone["broken"] is bounds_alone["open"] is None


def test_a_budget_belongs_to_bab():
    assert Certify(method="bab").budget == {"seconds": 30.0, "parts": 100_000}
    assert Certify(method="bab", seconds=2, parts=5).budget == {"seconds": 2, "parts": 5}
    assert Certify(method="bab").of_radii == "alpha-crown"
    assert Certify(method="bab", radius_method="ibp").of_radii == "ibp"
    assert Certify(method="crown").budget == {}
    for option in ("seconds", "parts"):
        with pytest.raises(ValueError, match="but method crown-ibp has no budget; method: bab would do"):
            Certify(**{option: 3})
