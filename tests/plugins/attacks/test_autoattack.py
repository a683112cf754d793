"""AutoAttack: the parts of the reference in its order, and a verdict that is the union of theirs."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.foolbox_attack import InTurn, NearestAttack
from robustnas.attack.network import Counted
from robustnas.errors import RunError
from robustnas.run.evaluation import _left_out
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy
from robustnas_plugins.attacks.autoattack import VERSIONS, AutoAttack
from support.attacked_networks import draws_of, wavy

RADII = {"linf": 0.12, "l2": 0.5, "l1": 1.2}


def subject(classes=5, count=30):
    """A small network with several wrong ways, images it is right on, and their draws."""
    return *wavy(classes, count, (1, 5, 5), gain=2.0), draws_of(count)


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("standard", ["apgd-ce", "apgd-t", "fab-t", "square"]),
        ("plus", ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]),
        ("rand", ["apgd-ce", "apgd-dlr"]),
    ],
)
def test_the_parts_are_the_references_in_its_order(version, names):
    for norm in NORMS:
        attack = AutoAttack(version).build(ThreatModel(norm, 0.1))
        assert isinstance(attack, InTurn)
        assert list(attack.parts) == names
        assert {part.norm for part in attack.parts.values()} == {norm}
        five = version == "plus" or (version == "standard" and norm == "l1")
        assert attack.parts["apgd-ce"].restarts == (5 if five else 1)
        assert attack.parts["apgd-ce"].steps == 100
        assert attack.parts["apgd-ce"].eot_samples == (20 if version == "rand" else 1)
        if "apgd-t" in names:
            sparse = version == "standard" and norm == "l1"
            assert attack.parts["apgd-t"].target_classes == (5 if sparse else 9)
        if "fab-t" in names:
            assert (attack.parts["fab-t"].target_classes, attack.parts["fab-t"].restarts) == (9, 1)
        if "fab" in names:
            assert (attack.parts["fab"].target_classes, attack.parts["fab"].restarts) == (None, 5)
        if "square" in names:
            assert (attack.parts["square"].queries, attack.parts["square"].rescaled) == (5000, False)


class Detached(nn.Module):
    """A network whose answers have no gradient, one way or another."""

    def __init__(self, network, how):
        super().__init__()
        self.network, self.how = network, how

    def forward(self, images):
        return self.how(self.network(images))


def decided(logits):
    return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float()


@pytest.mark.parametrize("how", [torch.Tensor.detach, decided, lambda logits: logits.round()])
def test_without_gradients_the_parts_that_need_none_are_run_and_the_others_are_named(how):
    plain, images, _, _ = subject()
    network, threat = Detached(plain, how), ThreatModel("linf", RADII["linf"])
    labels = predict(network, images)
    needs_them = network(images.requires_grad_()).requires_grad  # rounded answers have a gradient, which is 0
    units = {}
    record = evaluate(
        network,
        images.detach(),
        labels,
        AutoAttack(steps=3, queries=60).build(threat),
        threat,
        Conditions(report=lambda done, total, unit, **figures: units.setdefault(unit, done)),
    )
    names = ("apgd-ce", "apgd-t", "fab-t", "square")
    assert record.parts == (names if needs_them else names[3:])
    assert record.left_out == (() if needs_them else names[:3])
    assert list(units) == [f"{name} image" for name in record.parts]
    assert record.success.any()
    flags = _left_out(SimpleNamespace(label="aa"), record)
    assert [flag.name for flag in flags] == [] if needs_them else ["zero-gradients"]
    if not needs_them:
        assert "apgd-ce, apgd-t, fab-t of aa follow them: only square was run" in flags[0].text
        with pytest.raises(
            RunError, match=r"attack AutoPGDCrossEntropy follows gradients, and the logits do not depend on the images"
        ):
            evaluate(network, images.detach(), labels, AutoPGDCrossEntropy(3).build(threat), threat)


def test_squares_variant_and_budgets_are_handed_on():
    parts = AutoAttack("plus", "reference", steps=7, queries=9).build(ThreatModel("l2", 0.1)).parts
    assert parts["square"].variant == "reference"
    assert parts["square"].queries == 9
    assert {part.steps for name, part in parts.items() if name != "square"} == {7}
    assert AutoAttack().build(ThreatModel("l2", 0.1)).parts["square"].variant == "per-sample"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_verdict_is_the_union_of_the_parts_on_every_image(norm, version):
    network, images, labels, draws = subject()
    threat = ThreatModel(norm, RADII[norm] / 2)
    attack = AutoAttack(version, steps=6, queries=40).build(threat)
    found = attack.perturbed(network, images, labels, threat, draws)
    assert float(threat.distance(found, images).max()) <= threat.epsilon + 1e-6
    verdict = predict(network, found) != labels
    union = torch.zeros_like(verdict)
    for name, part in attack.parts.items():
        own = draws.of(name)
        if isinstance(part, NearestAttack):
            proposed = part.nearest(network, images, labels, own)
        else:
            proposed = part.perturbed(network, images, labels, threat, own)
        union |= predict(network, threat.project(proposed, images)) != labels
    assert torch.equal(verdict, union)
    assert 0 < int(verdict.sum()) < len(images)


def test_an_images_result_depends_on_that_image_alone():
    network, images, labels, draws = subject()
    threat = ThreatModel("linf", RADII["linf"] / 2)
    attack = AutoAttack(steps=5, queries=30).build(threat)
    together = attack.perturbed(network, images, labels, threat, draws)
    chosen = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:11]
    some = attack.perturbed(network, images[chosen], labels[chosen], threat, draws.at(chosen))
    torch.testing.assert_close(some, together[chosen], atol=1e-4, rtol=0)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_few_classes_are_enough(classes, norm, version):
    network, images, labels, draws = subject(classes, count=12)
    threat = ThreatModel(norm, 2 * RADII[norm])
    attack = AutoAttack(version, steps=4, queries=10)
    counted = Counted(network)
    found = attack.build(threat).perturbed(counted, images, labels, threat, draws)
    assert bool((predict(network, found) != labels).any())
    assert 0 < counted.images <= attack.evaluations(classes) * len(images)


def test_an_image_that_stands_costs_what_is_announced():
    network, images, labels, draws = subject(count=6)
    threat = ThreatModel("linf", 1e-6)
    attack, counted = AutoAttack(steps=6, queries=20), Counted(network)
    found = attack.build(threat).perturbed(counted, images, labels, threat, draws)
    assert bool((predict(network, found) == labels).all())
    announced = attack.evaluations(5) * len(images)
    assert 0.7 * announced <= counted.images <= announced
