"""Randomised smoothing: its bounds against closed forms, its radii against those of a linear network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm
from torch import nn

from robustnas.certify.smoothing import Smoothed, certify, lower_bound
from robustnas.data.images import InMemory, Streamed
from robustnas.data.selection import first
from robustnas.errors import DataError, DeviceError, InputError, RunError
from robustnas.runtime import interrupt
from robustnas.runtime.processes import Processes

CPU = torch.device("cpu")
SETTINGS = {"sigma": 0.25, "samples": 200, "selection": 20, "alpha": 0.01, "batch": 64, "device": CPU, "seed": 0}


class Halfplane(nn.Module):
    """Two classes of a pixel pair: class 1 where w x > 0.5 |w|_1, so grey is the boundary."""

    def __init__(self, *weights: float):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        side = (images - 0.5).flatten(1) @ self.weights
        return torch.stack([-side, side], dim=1)

    def distance(self, images: torch.Tensor) -> torch.Tensor:
        """(N,), to the boundary in l_2; below 0 on the side of class 0."""
        return ((images - 0.5).flatten(1) @ self.weights / self.weights.norm()).detach()


def smoothed(network: nn.Module, images: Any, labels: torch.Tensor, **changed: Any) -> Smoothed:
    """Certificates by `SETTINGS`, but for what is changed."""
    return certify(network, images, labels, **(SETTINGS | changed))


def pairs(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 1, 2).contiguous()


def zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.int64)


def spread(count: int = 12) -> torch.Tensor:
    return torch.rand(count, 1, 1, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("samples", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.001, 0.2])
def test_all_successes_have_the_closed_form(samples, alpha):
    found = lower_bound(np.array([samples, 0]), samples, alpha)
    assert found[0] == pytest.approx(alpha ** (1 / samples), rel=1e-12)
    assert found[1] == 0
    # one success: 1 - (1 - p)^n = alpha
    if samples > 1:
        assert lower_bound(np.array([1]), samples, alpha)[0] == pytest.approx(
            -math.expm1(math.log1p(-alpha) / samples), rel=1e-9
        )


@pytest.mark.parametrize("count", [0, 1, 40, 99, 100])
def test_the_bound_is_the_one_of_clopper_and_pearson(count):
    expected = binomtest(count, 100, alternative="greater").proportion_ci(0.99, method="exact").low
    assert lower_bound(np.array([count]), 100, 0.01)[0] == pytest.approx(expected, rel=1e-6)


def test_radii_of_a_linear_network_approach_its_distance_to_the_boundary():
    """Under noise its probability is Phi(distance / sigma), so the exact radius is the distance."""
    network = Halfplane(3.0, -1.0)
    images = spread(40)
    distance = network.distance(images)
    found = smoothed(network, images, (distance > 0).long(), samples=4000, alpha=1e-4, batch=997)
    assert bool((found.radius <= distance.abs()).all())
    answered = found.prediction >= 0
    assert answered.sum() > 30
    assert torch.equal(found.prediction[answered], (distance[answered] > 0).long())
    # 4 standard deviations of the count below the mean, and 4 more by which the samples may be unlucky
    probability = torch.from_numpy(norm.cdf(distance.abs().double() / 0.25))
    low = (probability - 8 * (probability * (1 - probability) / 4000).sqrt() - 16 / 4000).clamp(1e-9, 1)
    assert bool((found.radius >= 0.25 * torch.from_numpy(norm.ppf(low)) - 1e-6).all())
    assert bool((found.radius[answered] > 0.75 * distance[answered].abs())[distance[answered].abs() > 0.1].all())


def test_more_noise_certifies_further():
    images, labels = pairs(1.0), torch.tensor([1])
    radii = [float(smoothed(Halfplane(1.0, 1.0), images, labels, sigma=sigma).radius) for sigma in (0.05, 0.1, 0.2)]
    # all samples are right: the bound is alpha^(1/n) whatever sigma is
    assert radii == pytest.approx([sigma * norm.ppf(0.01 ** (1 / 200)) for sigma in (0.05, 0.1, 0.2)], rel=1e-6)


def test_certificates_are_wrong_as_often_as_alpha_allows():
    """Many runs on one image: as many exceed the exact radius as the binomial distribution says, and alpha at most."""
    network, runs, alpha = Halfplane(1.0, 1.0), 3000, 0.1
    images = pairs(0.65).expand(runs, 1, 1, 2)
    exact = float(network.distance(images[:1]))
    changed = {"samples": 100, "selection": 60, "alpha": alpha, "batch": 30_000}
    found = smoothed(network, images, torch.ones(runs, dtype=torch.int64), **changed)
    violations = float((found.radius > exact).float().mean())
    probability = norm.cdf(exact / 0.25)
    bounds = lower_bound(np.arange(101), 100, alpha)
    least = int(np.argmax(bounds > probability))
    expected = binomtest(least, 100, probability, alternative="greater").pvalue
    assert 0.02 < expected <= alpha
    assert violations == pytest.approx(expected, abs=4 * math.sqrt(expected / runs))
    assert found.count.double().mean() == pytest.approx(100 * probability, abs=0.4)


def test_noise_is_not_clipped():
    """An image on the side of the box: clipped noise would see half the weight."""
    network = Halfplane(1.0, 1.0)
    images, labels = pairs(1.0), torch.tensor([1])
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    smoothed(network, images, labels)
    noisy = torch.cat(seen)
    assert len(noisy) == 220
    assert float(noisy.mean()) == pytest.approx(1.0, abs=0.06)
    assert float(noisy.std()) == pytest.approx(0.25, abs=0.03)
    assert len(noisy.unique()) == noisy.numel(), "samples share noise"


def test_it_abstains_on_the_boundary_and_answers_nothing_there():
    images = pairs(0.5, 1.0)
    found = smoothed(Halfplane(1.0, 1.0), images, torch.tensor([1, 1]))
    assert found.prediction.tolist() == [-1, 1]
    assert float(found.radius[0]) == 0
    assert 60 < int(found.count[0]) < 140
    assert found.right.tolist() == [False, True]


def test_the_radius_is_of_the_class_predicted_and_certified_is_of_the_right_one():
    images = pairs(0.0, 1.0, 0.0)
    found = smoothed(Halfplane(1.0, 1.0), images, torch.tensor([0, 0, 1]))
    assert found.prediction.tolist() == [0, 1, 0]
    assert bool((found.radius > 0).all())
    assert (found.certified > 0).tolist() == [True, False, False]
    assert found.certified[0] == found.radius[0]
    assert found.samples == 200
    assert found.evaluations == 3 * 220


@pytest.mark.parametrize("batch", [1, 7, 20, 1000])
def test_the_batch_does_not_matter(batch):
    network, images = Halfplane(2.0, 1.0), spread(6)
    changed = {"samples": 30, "selection": 4, "alpha": 0.1}
    one = smoothed(network, images, zeros(6), **changed)
    other = smoothed(network, images, zeros(6), **(changed | {"batch": batch}))
    assert torch.equal(one.count, other.count)
    assert torch.equal(one.radius, other.radius)
    assert len(one.count.unique()) > 2


def test_neither_order_nor_company_matters_and_the_seed_does():
    network, images, labels = Halfplane(2.0, 1.0), spread(), zeros(12)
    whole = smoothed(network, images, labels)
    order = torch.tensor([7, 2, 11])
    part = smoothed(network, images[order], labels[order], indices=order)
    assert torch.equal(part.count, whole.count[order])
    assert torch.equal(part.radius, whole.radius[order])
    other = smoothed(network, images, labels, seed=1)
    assert not torch.equal(other.count, whole.count)


class Two(Processes):
    """One of two processes, where what both found is put together by the test."""

    def run_together(self, compute):
        return [compute()]


def test_processes_share_the_images():
    network, images, labels = Halfplane(2.0, 1.0), spread(5), zeros(5)
    whole = smoothed(network, images, labels)
    parts = [smoothed(network, images, labels, processes=Two(rank, 2)) for rank in (0, 1)]
    assert all((part.count == 0).sum() >= 2 for part in parts)
    assert torch.equal(parts[0].count + parts[1].count, whole.count)
    idle = smoothed(network, images[:1], labels[:1], processes=Two(1, 2))
    assert idle.count.tolist() == [0], "more processes than images"


def test_streamed_images_and_bytes_are_those_in_memory():
    network, labels = Halfplane(2.0, 1.0), zeros(5)
    pixels = (spread(5) * 255).to(torch.uint8)
    expected = smoothed(network, pixels, labels)
    for images in (Streamed(list(pixels), labels), InMemory(pixels, labels)):
        assert torch.equal(smoothed(network, first(images, 5), labels).radius, expected.radius)
    assert torch.equal(smoothed(network, pixels, labels[:3]).radius, expected.radius[:3])


def test_the_network_is_left_as_it_was_and_looked_at_in_eval_mode():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Dropout(0.9), nn.Linear(2, 2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = spread(4)
    one, two = (smoothed(network, images, zeros(4)) for _ in range(2))
    assert torch.equal(one.count, two.count)
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_progress_is_told():
    told: list[tuple[int, int, str, float]] = []
    images, labels = pairs(1.0, 0.0, 1.0), torch.tensor([1, 1, 1])
    smoothed(
        Halfplane(1.0, 1.0),
        images,
        labels,
        report=lambda done, total, unit, **figures: told.append((done, total, unit, figures["certified"])),
        batch=20,
    )
    assert told == [(1, 3, "image", 1.0), (2, 3, "image", 0.5), (3, 3, "image", pytest.approx(2 / 3))]


def test_it_stops_between_batches_when_asked(monkeypatch):
    passed = 0

    def check() -> None:
        nonlocal passed
        passed += 1
        if passed == 3:
            raise interrupt.Interrupted

    monkeypatch.setattr(interrupt, "check", check)
    with pytest.raises(interrupt.Interrupted):
        smoothed(Halfplane(1.0, 1.0), pairs(1.0), torch.tensor([1]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": 0.0}, "sigma 0.0 is no standard deviation"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": float("nan")}, "sigma nan"),
        ({"sigma": float("inf")}, "sigma inf"),
        ({"samples": 0}, "samples 0 is not a number"),
        ({"selection": 0}, "selection 0 is not a number"),
        ({"alpha": 0.0}, "alpha 0.0 is not between 0 and 1"),
        ({"alpha": 1.0}, "alpha"),
        ({"batch": 0}, "batch 0"),
        ({"samples": 6}, "6 samples can certify no image at alpha 0.01, .*; at least 7 would do"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        smoothed(Halfplane(1.0, 1.0), pairs(1.0), torch.tensor([1]), **changed)


def test_as_few_samples_as_the_message_says_can_certify():
    found = smoothed(Halfplane(1.0, 1.0), pairs(1.0), torch.tensor([1]), samples=7, sigma=0.01)
    assert float(found.radius) > 0


@pytest.mark.parametrize(
    ("images", "labels", "indices", "message"),
    [
        (pairs(1.0), torch.tensor([1.0]), None, "labels must be int64"),
        (pairs(1.0), torch.tensor([[1]]), None, "labels must be int64"),
        (pairs(1.0), torch.tensor([1, 1]), None, "one for each of the first images of 1"),
        (pairs(1.0), zeros(0), None, "0 labels"),
        (pairs(1.0), torch.tensor([1]), torch.tensor([-1]), "indices"),
        (pairs(1.0), torch.tensor([1]), torch.tensor([1, 2]), "indices"),
        (pairs(1.5), torch.tensor([1]), None, r"\[0, 1\]"),
        (Streamed(list(pairs(0.0, 2.0)), zeros(2)), zeros(2), None, r"image 1 has pixels outside \[0, 1\]"),
    ],
)
def test_what_is_not_labelled_images_is_refused(images, labels, indices, message):
    with pytest.raises(DataError, match=message):
        smoothed(Halfplane(1.0, 1.0), images, labels, indices=indices)


def test_a_network_that_lives_elsewhere_is_refused():
    with pytest.raises(DeviceError, match="the network is on meta"):
        smoothed(Halfplane(1.0, 1.0).to("meta"), pairs(1.0), torch.tensor([1]))


def test_logits_that_are_not_finite_name_the_image():
    class Broken(Halfplane):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) / (images.flatten(1).mean(dim=1, keepdim=True) < 1.5)

    images, changed = pairs(0.0, 1.0), {"samples": 20_000, "batch": 4000}
    with pytest.raises(RunError, match=r"image 1 under noise of sigma 0.25 are not finite"):
        smoothed(Broken(1.0, 1.0), images, zeros(2), **changed)
