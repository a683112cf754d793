"""Orders and regimes that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from robustnas.contracts import TrainingLoss
from robustnas.errors import OptionError
from robustnas.search.hypergradient.first_order import FirstOrder
from robustnas.search.hypergradient.step import Hypergradient
from robustnas.testing import ConformanceError, check_order, check_regime
from robustnas.train.regimes.standard import Standard


class Ascending(FirstOrder):
    def gradient(self, step):
        found = super().gradient(step)
        return evolve(found, gradients=[-one for one in found.gradients])


class Bare(FirstOrder):
    def gradient(self, step):
        return super().gradient(step).gradients


class Everything(FirstOrder):
    def gradient(self, step):
        return step.outer_gradient([*step.alpha, *step.weights.parameters])


class Stepping(FirstOrder):
    """Moves w itself instead of looking ahead."""

    def gradient(self, step):
        torch.autograd.backward(step.supernet(step.train[0].images).sum(), inputs=step.weights.parameters)
        step.w_optimizer.step()
        step.w_optimizer.zero_grad()
        return super().gradient(step)


class Rehearsing(FirstOrder):
    """Leaves the inner loss's generator where the rehearsal left it."""

    def gradient(self, step):
        step.inner_gradient(step.weights.parameters)
        return super().gradient(step)


class Wavering(FirstOrder):
    calls: list[int] = []  # noqa: RUF012

    def gradient(self, step):
        self.calls.append(0)
        found = super().gradient(step)
        return Hypergradient([one * len(self.calls) for one in found.gradients], found.validation)


class Infinite(FirstOrder):
    def gradient(self, step):
        found = super().gradient(step)
        return Hypergradient([one / 0 for one in found.gradients], found.validation)


@pytest.mark.parametrize(
    ("order", "promise"),
    [
        (Ascending(), "that of the outer objective"),
        (Bare(), "returns a Hypergradient"),
        (Everything(), "one tensor a table of alpha"),
        (Stepping(), "leaves the weights of the supernet"),
        (Rehearsing(), "generator of the inner loss is put back"),
        (Wavering(), "repeatable given its draws"),
        (Infinite(), "gradients are finite"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_a_wrong_order_is_caught(order, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_order(order)


class Constant(Standard):
    def loss(self, network, images, labels, threat, context):
        found = super().loss(network, images, labels, threat, context)
        return evolve(found, loss=0 * found.loss)


class Unfinished(Standard):
    def loss(self, network, images, labels, threat, context):
        return context.plain(network, images, labels)


class Detached(Standard):
    def loss(self, network, images, labels, threat, context):
        found = super().loss(network, images, labels, threat, context)
        return evolve(found, loss=found.loss.detach())


class Overwriting(Standard):
    def loss(self, network, images, labels, threat, context):
        return super().loss(network, images.mul_(0.5), labels, threat, context)


class Evaluating(Standard):
    def loss(self, network, images, labels, threat, context):
        return super().loss(network.eval(), images, labels, threat, context)


class Hooked(Standard):
    def loss(self, network, images, labels, threat, context):
        network.network[0].register_forward_hook(lambda *seen: None)
        return super().loss(network, images, labels, threat, context)


class Drawing(Standard):
    calls: list[int] = []  # noqa: RUF012

    def loss(self, network, images, labels, threat, context):
        self.calls.append(0)
        return super().loss(network, images * (1 + len(self.calls)), labels, threat, context)


class Summed(Standard):
    def loss(self, network, images, labels, threat, context):
        found = super().loss(network, images, labels, threat, context)
        return TrainingLoss(found.loss, found.logits, {"bright": images.mean()})


class Shares(Standard):
    def right(self, network, images, labels, threat):
        return (network(images).argmax(1) == labels).float()


class Elsewhere(Standard):
    def perturbed(self, network, images, labels, threat, generator):
        return images + 0.1


class Never(Standard):
    def judged(self, epoch, epochs):
        return False


class Vague(Standard):
    def schedule(self, passed, epochs, threat):
        return {"temperature": float("nan")}


class Choosy(Standard):
    def check(self, epochs, threat):
        raise OptionError("no epochs would do")


@pytest.mark.parametrize(
    ("regime", "promise"),
    [
        (Constant(), "differentiable in the weights"),
        (Unfinished(), "returns a TrainingLoss"),
        (Detached(), "finite scalar with its graph"),
        (Overwriting(), "leaves the images and labels"),
        (Evaluating(), "leaves the mode"),
        (Hooked(), "leaves the hooks"),
        (Drawing(), "repeatable given its draws"),
        (Summed(), "a number an image"),
        (Shares(), r"\(N,\) bool"),
        (Elsewhere(), "images of the ball"),
        (Never(), "after the last epoch may be kept"),
        (Vague(), "finite numbers by name"),
        (Choosy(), "check lets pass"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_a_wrong_regime_is_caught(regime, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_regime(regime, norms=("linf",))
