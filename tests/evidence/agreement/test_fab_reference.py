"""FAB against the reference implementation: the same share stands at a radius, the same distances are found."""

from __future__ import annotations

import time

import pytest
import torch

from robustnas.attack.network import Counted
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.fab import FAB, FABT
from robustnas_plugins.attacks.hyperplane import nearest_step

pytestmark = pytest.mark.slow

fab = pytest.importorskip("pyautoattack.fab_pt", reason="the reference implementation, pyautoattack, is not installed")
projections = pytest.importorskip(
    "pyautoattack.fab_projections", reason="the reference implementation, pyautoattack, is not installed"
)

RADII = {"linf": 0.15, "l2": 0.6, "l1": 1.3}
THEIRS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
STEPS = 60


def reference(network, images, labels, threat, targets, epsilon):
    """What the reference finds; images that it fooled within epsilon do not go on to the next class."""
    options = {"n_iter": STEPS, "eps": epsilon, "targeted": bool(targets), "n_target_classes": targets, "seed": 0}
    with torch.random.fork_rng():
        return fab.FABAttack_PT(network, norm=THEIRS[threat.norm], device="cpu", **options).perturb(images, labels)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_way_to_a_hyperplane_is_the_same(norm):
    generator = torch.Generator().manual_seed(0)
    images, normals = torch.rand(200, 30, generator=generator), torch.randn(200, 30, generator=generator)
    images[:, ::3] = 0.0
    gaps = 3 * torch.randn(200, generator=generator)
    theirs = getattr(projections, f"projection_{norm}")(images, normals, gaps + (images * normals).sum(dim=1))
    torch.testing.assert_close(nearest_step(norm)(images, normals, gaps), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targets", [9, 0], ids=["targeted", "untargeted"])
def test_the_same_is_found_as_by_the_reference(subject, norm, targets):
    images, labels, threat = subject.images, subject.labels, ThreatModel(norm, RADII[norm])
    plugin = FABT(STEPS, target_classes=targets) if targets else FAB(STEPS)
    counted, started = Counted(subject.network), time.perf_counter()
    draws = PerImageRandom.of_images(0, "agreement", torch.arange(len(images)))
    found = plugin.build(threat).nearest(counted, images, labels, draws)
    sizes = threat.distance(found, images)
    assert bool((subject.network(found).argmax(1) != labels).all())
    standing = int((sizes > threat.epsilon).sum())
    seconds = time.perf_counter() - started
    print(f"{norm} {targets} ours: {standing} stand, {counted.images} evaluations, {seconds:.2f} s")

    counted, started = Counted(subject.network), time.perf_counter()
    theirs = threat.project(reference(counted, images, labels, threat, targets, threat.epsilon), images)
    theirs_standing = int((subject.network(theirs).argmax(1) == labels).sum())
    seconds = time.perf_counter() - started
    print(f"{norm} {targets} reference: {theirs_standing} stand, {counted.images} evaluations, {seconds:.2f} s")
    assert 0.1 * len(images) < theirs_standing < 0.95 * len(images), "the radius tells nothing"
    assert abs(standing - theirs_standing) <= 1 + 0.02 * len(images)

    # with a radius that holds everything it stops at the first class, whose boundary it finds as near as ours
    first = reference(subject.network, images, labels, threat, 1 if targets else 0, 1e9)
    one = FABT(STEPS, target_classes=1) if targets else FAB(STEPS)
    own = one.build(threat).nearest(subject.network, images, labels, draws)
    near, nearest = threat.distance(own, images), threat.distance(first, images)
    print(f"{norm} {targets}: median distance {float(near.median()):.4f}, reference {float(nearest.median()):.4f}")
    assert float(near.median()) == pytest.approx(float(nearest.median()), rel=0.02)
    assert float((near <= 1.02 * nearest).float().mean()) >= 0.9
