"""Orders and regimes that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import itertools

import pytest
import torch
from attrs import evolve

from robustnas.contracts import TrainingLoss
from robustnas.errors import OptionError
from robustnas.search.hypergradient.first_order import FirstOrder
from robustnas.search.hypergradient.step import Hypergradient
from robustnas.testing import ConformanceError, check_order, check_regime
from robustnas.train.regimes.standard import Standard
from support.kept_promises import wrong


def giving(change):
    """An order whose hypergradient becomes another."""
    return wrong(FirstOrder, gradient=lambda self, step: change(FirstOrder.gradient(self, step)))()


def first_doing(something):
    """An order that does something else to its step first."""

    def gradient(self, step):
        something(step)
        return FirstOrder.gradient(self, step)

    return wrong(FirstOrder, gradient=gradient)()


def times(factor):
    """What multiplies the gradients of a hypergradient."""
    return lambda found: Hypergradient([factor() * one for one in found.gradients], found.validation)


def descend(step):
    """Moves w itself instead of looking ahead."""
    torch.autograd.backward(step.supernet(step.train[0].images).sum(), inputs=step.weights.parameters)
    step.w_optimizer.step()
    step.w_optimizer.zero_grad()


def rehearse(step):
    """Leaves the inner loss's generator where the rehearsal left it."""
    step.inner_gradient(step.weights.parameters)


class Everything(FirstOrder):
    def gradient(self, step):
        return step.outer_gradient([*step.alpha, *step.weights.parameters])


ORDERS = {
    "ascending": (giving(times(lambda: -1)), "that of the outer objective"),
    "bare": (giving(lambda found: found.gradients), "returns a Hypergradient"),
    "everything": (Everything(), "one tensor a table of alpha"),
    "stepping": (first_doing(descend), "leaves the weights of the supernet"),
    "rehearsing": (first_doing(rehearse), "generator of the inner loss is put back"),
    "wavering": (giving(times(itertools.count(1).__next__)), "repeatable given its draws"),
    "infinite": (giving(times(lambda: float("inf"))), "gradients are finite"),
}


@pytest.mark.parametrize("what", ORDERS)
def test_a_wrong_order_is_caught(what):
    order, promise = ORDERS[what]
    with pytest.raises(ConformanceError, match=promise):
        check_order(order)


def losing(change):
    """A regime whose loss becomes another."""

    def loss(self, network, images, labels, threat, context):
        return change(Standard.loss(self, network, images, labels, threat, context), images)

    return wrong(Standard, loss=loss)()


def seeing(change):
    """A regime that is shown images that become others, or whose network does."""

    def loss(self, network, images, labels, threat, context):
        network, images = change(network, images)
        return Standard.loss(self, network, images, labels, threat, context)

    return wrong(Standard, loss=loss)()


class Unfinished(Standard):
    def loss(self, network, images, labels, threat, context):
        return context.plain(network, images, labels)


def hooked(network, images):
    network.network[0].register_forward_hook(lambda *seen: None)
    return network, images


class Shares(Standard):
    def right(self, network, images, labels, threat):
        return (network(images).argmax(1) == labels).float()


class Elsewhere(Standard):
    def perturbed(self, network, images, labels, threat, generator):
        return images + 0.1


class Choosy(Standard):
    def check(self, epochs, threat):
        raise OptionError("no epochs would do")


CALLS = itertools.count(2)
REGIMES = {
    "constant": (losing(lambda found, _: evolve(found, loss=0 * found.loss)), "differentiable in the weights"),
    "unfinished": (Unfinished(), "returns a TrainingLoss"),
    "detached": (losing(lambda found, _: evolve(found, loss=found.loss.detach())), "finite scalar with its graph"),
    "overwriting": (seeing(lambda network, images: (network, images.mul_(0.5))), "leaves the images and labels"),
    "evaluating": (seeing(lambda network, images: (network.eval(), images)), "leaves the mode"),
    "hooked": (seeing(hooked), "leaves the hooks"),
    "drawing": (seeing(lambda network, images: (network, images * next(CALLS))), "repeatable given its draws"),
    "summed": (
        losing(lambda found, images: TrainingLoss(found.loss, found.logits, {"bright": images.mean()})),
        "a number an image",
    ),
    "shares": (Shares(), r"\(N,\) bool"),
    "elsewhere": (Elsewhere(), "images of the ball"),
    "never": (
        wrong(Standard, judged=lambda self, epoch, epochs: False)(),
        "judged lets the network after the last epoch be kept",
    ),
    "vague": (
        wrong(Standard, schedule=lambda self, passed, epochs, threat: {"temperature": float("nan")})(),
        "finite numbers by name",
    ),
    "choosy": (Choosy(), "check lets pass"),
}


@pytest.mark.parametrize("what", REGIMES)
def test_a_wrong_regime_is_caught(what):
    regime, promise = REGIMES[what]
    with pytest.raises(ConformanceError, match=promise):
        check_regime(regime, norms=("linf",))
