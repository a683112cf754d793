"""AutoAttack against the reference implementation: the standard version, whole, on the same network and images."""

from __future__ import annotations

import time

import pytest
import torch

from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.autoattack import AutoAttack

pytestmark = pytest.mark.slow

pyautoattack = pytest.importorskip(
    "pyautoattack", reason="the reference implementation, pyautoattack, is not installed"
)

RADII = {"linf": 0.15, "l2": 0.6, "l1": 1.2}
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
QUERIES = 1000
"""Of Square, in both: on this network it breaks nothing that the others left, and would take most of the time."""


def ours(network, images, labels, threat):
    attack = AutoAttack(square_variant="reference", queries=QUERIES).build(threat)
    draws = PerImageRandom.of_images(0, "agreement", torch.arange(len(images)))
    return attack.perturbed(network, images, labels, threat, draws)


def reference(network, images, labels, threat):
    with torch.random.fork_rng():
        attack = pyautoattack.AutoAttack(network, norm=THEIRS[threat.norm], eps=threat.epsilon, seed=0)
        attack.square.n_queries = QUERIES
        return attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
def test_as_many_images_stand_as_under_the_reference(subject, norm):
    images, labels, threat = subject.images, subject.labels, ThreatModel(norm, RADII[norm])
    standing = []
    for attack in (ours, reference):
        counted, started = Counted(subject.network), time.perf_counter()
        found = threat.project(attack(counted, images, labels, threat), images)
        standing.append(int((subject.network(found).argmax(1) == labels).sum()))
        seconds = time.perf_counter() - started
        # `pytest -rP` shows it
        print(f"{norm} {attack.__name__}: {standing[-1]} stand, {counted.images} evaluations, {seconds:.2f} s")
    assert 0.1 * len(images) < standing[1] < 0.95 * len(images), "the radius tells nothing"
    assert abs(standing[0] - standing[1]) <= 1 + 0.02 * len(images)
