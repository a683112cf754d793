"""Metrics that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import nn

from robustnas.errors import OptionError
from robustnas.testing import ConformanceError, check_metric
from support.kept_promises import Doubled, Noisy, Slope, wrong


def as_it_is(score):
    return score


def nothing(network, images, labels):
    """What a metric that keeps its promises does to its arguments."""


@frozen
class Changed(Slope):
    """A metric whose score becomes another, or that does something to its arguments before or after."""

    becomes: Callable = as_it_is
    before: Callable = nothing
    after: Callable = nothing

    def score(self, network, images, labels, threat):
        self.before(network, images, labels)
        score = self.becomes(super().score(network, images, labels, threat))
        self.after(network, images, labels)
        return score


@frozen
class ChangedInner(Noisy):
    """An inner loss before which something is done to the supernet."""

    before: Callable = field(kw_only=True)

    def inner_loss(self, supernet, images, labels, threat, context):
        self.before(supernet)
        return super().inner_loss(supernet, images, labels, threat, context)


class WrongSign(Slope):
    def score(self, network, images, labels, threat):
        return -super().score(network, images, labels, threat)


class WeightsOnly(Slope):
    """Blind to the mixing weights' gradient although its value depends on them."""

    def score(self, network, images, labels, threat):
        if not hasattr(network, "alpha"):
            return super().score(network, images, labels, threat)
        mixing = {name: one.detach() for name, one in network.mixing().items()}
        return super().score(lambda pixels: network(pixels, mixing), images, labels, threat)


def move_statistics(network, images, labels):
    network.train()
    with torch.no_grad():
        network(images)
    network.eval()


class UnseededDraw(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) * (1 + random.random())


class LinfOnly(Slope):
    def score(self, network, images, labels, threat):
        if threat.norm != "linf":
            raise OptionError("linf only")
        return super().score(network, images, labels, threat)


@frozen
class NoMethod:
    """Has none of the three."""


@frozen
class NeedsOption:
    """Cannot be made with defaults."""

    steps: int = field()


class VectorLoss(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        return F.cross_entropy(supernet(images), labels, reduction="none")


class OwnNoise(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        noise = torch.from_numpy(np.random.randn(*images.shape).astype(np.float32))
        return context.loss(supernet(images + 0.1 * noise), labels)


def replace_alpha(supernet):
    supernet.edges = nn.Parameter(supernet.edges.detach().clone())


class OuterGradients(Doubled):
    def outer_loss(self, supernet, images, labels, threat, context):
        context.loss(supernet(images), labels).backward()
        return super().outer_loss(supernet, images, labels, threat, context)


class BlindToAlpha(Doubled):
    def outer_loss(self, supernet, images, labels, threat, context):
        mixing = {name: one.detach() for name, one in supernet.mixing().items()}
        return context.loss(supernet(images, mixing), labels)


class Together(Slope):
    """The least of all images' scores, for each of them, without a gradient."""

    differentiable = False
    of_batch = True

    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat).detach()
        return -score.min() * torch.ones(len(score))  # grows with epsilon, as it may


class Refuses(Slope):
    def check(self, shape, classes, threat):
        if shape[0] != 3:
            raise OptionError("colour images only")


def frozen_weight(network, images, labels):
    next(network.parameters()).requires_grad_(False)


WRONG = {
    "sign": (WrongSign, "score does not grow with epsilon"),
    "depends on the first": (Changed(lambda score: score - score[0]), "depends on that image alone"),
    "mean of the batch": (Changed(lambda score: score / len(score)), "depends on that image alone"),
    # at random, so it cannot be compared with single images; depends on the batch all the same
    "sampled": (Changed(lambda score: score * torch.rand(len(score)) - score.mean()), "depends on that image alone"),
    "detached": (Changed(torch.Tensor.detach), "score is differentiable in the weights"),
    "weights only": (WeightsOnly, "score is differentiable in alpha"),
    "constant": (Changed(lambda score: torch.ones(len(score))), "depends on the network's weights or on alpha"),
    "constant, though without a gradient": (
        wrong(Together, score=lambda self, network, images, *given: torch.ones(len(images))),
        "depends on the network's weights or on alpha",
    ),
    "a number an image of a batch": (wrong(Slope, of_batch=True), "of_batch gives all images of a batch one number"),
    "the first image's": (
        wrong(Together, score=lambda self, *given: Slope().score(*given)[:1].expand(len(given[1]))),
        "of_batch gives all images of a batch one number",
    ),
    "trains": (Changed(after=lambda network, *_: network.train()), "leaves the mode of the network"),
    "moves statistics": (Changed(after=move_statistics), "leaves the buffers of the network"),
    "accumulates": (
        Changed(before=lambda network, images, labels: F.cross_entropy(network(images), labels).backward()),
        "leaves the gradients of the network",
    ),
    "clears gradients": (
        Changed(before=lambda network, *_: network.zero_grad()),
        "leaves the gradients of the network",
    ),
    "freezes": (Changed(after=frozen_weight), "leaves requires_grad of the network"),
    "hooked": (
        Changed(before=lambda network, *_: network.register_forward_hook(lambda *_: None)),
        "leaves the hooks of the network",
    ),
    "not a number": (Changed(lambda score: score * float("nan")), "score is finite"),
    "scalar": (Changed(torch.Tensor.mean), r"shape \(N,\)"),
    "unseeded draw": (UnseededDraw, "score is repeatable"),
    "dirties images": (Changed(after=lambda network, images, labels: images.add_(0.1)), "score leaves the images"),
    "one norm": (LinfOnly, r"score works for every norm it is checked for\n.*linf only \(for a supernet under l2"),
    "no method": (NoMethod, "at least one of score, inner_loss, outer_loss"),
    "needs an option": (NeedsOption, "is made with default options"),
    "vector loss": (VectorLoss, "inner_loss is a scalar"),
    "own noise": (OwnNoise, "same value when the generator is in the same state"),
    "leaves eval": (ChangedInner(before=nn.Module.eval), "leaves the mode of the supernet"),
    "leaves alpha moved": (
        ChangedInner(before=lambda supernet: supernet.edges.detach().add_(0.1)),
        "leaves the weights of the supernet",
    ),
    "replaces alpha": (ChangedInner(before=replace_alpha), "leaves the identity of the weights of the supernet"),
    "outer gradients": (OuterGradients, "leaves the gradients of the supernet"),
    "blind to alpha": (BlindToAlpha, "outer_loss is differentiable in alpha"),
    "answers": (wrong(Slope, check=lambda self, shape, classes, threat: classes > 1), "check returns nothing"),
    "refuses": (Refuses, r"check lets pass .*\n.*colour images only.*\n.* give it options and norms that suit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_metric_is_caught(what):
    plugin, promise = WRONG[what]
    norms = ("l2",) if what == "one norm" else ("linf",)
    with pytest.raises(ConformanceError, match=promise) as caught:
        check_metric(plugin, norms=norms)
    assert getattr(plugin, "__name__", type(plugin).__name__) in str(caught.value)


def test_a_metric_of_one_norm_says_so():
    check_metric(LinfOnly(), norms=("linf",))


def test_a_score_of_the_batch_without_a_gradient_is_held_to_what_it_says():
    tried = check_metric(Together)
    assert "of_batch gives all images of a batch one number, whatever their order" in tried
    assert not [one for one in tried if "differentiable" in one or "epsilon" in one or "alone" in one]
    with pytest.raises(ConformanceError, match="differentiable in the weights"):
        check_metric(wrong(Together, differentiable=True), norms=("linf",))
    with pytest.raises(ConformanceError, match="depends on that image alone"):
        check_metric(wrong(Together, of_batch=False), norms=("linf",))
