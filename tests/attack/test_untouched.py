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


def fail(images):
    raise ZeroDivisionError("half way")


def fail_silently(images):
    raise AssertionError


def stop(images):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("attack", "raised", "message"),
    [
        (foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2), None, None),
        (Fixed(fail), RunError, r"attack broken raised ZeroDivisionError.*half way"),
        (Fixed(fail_silently), RunError, r"raised AssertionError on images 0 to 4$"),
        (Fixed(stop), KeyboardInterrupt, None),
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
    with pytest.raises(RunError, match=r"^the network raised ZeroDivisionError in its forward pass for images \(5, 1,"):
        evaluate(
            Writing(lambda x: 1 / 0, 3),
            images,
            labels,
            foolbox.attacks.LinfPGD(steps=5),
            LINF,
            Conditions(batch=5, clean=labels),
        )


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

    def __init__(self, do: Callable[[nn.Module], None]):
        self.do = do

    def run(self, model: Any, inputs: Tensor, criterion: Any, *, epsilon: float, **kwargs: Any) -> Tensor:
        self.do(inspect.getclosurevars(model._model).nonlocals["model"].network)
        return inputs


def in_place(network: Any) -> None:
    with torch.no_grad():
        network[0].weight.add_(0.1)


def one_number(network: Any) -> None:
    with torch.no_grad():
        network[6].bias[3] = float("nan")


def other_data(network: Any) -> None:
    network[0].weight.data = torch.zeros_like(network[0].weight)


def other_shape(network: Any) -> None:
    network[6].bias.data = torch.zeros(1)


def other_parameter(network: Any) -> None:
    network[0].weight = nn.Parameter(network[0].weight + 1.0)


def no_parameter(network: Any) -> None:
    network[0].bias = None


def buffer(network: Any) -> None:
    network[1].running_mean.zero_()


def other_buffer(network: Any) -> None:
    network[1].running_var = torch.ones(6)


def statistics(network: Any) -> None:
    network.train()
    network(torch.rand(4, 1, 8, 8))
    network.eval()


CHANGES: dict[Callable[[Any], None], str] = {
    in_place: "0.weight",
    one_number: "6.bias",
    other_data: "0.weight",
    other_shape: "6.bias",
    other_parameter: "0.weight",
    no_parameter: "0.bias",
    buffer: "1.running_mean",
    other_buffer: "1.running_var",
    statistics: "1.running_mean",
}
DIGITS = ThreatModel("linf", 0.06)


@pytest.mark.parametrize("do", CHANGES, ids=lambda do: do.__name__)
def test_a_changed_network_is_told_and_put_back(do: Callable[[Any], None]):
    network, (images, labels) = trained(), digits(20)
    before = evaluate(network, images, labels, FGSM().build(DIGITS), DIGITS)
    held = {name: (tensor, tensor.detach().clone()) for name, tensor in network.state_dict(keep_vars=True).items()}
    with pytest.raises(RunError, match=rf"attack bad changed the network \({CHANGES[do]}\).*is as it was") as caught:
        evaluate(network, images, labels, Change(do), DIGITS, Conditions(label="bad", batch=10))
    assert "results are not used" in str(caught.value)
    now = network.state_dict(keep_vars=True)
    assert now.keys() == held.keys()
    for name, (tensor, value) in held.items():
        assert now[name] is tensor, name
        assert torch.equal(tensor, value), name
    after = evaluate(network, images, labels, FGSM().build(DIGITS), DIGITS)
    assert torch.equal(before.sizes["l1"], after.sizes["l1"])


class Counting(nn.Sequential):
    """Counts what it is asked in a buffer, whatever its mode."""

    def __init__(self) -> None:
        super().__init__(*trained())
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        return super().forward(images)  # type: ignore[no-any-return]


def test_a_network_that_changes_itself_is_told_before_an_attack_is_blamed():
    network, (images, labels) = Counting(), digits(20)
    with pytest.raises(RunError, match="the network's own forward pass changes asked in eval mode"):
        evaluate(network, images, labels, FGSM().build(DIGITS), DIGITS)
    assert network.asked == 0


@pytest.mark.parametrize("every", [1, 7])
def test_a_network_that_changes_itself_later_is_told_instead_of_the_attack(every: int):
    class Seldom(Counting):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            self.asked += self.calls % every == 0
            return nn.Sequential.forward(self, images)  # type: ignore[no-any-return]

    network, (images, labels) = Seldom(), digits(20)
    with pytest.raises(RunError, match="the network's own forward pass changes asked in eval mode"):
        evaluate(network, images, labels, PGD(steps=10, step_size=0.01).build(DIGITS), DIGITS, Conditions(clean=labels))
    assert network.asked == 0


def test_an_attack_that_trains_is_told_and_the_mode_is_put_back():
    network, (images, labels) = trained(), digits(20)
    for do in (lambda net: net.train(), lambda net: net[1].train()):
        with pytest.raises(RunError, match="attack bad put the network into training mode"):
            evaluate(network, images, labels, Change(do), DIGITS, Conditions(label="bad"))
        assert not any(module.training for module in network.modules())


def test_gradients_an_attack_leaves_behind_are_not_the_networks():
    network, (images, labels) = trained(), digits(20)

    def wants_gradients(net: nn.Module) -> None:
        net.requires_grad_(True)

    evaluate(network, images, labels, Change(wants_gradients), DIGITS)
    evaluate(network, images, labels, foolbox.attacks.LinfPGD(steps=1), DIGITS)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
