"""The warnings a reviewer would raise: due for masked gradients and weak evaluations, and for nothing else."""

import itertools
import threading
from math import sqrt

import pytest
import torch
from torch import nn
from torch.autograd import grad as imported_by_name

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.review import gradients
from robustnas.attack.review.flag import NAMES
from robustnas.attack.review.inner import gradients_in_forward
from robustnas.attack.review.probe import probe
from robustnas.data.images import InMemory
from robustnas.errors import DataError, RunError
from robustnas.threat import NORMS, ThreatModel, largest_radius
from robustnas_plugins.datasets.digits import Digits
from support.masked_networks import (
    Around,
    Backwards,
    Compressed,
    Noisy,
    Overconfident,
    Probabilities,
    Purified,
    Quantised,
    Rooted,
    Saturated,
    Shattered,
    Thermometer,
    trained,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return Digits().split("test")


@pytest.fixture(scope="module")
def standard():
    train = Digits().split("train")
    return trained(train.pixels, train.labels)


@pytest.fixture(scope="module")
def adversarial():
    train = Digits().split("train")
    return trained(train.pixels, train.labels, ThreatModel("linf", 0.15), epochs=6)


def probed(network, digits, norm="linf", **options):
    return probe(network, digits, digits.labels, norm, **{"device": CPU, "seed": 0, **options})


def names(flags):
    return [flag.name for flag in flags]


def by_grad(function, at):
    return imported_by_name(function(at), at)[0]


def by_method(function, at):
    function(at).backward()
    return at.grad


def by_backward(function, at):
    torch.autograd.backward(function(at))
    return at.grad


def by_func(function, at):
    return torch.func.grad(function)(at.detach())


def by_vjp(function, at):
    value, back = torch.func.vjp(function, at.detach())
    return back(torch.ones_like(value))[0]


GRADIENTS = [by_grad, by_method, by_backward, by_func, by_vjp]

MASKED = {
    "quantised": (Quantised, {"zero-gradients", "does-not-reach-zero", "noise-beats-fgsm"}),
    "thermometer": (Thermometer, {"zero-gradients", "does-not-reach-zero", "noise-beats-fgsm"}),
    "compressed": (Compressed, {"zero-gradients", "does-not-reach-zero", "noise-beats-fgsm"}),
    "overconfident": (Overconfident, {"zero-gradients", "does-not-reach-zero", "noise-beats-fgsm"}),
    "saturated": (Saturated, {"zero-gradients", "does-not-reach-zero"}),
    "rooted": (Rooted, {"zero-gradients"}),
    "shattered": (Shattered, {"does-not-reach-zero"}),
    "backwards": (Backwards, {"does-not-reach-zero"}),
    "noisy": (Noisy, {"randomised-output"}),
    "probabilities": (Probabilities, {"probabilities-for-logits"}),
    "purified": (lambda network: Purified(network, by_grad), {"optimisation-in-forward"}),
}
"""Each with the flags it must raise in l_inf; more than these it must not."""


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_network_earns_its_flags(name, standard, digits):
    make, due = MASKED[name]
    flags = probed(make(standard), digits)
    assert set(names(flags)) == due
    assert len(flags) == len(due), "a name comes once"
    assert all(flag.attack is None and "\n" not in flag.text for flag in flags)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["standard", "adversarial"])
def test_a_sound_network_earns_none(kind, norm, digits, request):
    network = request.getfixturevalue(kind)
    assert probed(network, digits, norm) == []
    with torch.no_grad():
        right = (network(digits.pixels).argmax(1) == digits.labels).nonzero().squeeze(1)
    assert len(right) > 500
    # not by its tolerance: of all test images none is left
    draws = PerImageRandom.of_images(0, "any", right)
    left = gradients.standing_anywhere(network, digits.pixels[right], digits.labels[right], norm, draws)
    assert int(left.sum()) == 0


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("name", ["quantised", "backwards"])
def test_masked_gradients_are_found_in_every_norm(name, norm, standard, digits):
    assert {"does-not-reach-zero", "noise-beats-fgsm"} <= set(names(probed(MASKED[name][0](standard), digits, norm)))


def test_every_flag_there_is_is_tested():
    """The other five in `test_records` and `test_evidence`."""
    others = {"weak-steps", "black-box-beats-white-box", "robust-above-clean", "constant-answer", "chance-level"}
    assert {name for _, due in MASKED.values() for name in due} | others == set(NAMES)


def test_the_probe_leaves_the_network_and_the_generators_as_they_were(standard, digits):
    network = Noisy(standard)
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    probed(network, digits, count=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert network.network.training
    network.eval()
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_the_network_is_frozen_and_in_eval_mode_meanwhile(standard, digits):
    class Looked(Around):
        def shown(self, images):
            assert not self.training
            assert not any(parameter.requires_grad for parameter in self.parameters())
            assert images.dtype == torch.float32
            return images

    network = Looked(standard)
    network.train()
    assert probed(network, digits, count=8) == []
    network.eval()


def test_the_same_seed_gives_the_same_words(standard, digits):
    network = Noisy(standard)
    assert probed(network, digits, count=8) == probed(network, digits, count=8)
    assert probed(network, digits, count=8) != probed(network, digits, count=8, seed=1)


def test_it_works_inside_inference_mode_and_tells_its_progress(standard, digits):
    told = []
    with torch.inference_mode():
        assert probed(standard, digits) == []
        flags = probed(Quantised(standard), digits, report=lambda done, total, unit: told.append((done, total, unit)))
    assert "zero-gradients" in names(flags)
    assert told == [(done, 6, "check") for done in range(1, 7)]


class Counting(Around):
    def __init__(self, network):
        super().__init__(network)
        self.images = 0

    def shown(self, images):
        self.images += len(images)
        return images


@pytest.mark.parametrize(("kind", "most"), [(Around, 24), (Quantised, 174)])
def test_the_cost_is_bounded(kind, most, standard, digits):
    network = Counting(kind(standard))
    probed(network, digits, count=16)
    found = network.images - 2 * 16  # 16 wanted, at most 2 batches looked at to find them
    assert 0 < found <= most * 16


def test_few_right_images_are_enough_and_none_still_tells_something(standard, digits):
    wrong = InMemory(digits.pixels[:40], (standard(digits.pixels[:40]).argmax(1) + 1) % 10)
    assert names(probed(Noisy(standard), wrong)) == ["randomised-output"]
    assert names(probed(Probabilities(standard), wrong)) == ["probabilities-for-logits"]
    assert probed(Quantised(standard), wrong) == []
    one = InMemory(digits.pixels[:1], digits.labels[:1])
    assert {"zero-gradients", "does-not-reach-zero"} == set(names(probed(Quantised(standard), one)))


def test_a_network_that_answers_the_same_everywhere_is_not_called_robust(digits):
    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([0.0, 2.0, *[0.0] * 8]).expand(len(images), 10)

    assert {"zero-gradients", "does-not-reach-zero"} == set(names(probed(Constant(), digits)))


class Answering(Around):
    """A network whose logits are changed."""

    def __init__(self, network, changed):
        super().__init__(network)
        self.changed = changed

    def forward(self, images):
        return self.changed(super().forward(images))


def test_what_rounding_does_is_not_random(standard, digits):
    factors = itertools.cycle([1, 1 + 1e-7])
    assert probed(Answering(standard, lambda logits: logits * next(factors)), digits) == []


def test_logits_that_look_like_probabilities_to_a_glance_are_not(standard, digits):
    assert "probabilities-for-logits" not in names(probed(Answering(standard, torch.sigmoid), digits))


@pytest.mark.parametrize("how", GRADIENTS)
def test_gradients_in_the_forward_pass_are_seen_however_they_are_computed(how, standard, digits):
    assert gradients_in_forward(Purified(standard, how), digits.pixels[:4])


@pytest.mark.parametrize("how", [by_method, by_backward, by_grad])
def test_another_thread_is_not_watched(how, standard, digits):
    done = []

    class Elsewhere(Around):
        def shown(self, images):
            thread = threading.Thread(target=lambda: done.append(how(torch.sum, torch.ones(2, requires_grad=True))))
            thread.start()
            thread.join()
            return images

    assert not gradients_in_forward(Elsewhere(standard), digits.pixels[:2])
    assert torch.equal(done[0], torch.ones(2))


def test_torch_is_put_back_after_an_exception_too(standard, digits):
    class Raising(Around):
        def shown(self, images):
            raise ValueError("no")

    kept = torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward
    with pytest.raises(ValueError, match="no"):
        gradients_in_forward(Raising(standard), digits.pixels[:2])
    assert (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward) == kept
    assert gradients_in_forward(Purified(standard, by_backward), digits.pixels[:2])
    assert (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward) == kept


def fail(logits):
    raise IndexError("list index out of range")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (lambda logits: logits * float("nan"), "not finite"),
        (lambda logits: logits.mean(1), r"found shape \(64,\)"),
        (fail, "raised IndexError in its forward pass: list index out of range"),
        (lambda logits: (logits, None), "found tuple"),
    ],
)
def test_a_broken_network_is_named_as_such(changed, found, standard, digits):
    with pytest.raises(RunError, match=found):
        probed(Answering(standard, changed), digits)


@pytest.mark.parametrize(
    "labels", [torch.zeros(3), torch.zeros(0, dtype=torch.int64), torch.zeros(9999, dtype=torch.int64)]
)
def test_labels_that_do_not_fit_are_refused(labels, standard, digits):
    with pytest.raises(DataError, match="labels must be int64"):
        probe(standard, digits, labels, "linf", device=CPU, seed=0)


def test_an_image_fares_the_same_in_any_batch_and_order(standard, digits):
    network, chosen = Shattered(standard), torch.arange(30)
    draws = PerImageRandom.of_images(0, "any", chosen)
    whole = gradients.standing_anywhere(network, digits.pixels[:30], digits.labels[:30], "linf", draws)
    assert 0 < int(whole.sum()) < 30
    part = torch.arange(29, 0, -2)
    again = gradients.standing_anywhere(network, digits.pixels[part], digits.labels[part], "linf", draws.at(part))
    assert torch.equal(again, whole[part])


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_has_its_length_and_noise_its_size(norm):
    images, draws = torch.full((5, 2, 4, 4), 0.5), PerImageRandom.of_images(0, "any", torch.arange(5))
    along = 1e-30 * torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    threat = ThreatModel(norm, 0.1)
    step = gradients._moved(images, along, 0.1, norm)
    assert torch.allclose(threat.distance(step, images), torch.full((5,), 0.1), rtol=1e-4)
    assert (((step - images) * along.sign()) >= -1e-7).all()
    size = threat.distance(gradients._noise(images, 0.1, norm, draws), images)
    assert (size <= 0.1 * (1 + 1e-4)).all()
    assert (size >= 0.08).all()
    assert largest_radius(norm, 32) in (1.0, sqrt(32), 32.0)


def test_a_gradient_that_is_not_a_number_moves_nothing():
    images, along = torch.full((1, 1, 2, 2), 0.5), torch.tensor([[[[float("nan"), 0.0], [float("inf"), 0.0]]]])
    for norm in NORMS:
        assert torch.equal(gradients._moved(images, along, 0.1, norm), images)
