"""Metrics that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import nn

from robustnas.errors import OptionError
from robustnas.testing import ConformanceError, check_metric
from support.kept_promises import Doubled, Noisy, Slope


class WrongSign(Slope):
    def score(self, network, images, labels, threat):
        return -super().score(network, images, labels, threat)


class BatchDependent(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        return score - score[0]


class BatchMean(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) / len(images)


class SampledBatchDependent(Slope):
    """PerImageRandom at random, so it cannot be compared with single images; depends on the batch all the same."""

    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        return score * torch.rand(len(score)) - score.mean()


class Detached(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat).detach()


class WeightsOnly(Slope):
    """Blind to the mixing weights' gradient although its value depends on them."""

    def score(self, network, images, labels, threat):
        if not hasattr(network, "alpha"):
            return super().score(network, images, labels, threat)
        mixing = {name: one.detach() for name, one in network.mixing().items()}
        return super().score(lambda pixels: network(pixels, mixing), images, labels, threat)


class Constant(Slope):
    def score(self, network, images, labels, threat):
        return torch.ones(len(images))


class Trains(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        network.train()
        return score


class MovesStatistics(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        network.train()
        with torch.no_grad():
            network(images)
        network.eval()
        return score


class Accumulates(Slope):
    def score(self, network, images, labels, threat):
        F.cross_entropy(network(images), labels).backward()
        return super().score(network, images, labels, threat)


class ClearsGradients(Slope):
    def score(self, network, images, labels, threat):
        network.zero_grad(set_to_none=True)
        return super().score(network, images, labels, threat)


class Freezes(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        next(network.parameters()).requires_grad_(False)
        return score


class Hooked(Slope):
    def score(self, network, images, labels, threat):
        network.register_forward_hook(lambda *_: None)
        return super().score(network, images, labels, threat)


class NotANumber(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) * float("nan")


class Scalar(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat).mean()


class UnseededDraw(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) * (1 + random.random())


class DirtiesImages(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        images.add_(0.1)
        return score


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


class LeavesEval(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        supernet.eval()
        return super().inner_loss(supernet, images, labels, threat, context)


class LeavesAlphaMoved(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        with torch.no_grad():
            supernet.alpha["edges"].add_(0.1)
        return super().inner_loss(supernet, images, labels, threat, context)


class ReplacesAlpha(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        supernet.edges = nn.Parameter(supernet.edges.detach().clone())
        return super().inner_loss(supernet, images, labels, threat, context)


class OuterGradients(Doubled):
    def outer_loss(self, supernet, images, labels, threat, context):
        context.loss(supernet(images), labels).backward()
        return super().outer_loss(supernet, images, labels, threat, context)


class BlindToAlpha(Doubled):
    def outer_loss(self, supernet, images, labels, threat, context):
        mixing = {name: one.detach() for name, one in supernet.mixing().items()}
        return context.loss(supernet(images, mixing), labels)


class Answers(Slope):
    def check(self, shape, classes, threat):
        return classes > 1


class Refuses(Slope):
    def check(self, shape, classes, threat):
        if shape[0] != 3:
            raise OptionError("colour images only")


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (WrongSign, "score does not grow with epsilon"),
        (BatchDependent, "depends on that image alone"),
        (BatchMean, "depends on that image alone"),
        (SampledBatchDependent, "depends on that image alone"),
        (Detached, "score is differentiable in the weights"),
        (WeightsOnly, "score is differentiable in alpha"),
        (Constant, "depends on the network's weights or on alpha"),
        (Trains, "leaves the mode of the network"),
        (MovesStatistics, "leaves the buffers of the network"),
        (Accumulates, "leaves the gradients of the network"),
        (ClearsGradients, "leaves the gradients of the network"),
        (Freezes, "leaves requires_grad of the network"),
        (Hooked, "leaves the hooks of the network"),
        (NotANumber, "score is finite"),
        (Scalar, r"shape \(N,\)"),
        (UnseededDraw, "score is repeatable"),
        (DirtiesImages, "score leaves the images"),
        (LinfOnly, "score works for a supernet under l2"),
        (NoMethod, "at least one of score, inner_loss, outer_loss"),
        (NeedsOption, "is made with default options"),
        (VectorLoss, "inner_loss is a scalar"),
        (OwnNoise, "same value when the generator is in the same state"),
        (LeavesEval, "leaves the mode of the supernet"),
        (LeavesAlphaMoved, "leaves the weights of the supernet"),
        (ReplacesAlpha, "leaves the identity of the weights of the supernet"),
        (OuterGradients, "leaves the gradients of the supernet"),
        (BlindToAlpha, "outer_loss is differentiable in alpha"),
        (Answers, "check returns nothing"),
        (Refuses, r"check lets pass images .*\n.* give it options and norms that suit"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_metric_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise) as caught:
        check_metric(plugin)
    assert plugin.__name__ in str(caught.value)


def test_a_metric_of_one_norm_says_so():
    check_metric(LinfOnly(), norms=("linf",))
