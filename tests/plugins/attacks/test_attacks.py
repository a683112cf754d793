"""The attack plugins, against the exact distances to the boundaries of linear networks."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.errors import RunError
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy, AutoPGDLogitsRatio, AutoPGDTargeted
from robustnas_plugins.attacks.carlini_wagner import CarliniWagner
from robustnas_plugins.attacks.cw_linf import MarginPGD
from robustnas_plugins.attacks.deepfool import DeepFool
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.pgd import PGD
from support.attacked_networks import Linear, around_grey, wavy
from support.exact_distances import exact_distances

EVERY = ("linf", "l2", "l1")
BALLS = [
    pytest.param(attack, norm, id=f"{name} {norm}")
    for name, attack, norms in (
        ("fgsm", FGSM(), EVERY),
        ("pgd", PGD(steps=30, step_size=0.05), EVERY),
        ("pgd x 2", PGD(20, 0.05, restarts=2), EVERY),
        ("mi-fgsm", MomentumFGSM(30, 0.05), ("linf", "l2")),
        ("cw-linf", MarginPGD(30, 0.05), ("linf",)),
        # in l1 one start in forty stays in a corner of the box
        ("apgd-ce", AutoPGDCrossEntropy(30, restarts=3), EVERY),
        ("apgd-dlr", AutoPGDLogitsRatio(30, restarts=3), EVERY),
        ("apgd-t", AutoPGDTargeted(30, restarts=3), EVERY),
    )
    for norm in norms
]
"""Attacks inside a ball, in the norms they know."""


@pytest.mark.parametrize(("attack", "norm"), BALLS)
def test_two_linear_classes_flip_exactly_within_the_distance_to_the_boundary(norm, attack):
    network, images = Linear(), around_grey()
    labels = predict(network, images)
    distances = exact_distances(network, images, labels, norm)
    for share in (0.25, 0.5, 0.75):
        threat = ThreatModel(norm, float(distances.quantile(share)))
        clear = (distances - threat.epsilon).abs() > 1e-3 * threat.epsilon
        record = evaluate(network, images, labels, attack.build(threat), threat)
        assert torch.equal(record.success[clear], (distances < threat.epsilon)[clear])
        assert 0 < int(record.success.sum()) < len(images)
        assert float(record.distance.max()) <= threat.epsilon + 1e-6


@pytest.mark.parametrize(
    ("attack", "norm", "worst"),
    [
        (DeepFool(), "linf", 1.05),
        (DeepFool(), "l2", 1.05),
        (CarliniWagner(100, step_size=0.003, binary_search_steps=9), "l2", 2.0),
    ],
    ids=["deepfool linf", "deepfool l2", "cw l2"],
)
def test_attacks_that_minimise_find_the_nearest_boundary(attack, norm, worst):
    network, images = Linear(3), around_grey(12)
    labels = predict(network, images)
    exact = exact_distances(network, images, labels, norm)
    threat = ThreatModel(norm, float(exact.median()))
    record = evaluate(network, images, labels, attack.build(threat), threat)
    assert bool((record.found >= exact * (1 - 1e-4)).all())  # nothing is nearer than the nearest
    # DeepFool overshoots, and adds 1e-4 to every step; C&W's bisection of c ends early for a few images
    assert bool((record.found <= exact * worst + 1e-3).all())
    assert float((record.found <= exact * 1.05 + 1e-3).float().mean()) >= 0.75
    assert bool((record.success == (record.found <= threat.epsilon)).all())
    assert 0 < int(record.success.sum()) < 12


@pytest.mark.parametrize(
    ("norm", "epsilon", "steps", "step_size", "restarts"), [("linf", 0.05, 2, 0.05, 6), ("l1", 0.6, 12, 0.15, 4)]
)
def test_restarts_find_more_and_cost_less_than_running_everything_again(norm, epsilon, steps, step_size, restarts):
    network, images, labels = wavy(5, 120, (1, 3, 3), gain=6.0)
    threat = ThreatModel(norm, epsilon)
    step, once, often = (
        evaluate(network, images, labels, plugin.build(threat), threat, Conditions(label="one"))
        for plugin in (FGSM(), PGD(steps, step_size), PGD(steps, step_size, restarts=restarts))
    )
    assert bool((often.success | ~once.success).all())
    assert 0 < int(once.success.sum()) < int(often.success.sum())
    assert norm == "linf" or 0 < int(step.success.sum()) < int(once.success.sum())
    assert all(float(record.distance.max()) <= threat.epsilon + 1e-6 for record in (step, once, often))
    # a run costs its steps and one look at who still stands; the last is not looked at
    assert PGD(steps, step_size, restarts=restarts).evaluations(5) == restarts * (steps + 1) - 1
    assert step.evaluations == len(images)
    assert steps * int((~once.success).sum()) < once.evaluations <= steps * len(images)
    assert once.evaluations > len(images)
    assert norm == "linf" or once.evaluations < steps * len(images)
    assert often.evaluations < (restarts * (steps + 1) - 1) * len(images) - steps * int(once.success.sum())
    kept = once.success
    assert torch.equal(often.distance[kept], once.distance[kept])


def test_a_confident_attack_goes_further():
    network, images = Linear(), around_grey(8)
    labels = predict(network, images)
    threat = ThreatModel("l2", 2.0)
    plugins = (CarliniWagner(60, binary_search_steps=6, confidence=confidence) for confidence in (0.0, 0.3))
    near, far = (evaluate(network, images, labels, plugin.build(threat), threat).found for plugin in plugins)
    assert bool((far > near).all())


def test_in_l1_fgsm_may_take_its_gradient_at_a_random_image():
    network, images, labels = wavy(5, 120, (1, 3, 3), gain=6.0)
    threat = ThreatModel("l1", 0.6)
    clean, elsewhere, again = (
        evaluate(network, images, labels, FGSM(random_start=start).build(threat), threat, Conditions(label="fgsm"))
        for start in (False, True, True)
    )
    assert torch.equal(elsewhere.prediction, again.prediction)
    assert not torch.equal(elsewhere.prediction, clean.prediction)
    assert float(elsewhere.distance.max()) <= threat.epsilon + 1e-6


def test_foolbox_leaves_the_l1_ball_where_ours_stays_in():
    """Why its sparse attack is not offered; if this fails, foolbox has mended its projection."""
    foolbox = load_foolbox()
    with seeded(0, "outside"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(1200, 3))
        images = torch.rand(8, 3, 20, 20)
    threat, labels = ThreatModel("l1", 6), predict(network, images)
    theirs = foolbox.attacks.SparseL1DescentAttack(steps=20)
    with pytest.raises(RunError, match="outside the ball of l1 6"):
        evaluate(network, images, labels, theirs, threat)
    ours = evaluate(network, images, labels, PGD(steps=5, step_size=1.5).build(threat), threat)
    assert float(ours.distance.max()) <= 6


def test_foolbox_is_imported_without_a_warning_where_warnings_are_errors():
    code = "from robustnas.attack.foolbox_import import load_foolbox; load_foolbox().attacks.LinfPGD"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={"PATH": ""})
