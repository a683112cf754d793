"""FAB: exact on linear networks in every norm, never below the nearest, and an image's result is its own."""

import math

import pytest
import torch

from robustnas.attack import predict
from robustnas.threat import NORMS, ORDER, ThreatModel
from robustnas_plugins.attacks import fab as module
from robustnas_plugins.attacks.fab import FAB, FABT
from robustnas_plugins.attacks.hyperplane import nearest_step
from support.attacked_networks import Linear, around_grey, draws_of, wavy
from support.exact_distances import exact_distances, exact_step


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("gap", [-2.0, -0.3, 0.0, 0.5, 3.0])
def test_the_step_to_a_hyperplane_is_the_shortest_inside_the_box(norm, gap):
    generator = torch.Generator().manual_seed(0)
    images, normals = torch.rand(40, 12, generator=generator), torch.randn(40, 12, generator=generator)
    images[:, ::4], images[:, 1::5], normals[:, 3] = 0.0, 1.0, 0.0
    steps = nearest_step(norm)(images, normals, torch.full((40,), gap))
    after = images + steps
    assert float(after.min()) >= -1e-6
    assert float(after.max()) <= 1 + 1e-6
    assert bool((steps[:, 3] == 0).all())
    reached = (steps * normals).sum(dim=1)
    slopes = normals * (1 if gap >= 0 else -1)
    exact = torch.tensor(
        [
            exact_step(image, slope, abs(gap), norm)
            for image, slope in zip(images.double().tolist(), (slopes.double() + 1e-300).tolist(), strict=True)
        ]
    )
    meets = exact.isfinite()
    assert int(meets.sum()) > 20
    torch.testing.assert_close(reached[meets], torch.full_like(reached[meets], gap), atol=1e-4, rtol=0)
    size = steps.double().norm(p=ORDER[norm], dim=1)
    torch.testing.assert_close(size[meets], exact.double()[meets], atol=1e-4, rtol=1e-4)
    # where the box is too small for the gap, everything that helps is done
    best = torch.where(slopes > 0, 1 - images, -images)
    torch.testing.assert_close(steps[~meets], torch.where(normals != 0, best, 0.0)[~meets], atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gap_without_a_slope_is_left(norm):
    steps = nearest_step(norm)(torch.rand(3, 5), torch.zeros(3, 5), torch.tensor([1.0, 0.0, -1.0]))
    assert bool((steps == 0).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.1, 0.5], ids=["box far", "box near"])
@pytest.mark.parametrize("targeted", [True, False], ids=["targeted", "untargeted"])
def test_on_a_linear_network_the_nearest_image_is_found(norm, classes, spread, targeted):
    network, images = Linear(classes, seed=classes, least=0.0), around_grey(30, spread)
    labels = predict(network, images)
    plugin = FABT(steps=12) if targeted else FAB(steps=12)
    threat = ThreatModel(norm, 0.1)
    found = plugin.build(threat).nearest(network, images, labels, draws_of(len(images)))
    exact = exact_distances(network, images, labels, norm)
    possible = exact.isfinite()
    assert int(possible.sum()) >= 25
    assert torch.equal(predict(network, found) != labels, possible)
    assert torch.equal(found[~possible], images[~possible])
    size = (found - images).double().flatten(1).norm(p=ORDER[norm], dim=1)
    assert bool((size >= exact * (1 - 1e-5))[possible].all())  # nothing is nearer than the nearest
    assert bool((size <= exact * 1.01 + 1e-5)[possible].all())
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", [FABT, FAB], ids=["targeted", "untargeted"])
def test_target_classes_one_after_the_other_find_what_all_at_once_do(norm, form, monkeypatch):
    network, images, labels = wavy(count=20, shape=(1, 3, 3))
    attack = form(steps=8, restarts=2).build(ThreatModel(norm, 0.1))
    together = attack.nearest(network, images, labels, draws_of(len(images)))
    assert bool((predict(network, together) != labels).any())
    monkeypatch.setattr(module, "VALUES", 1)  # one class at a time
    alone = attack.nearest(network, images, labels, draws_of(len(images)))
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_more_classes_and_more_restarts_never_find_less(norm):
    network, images, labels = wavy(count=20, shape=(1, 3, 3))
    tried = []
    for target_classes, restarts in ((1, 1), (4, 1), (4, 4)):
        plugin = FABT(steps=10, restarts=restarts, target_classes=target_classes)
        found = plugin.build(ThreatModel(norm, 0.1)).nearest(network, images, labels, draws_of(len(images)))
        size = ThreatModel(norm, 0.0).distance(found, images)
        tried.append(torch.where(predict(network, found) != labels, size, math.inf))
    one, all_classes, often = tried
    # the final search ends at slightly different places of the boundary
    assert bool((all_classes <= one * 1.01).all())
    assert bool((often <= all_classes * 1.01).all())
    assert float(all_classes.sum()) < float(one.sum())
