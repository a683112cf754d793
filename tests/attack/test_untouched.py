"""What is attacked, and whoever looks at it: networks, images and the caller's are left as they were, or it is told."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import foolbox
import pytest
import torch
from foolbox.attacks.base import FixedEpsilonAttack
from torch import Tensor, nn

from robustnas import certify
from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.review.probe import probe
from robustnas.certify import smoothing
from robustnas.data.images import InMemory
from robustnas.errors import RobustnasError, RunError
from robustnas.nn.read_only import read_only
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.attacks.pgd import PGD
from support.evaluated_digits import some as digits
from support.evaluated_digits import trained
from support.grey_images import Brightness, Fixed, Small, levels, some

LINF = ThreatModel("linf", 0.1)
CPU = torch.device("cpu")


def state_of(network):
    return (
        [module.training for module in network.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()],
        {name: tensor.clone() for name, tensor in network.state_dict().items()},
    )


@contextmanager
def untouched(network):
    """Fails if mode, requires_grad, gradients, weights or buffers differ afterwards."""
    modes, gradients, tensors = state_of(network)
    yield
    modes_after, gradients_after, tensors_after = state_of(network)
    assert modes == modes_after
    for (wanted, grad), (wanted_after, grad_after) in zip(gradients, gradients_after, strict=True):
        assert wanted == wanted_after
        assert (grad is None) == (grad_after is None)
        assert grad is None or torch.equal(grad, grad_after)
    assert all(torch.equal(tensors[name], tensors_after[name]) for name in tensors)


def mixed_network():
    """In training mode but for one module, one parameter frozen, some gradients there."""
    network = Small().train()
    network.body[1].eval()
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    return network


def raising(error):
    """An attack inside the ball that does nothing else."""

    def change(images):
        raise error

    return Fixed(change)


@pytest.mark.parametrize(
    ("attack", "raised", "message"),
    [
        (foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2), None, None),
        (raising(ZeroDivisionError("half way")), RunError, r"attack broken raised ZeroDivisionError.*half way"),
        (raising(AssertionError()), RunError, r"raised AssertionError on images 0 to 4$"),
        (raising(KeyboardInterrupt()), KeyboardInterrupt, None),
    ],
    ids=["well", "raising", "raising without a text", "interrupted"],
)
def test_the_network_is_left_as_it_was(attack, raised, message, monkeypatch):
    # a test run in the background ignores Ctrl-C, and then a KeyboardInterrupt would be nobody's
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    network, (images, labels) = mixed_network(), some()
    with untouched(network), nullcontext() if raised is None else pytest.raises(raised, match=message):
        evaluate(network, images, labels, attack, ThreatModel("linf", 0.4), Conditions(batch=5, label="broken"))


def test_frozen_puts_everything_back_and_keeps_batch_norm_still():
    network = mixed_network()
    with untouched(network):
        with read_only(network):
            assert not any(module.training for module in network.modules())
            assert not any(parameter.requires_grad for parameter in network.parameters())
            network(torch.rand(4, 1, 4, 4))
        with pytest.raises(ValueError, match="inside"), read_only(network):
            raise ValueError("inside")


WRITES = {
    "sub_": lambda x: x.sub_(0.3).div_(0.2),
    "setitem": lambda x: x.__setitem__((slice(None), slice(None), 0), 0.5),
    "view": lambda x: x.flatten(1).mul_(0.5),
    "relu": lambda x: nn.functional.relu(x, inplace=True),
    "data": lambda x: x.data.mul_(0.5),
    "numpy": lambda x: x.detach().numpy().__imul__(0.5),
}


class Writing(Small):
    """Writes into the images it is given, every so many calls."""

    def __init__(self, write, every):
        super().__init__()
        self.write, self.every, self.asked = write, every, 0

    def forward(self, images):
        self.asked += 1
        if self.asked % self.every == 0:
            self.write(images)
        return super().forward(images)


LOOKS = {
    "predict": lambda network, images, labels: predict(network, images, batch=3),
    "evaluate": lambda network, images, labels: evaluate(
        network, images, labels, foolbox.attacks.LinfPGD(steps=5), LINF, Conditions(clean=labels)
    ),
    "source": lambda network, images, labels: evaluate(
        Small(), images, labels, foolbox.attacks.LinfPGD(steps=5), LINF, Conditions(source=network)
    ),
    "smoothing": lambda network, images, labels: smoothing.certify(
        network, images, labels, sigma=0.1, samples=20, selection=5, alpha=0.1, batch=12, device=CPU, seed=0
    ),
    "probe": lambda network, images, labels: probe(network, InMemory(images, labels), labels, "l2", device=CPU, seed=0),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(("write", "every"), [*((write, 1) for write in WRITES), ("sub_", 3)])
def test_a_network_that_writes_into_its_images_is_refused_and_nobodys_are_changed(look, write, every):
    images, labels = some()
    before = images.clone()
    with pytest.raises(RunError, match=r"the network \(Writing\) writes into the images it is given.*x = x\.clone\(\)"):
        LOOKS[look](Writing(WRITES[write], every), images, labels)
    assert torch.equal(images, before)


@pytest.mark.parametrize("write", ["sub_", "numpy"])
def test_certificates_are_of_the_images_that_were_asked_about(write):
    images, labels = some()
    before = images.clone()
    with pytest.raises(RobustnasError):
        certify.radius(Writing(WRITES[write], 2), images, labels, "l2", "ibp")
    assert torch.equal(images, before)


def test_what_is_lent_is_taken_back_after_an_exception_and_whatever_it_holds():
    network = Writing(lambda x: 1 / 0, 2)
    with read_only(network):
        for value in (0.5, float("nan")):
            images = torch.full((2, 1, 4, 4), value)
            assert torch.equal(network(images).isnan(), Small().eval()(images).isnan())
            with pytest.raises(ZeroDivisionError):
                network(images)
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


def test_gradients_pass_through_what_is_lent_as_without():
    network, (images, labels) = Small().eval(), some()
    gradients = []
    for around in (nullcontext(), read_only(network)):
        leaf = images.clone().requires_grad_()
        with around:
            gradients += torch.autograd.grad(nn.functional.cross_entropy(network(leaf), labels), leaf)
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_a_network_that_raises_under_attack_is_named_not_the_attack():
    images, labels = some()
    network, attack = Writing(lambda x: 1 / 0, 3), foolbox.attacks.LinfPGD(steps=5)
    with pytest.raises(RunError, match=r"^the network raised ZeroDivisionError in its forward pass for images \(5, 1,"):
        evaluate(network, images, labels, attack, LINF, Conditions(batch=5, clean=labels))


def test_the_attack_cannot_change_the_callers_images():
    images, labels = some()
    before = images.clone()
    evaluate(Small(), images, labels, Fixed(lambda x: x.mul_(0.99)), LINF)
    assert torch.equal(images, before)


def test_an_attack_that_changes_its_input_in_place_is_measured_from_the_clean_image():
    with pytest.raises(RunError, match="outside the ball"):
        evaluate(Brightness(), levels(0.2), torch.tensor([0]), Fixed(lambda x: x.add_(0.5)), LINF)


class Change(FixedEpsilonAttack):  # type: ignore[misc]
    """Does something to the network, and returns the images."""

    distance = foolbox.distances.linf

    def __init__(self, do: Callable[[nn.Module], Any]):
        self.do = do

    def run(self, model: Any, inputs: Tensor, criterion: Any, *, epsilon: float, **kwargs: Any) -> Tensor:
        self.do(inspect.getclosurevars(model._model).nonlocals["model"].network)
        return inputs


def statistics(network: Any) -> None:
    network.train()
    network(torch.rand(4, 1, 8, 8))
    network.eval()


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "in place": ("0.weight", lambda net: net[0].weight.detach().add_(0.1)),
    "one number": ("6.bias", lambda net: net[6].bias.detach()[3].fill_(float("nan"))),
    "other data": ("0.weight", lambda net: setattr(net[0].weight, "data", torch.zeros_like(net[0].weight))),
    "other shape": ("6.bias", lambda net: setattr(net[6].bias, "data", torch.zeros(1))),
    "other parameter": ("0.weight", lambda net: setattr(net[0], "weight", nn.Parameter(net[0].weight + 1.0))),
    "no parameter": ("0.bias", lambda net: setattr(net[0], "bias", None)),
    "buffer": ("1.running_mean", lambda net: net[1].running_mean.zero_()),
    "other buffer": ("1.running_var", lambda net: setattr(net[1], "running_var", torch.ones(6))),
    "statistics": ("1.running_mean", statistics),
}
"""What an attack does to the network, and the tensor that is told."""

DIGITS = ThreatModel("linf", 0.06)


@pytest.mark.parametrize(("name", "do"), CHANGES.values(), ids=CHANGES)
def test_a_changed_network_is_told_and_put_back(name: str, do: Callable[[Any], Any]):
    network, (images, labels) = trained(), digits(20)
    before = evaluate(network, images, labels, FGSM().build(DIGITS), DIGITS)
    held = {name: (tensor, tensor.detach().clone()) for name, tensor in network.state_dict(keep_vars=True).items()}
    with pytest.raises(RunError, match=rf"attack bad changed the network \({name}\).*is as it was") as caught:
        evaluate(network, images, labels, Change(do), DIGITS, Conditions(label="bad", batch=10))
    assert "results are not used" in str(caught.value)
    now = network.state_dict(keep_vars=True)
    assert now.keys() == held.keys()
    for key, (tensor, value) in held.items():
        assert now[key] is tensor, key
        assert torch.equal(tensor, value), key
    after = evaluate(network, images, labels, FGSM().build(DIGITS), DIGITS)
    assert torch.equal(before.sizes["l1"], after.sizes["l1"])


class Counting(nn.Sequential):
    """Counts in a buffer what it is asked, whatever its mode: every so many calls."""

    def __init__(self, every: int) -> None:
        super().__init__(*trained())
        self.register_buffer("asked", torch.zeros(()))
        self.calls, self.every = 0, every

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.asked += self.calls % self.every == 0
        return super().forward(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("every", "clean"), [(1, None), (1, True), (7, True)])
def test_a_network_that_changes_itself_is_told_and_no_attack_is_blamed(every: int, clean: bool | None):
    network, (images, labels) = Counting(every), digits(20)
    conditions = Conditions(clean=labels if clean else None)
    with pytest.raises(RunError, match="the network's own forward pass changes asked in eval mode"):
        evaluate(network, images, labels, PGD(steps=10, step_size=0.01).build(DIGITS), DIGITS, conditions)
    assert network.asked == 0


def test_an_attack_that_trains_is_told_and_the_mode_is_put_back():
    network, (images, labels) = trained(), digits(20)
    for do in (lambda net: net.train(), lambda net: net[1].train()):
        with pytest.raises(RunError, match="attack bad put the network into training mode"):
            evaluate(network, images, labels, Change(do), DIGITS, Conditions(label="bad"))
        assert not any(module.training for module in network.modules())


def test_gradients_an_attack_leaves_behind_are_not_the_networks():
    network, (images, labels) = trained(), digits(20)
    evaluate(network, images, labels, Change(lambda net: net.requires_grad_(True)), DIGITS)
    evaluate(network, images, labels, foolbox.attacks.LinfPGD(steps=1), DIGITS)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
