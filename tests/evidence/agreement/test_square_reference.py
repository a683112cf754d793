"""Square against the reference implementation: as many images stand, over a few seeds of both."""

from __future__ import annotations

import time

import pytest
import torch

from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.square import Square

pytestmark = pytest.mark.slow

square = pytest.importorskip(
    "pyautoattack.square", reason="the reference implementation, pyautoattack, is not installed"
)

RADII = {"linf": 0.15, "l2": 0.7, "l1": 2.5}
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
QUERIES = 600
SEEDS = 3


def ours(network, images, labels, threat, seed, variant="reference"):
    attack = Square(queries=QUERIES, variant=variant).build(threat)
    draws = PerImageRandom.of_images(seed, "agreement", torch.arange(len(images)))
    return attack.perturbed(network, images, labels, threat, draws)


def per_sample(network, images, labels, threat, seed):
    return ours(network, images, labels, threat, seed, "per-sample")


def reference(network, images, labels, threat, seed):
    options = {"n_queries": QUERIES, "eps": threat.epsilon, "seed": seed, "device": "cpu"}
    with torch.random.fork_rng():
        return square.SquareAttack(network, norm=THEIRS[threat.norm], **options).perturb(images, labels)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_as_many_images_stand_as_under_the_reference(subject, norm):
    images, labels, threat = subject.images, subject.labels, ThreatModel(norm, RADII[norm])
    standing = {}
    for attack in (ours, reference, per_sample):
        counted, left = Counted(subject.network), []
        started = time.perf_counter()
        for seed in range(SEEDS):
            found = threat.project(attack(counted, images, labels, threat, seed), images)
            left.append(int((subject.network(found).argmax(1) == labels).sum()))
        seconds = time.perf_counter() - started
        standing[attack] = sum(left) / SEEDS
        # `pytest -rP` shows it
        print(f"{norm} {attack.__name__}: {left} stand, {counted.images} evaluations, {seconds:.2f} s")
    assert 0.1 * len(images) < standing[reference] < 0.95 * len(images), "the radius tells nothing"
    assert abs(standing[ours] - standing[reference]) <= 1 + 0.04 * len(images)
    # its squares reach the whole image
    assert standing[per_sample] < standing[ours]
