"""The attack harness: what an attack may prove, and what it may not touch."""

import random
from contextlib import contextmanager, nullcontext

import foolbox
import numpy as np
import pytest
import torch
from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack
from torch import nn

from robustnas import certify
from robustnas.attack import Conditions, evaluate, predict, robust
from robustnas.attack.review.probe import probe
from robustnas.certify import smoothing
from robustnas.data.images import InMemory, Streamed
from robustnas.errors import DataError, DeviceError, OptionError, RobustnasError, RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel

LINF, L2, L1 = ThreatModel("linf", 0.1), ThreatModel("l2", 0.3), ThreatModel("l1", 1.2)
WIDE = ThreatModel("linf", 0.4)
CPU = torch.device("cpu")


class Fixed(FixedEpsilonAttack):
    """An attack inside a ball made of a function of the images."""

    def __init__(self, change, norm="linf"):
        self.change = change
        self.norm = norm

    @property
    def distance(self):
        return getattr(foolbox.distances, self.norm)

    def run(self, model, inputs, criterion, *, epsilon, **kwargs):
        return self.change(inputs)


class Minimal(MinimizationAttack):
    """An attack that minimises, made of a function of the images."""

    distance = foolbox.distances.linf

    def __init__(self, change):
        self.change = change

    def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
        assert early_stop is None
        return self.change(inputs)


class Brightness(nn.Module):
    """Class 1 where the mean of the pixels is above a half."""

    def forward(self, images):
        bright = images.flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright], 1)


class Small(nn.Module):
    """A network with batch norm, dropout and a buffer that training would move."""

    def __init__(self, classes=3):
        super().__init__()
        with seeded(0, "small"):
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64, classes),
            )

    def forward(self, images):
        return self.body(nn.functional.dropout(images - 0.5, 0.5, self.training))


def levels(*values):
    """One grey 4x4 image for each value."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


def some(count=12):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 4, 4, generator=generator)
    return images, predict(Small(), images)


def test_fooled_means_right_when_clean_and_wrong_on_the_admissible_image():
    images, labels = levels(0.45, 0.2, 0.45, 0.7), torch.tensor([0, 0, 1, 1])
    record = evaluate(Brightness(), images, labels, Fixed(lambda x: x + 0.08), LINF)
    assert record.clean.tolist() == [0, 0, 0, 1]
    assert record.correct.tolist() == [True, True, False, True]
    assert record.success.tolist() == [True, False, False, False]
    assert record.prediction.tolist() == [1, 0, 0, 1]
    torch.testing.assert_close(record.distance, torch.tensor([0.08, 0.08, 0.0, 0.08]))
    assert record.found.isfinite().tolist() == [True, False, False, False]


def test_an_image_that_is_wrong_when_clean_is_neither_attacked_nor_healed():
    images, labels = levels(0.45, 0.45), torch.tensor([1, 1])
    seen = []
    record = evaluate(Brightness(), images, labels, Fixed(lambda x: seen.append(x) or x + 0.08), LINF)
    assert not seen
    assert not record.success.any()
    assert not robust(record.correct, [record.success]).any()
    assert record.evaluations == 0


def test_an_attack_that_minimises_proves_nothing_beyond_the_ball():
    images, labels = levels(0.45, 0.3, 0.05), torch.tensor([0, 0, 0])

    def to_just_bright(x):
        return torch.where(x > 0.1, torch.full_like(x, 0.51), x)

    record = evaluate(Brightness(), images, labels, Minimal(to_just_bright), LINF)
    assert record.success.tolist() == [True, False, False]
    assert record.prediction.tolist() == [1, 0, 0]
    torch.testing.assert_close(record.distance, torch.tensor([0.06, 0.0, 0.0]))
    expected = torch.tensor([0.06, 0.21, float("inf")], dtype=torch.float64)
    torch.testing.assert_close(record.found, expected, atol=1e-7, rtol=0)


LIES = {
    "outside the ball": (
        lambda x: (x + 0.11).clamp(0, 1),
        "image 4 a perturbation of 0.11, outside the ball",
    ),
    "above the box": (lambda x: x * 0 + 1.001, r"image 4 pixels from 1.001 to 1.001, outside \[0, 1\]"),
    "below the box": (lambda x: x * 0 - 0.02, "outside"),
    "not a number": (lambda x: x * float("nan"), "image 4 pixels that are not finite"),
    "infinite": (lambda x: x + float("inf"), "not finite"),
    "another shape": (lambda x: x[:, :, :2], "shape"),
    "fewer images": (lambda x: x[:-1], "shape"),
    "another type": (lambda x: x.double(), "float64"),
    "no tensor": (lambda x: x.numpy(), "ndarray"),
    "nothing": (lambda x: None, "NoneType"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_attack_is_caught_and_the_image_named(lie):
    change, message = LIES[lie]
    # the first four are wrong when clean: the image named is the one in the dataset, not the one in the batch
    images, labels = levels(0.2, 0.2, 0.2, 0.2, 0.4, 0.45), torch.tensor([1, 1, 1, 1, 0, 0])
    with pytest.raises(RunError, match=message) as caught:
        evaluate(Brightness(), images, labels, Fixed(change), LINF, Conditions(batch=6, label="liar"))
    assert "attack liar" in str(caught.value)


@pytest.mark.parametrize("lie", [name for name in LIES if name != "outside the ball"])
def test_an_attack_that_minimises_may_leave_the_ball_only(lie):
    with pytest.raises(RunError):
        evaluate(Brightness(), levels(0.4, 0.45), torch.tensor([0, 0]), Minimal(LIES[lie][0]), LINF)


@pytest.mark.parametrize("threat", [LINF, L2, L1], ids=str)
def test_rounding_is_clipped_and_what_is_judged_is_inside(threat):
    images, labels = levels(0.45, 0.3), torch.tensor([0, 0])
    step = threat.epsilon / {"linf": 1, "l2": 4, "l1": 16}[threat.norm]  # 16 pixels
    attack = Fixed(lambda x: x + step + 1e-5 / 20, threat.norm)
    record = evaluate(Brightness(), images, labels, attack, threat)
    assert record.success.tolist() == [True, False]
    assert float(record.distance.max()) <= threat.epsilon + 1e-7


def test_an_image_that_fools_only_by_rounding_is_no_success():
    threat = ThreatModel("linf", 0.049999)
    record = evaluate(Brightness(), levels(0.45), torch.tensor([0]), Fixed(lambda x: x + 0.050005), threat)
    assert not record.success.any()


@pytest.mark.parametrize("attack", [Fixed(torch.rand_like), Minimal(torch.rand_like)], ids=["fixed", "minimal"])
def test_epsilon_zero_changes_nothing(attack):
    images, labels = levels(0.45, 0.2, 0.8), torch.tensor([0, 1, 1])
    record = evaluate(Brightness(), images, labels, attack, ThreatModel("linf", 0))
    assert not record.success.any()
    assert torch.equal(record.prediction, record.clean)
    assert not record.distance.any()


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


def test_the_network_is_left_as_it_was():
    network, (images, labels) = mixed_network(), some()
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2)
    with untouched(network):
        record = evaluate(network, images, labels, attack, WIDE, Conditions(batch=5))
    assert record.success.any()


def test_the_network_is_left_as_it_was_after_an_exception():
    def fail(x):
        raise ZeroDivisionError("half way")

    network, (images, labels) = mixed_network(), some()
    with (
        untouched(network),
        pytest.raises(RunError, match=r"attack broken raised ZeroDivisionError.*half way"),
    ):
        evaluate(network, images, labels, Fixed(fail), LINF, Conditions(label="broken"))


def test_an_exception_without_text_is_told_by_its_kind():
    def fail(x):
        raise AssertionError

    with pytest.raises(RunError, match=r"raised AssertionError on images 0 to 0$"):
        evaluate(Brightness(), levels(0.4), torch.tensor([0]), Fixed(fail), LINF)


def test_an_interrupt_passes_and_the_network_is_put_back():
    def interrupt(x):
        raise KeyboardInterrupt

    network, (images, labels) = mixed_network(), some()
    with untouched(network), pytest.raises(KeyboardInterrupt):
        evaluate(network, images, labels, Fixed(interrupt), LINF)


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


class Noisy(FixedEpsilonAttack):
    """PerImageRandom from every global generator there is, and remembers."""

    distance = foolbox.distances.linf

    def __init__(self):
        self.draws = []

    def run(self, model, inputs, criterion, *, epsilon, **kwargs):
        noise = torch.rand_like(inputs)
        self.draws.append((float(noise.sum()), float(np.random.rand()), random.random()))
        return (inputs + epsilon * (2 * noise - 1)).clamp(0, 1)


def run_noisy(seed=0, label="noisy", batch=5):
    attack, (images, labels) = Noisy(), some()
    record = evaluate(
        Small(), images, labels, attack, ThreatModel("linf", 0.3), Conditions(batch=batch, seed=seed, label=label)
    )
    return attack.draws, record


def test_draws_depend_on_seed_label_and_batch_alone():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    draws, first = run_noisy()
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    again, second = run_noisy()
    assert draws == again
    assert len(draws) == 3
    assert len(set(draws)) == 3
    for name in ("clean", "prediction", "success", "distance", "found"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert run_noisy(seed=1)[0][0] != draws[0]
    assert run_noisy(label="other")[0][0] != draws[0]


def test_the_callers_random_state_is_put_back():
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    run_noisy()
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_it_works_where_the_caller_has_switched_gradients_off(mode):
    network, (images, labels) = Small(), some()
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2, random_start=False)
    expected = evaluate(network, images, labels, attack, WIDE)
    with mode():
        copies = images.clone()  # inference tensors in inference mode
        found = evaluate(network, copies, labels.clone(), attack, WIDE)
        assert not torch.is_grad_enabled()
    assert torch.equal(expected.prediction, found.prediction)
    assert expected.success.any()


def test_it_is_float32_under_a_callers_autocast():
    seen = []

    class Watch(Small):
        def forward(self, images):
            logits = super().forward(images)
            seen.append(logits.dtype)
            return logits

    images, labels = some()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate(Watch(), images, labels, foolbox.attacks.LinfFastGradientAttack(), LINF)
    assert set(seen) == {torch.float32}


def test_images_in_memory_streamed_and_as_a_tensor_are_one():
    pixels = (some()[0] * 255).to(torch.uint8)
    labels = predict(Small(), pixels)
    attack = foolbox.attacks.LinfFastGradientAttack()
    kinds = (pixels, InMemory(pixels, labels), Streamed(list(pixels), labels))
    records = [evaluate(Small(), images, labels, attack, LINF, Conditions(batch=5)) for images in kinds]
    assert torch.equal(records[0].distance, records[1].distance)
    assert torch.equal(records[0].distance, records[2].distance)
    fewer = evaluate(Small(), kinds[1], labels[:7], attack, LINF, Conditions(batch=5))
    assert torch.equal(fewer.prediction, records[0].prediction[:7])


def test_evaluations_are_counted_image_by_image():
    images, labels = some()
    labels[:4] = (labels[:4] + 1) % 3  # wrong when clean: not attacked
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2)
    record = evaluate(Small(), images, labels, attack, LINF, Conditions(batch=5))
    assert record.evaluations == 8 * 3


def test_progress_is_reported():
    told = []
    images, labels = some()
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2)
    record = evaluate(
        Small(),
        images,
        labels,
        attack,
        LINF,
        Conditions(batch=5, report=lambda done, total, unit, **f: told.append((done, total, unit, f))),
    )
    assert [one[:3] for one in told] == [(5, 12, "image"), (10, 12, "image"), (12, 12, "image")]
    share = float(robust(record.correct, [record.success]).float().mean())
    assert told[-1][3]["standing"] == pytest.approx(share)


def test_foolbox_wrappers_that_can_only_be_called_are_called():
    images, labels = some()
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2).repeat(2)
    record = evaluate(Small(), images, labels, attack, WIDE)
    assert record.success.any()
    assert float(record.distance.max()) <= 0.4 + 1e-6


def test_an_attack_of_another_norm_is_refused():
    images, labels = some()
    with pytest.raises(OptionError, match="l_2 and the threat is linf"):
        evaluate(Small(), images, labels, foolbox.attacks.L2PGD(steps=2), LINF, Conditions(label="pgd"))
    with pytest.raises(OptionError, match="l_inf and the threat is l2"):
        evaluate(Small(), images, labels, foolbox.attacks.LinfPGD(steps=2), L2)
    with pytest.raises(OptionError, match="not a foolbox Attack"):
        evaluate(Small(), images, labels, object(), LINF)


def test_bad_images_labels_and_networks_are_named():
    images, labels = some()
    attack = foolbox.attacks.LinfFastGradientAttack()
    with pytest.raises(DataError, match="int64"):
        evaluate(Small(), images, labels.int(), attack, LINF)
    with pytest.raises(DataError, match="12 images with 3 labels"):
        evaluate(Small(), images, labels[:3], attack, LINF)
    with pytest.raises(DataError, match="first images"):
        evaluate(Small(), InMemory(images[:3], labels[:3]), labels, attack, LINF)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        evaluate(Small(), images * 255, labels, attack, LINF)
    with pytest.raises(DataError, match=r"image 3 has pixels outside"):
        evaluate(Small(), Streamed([*images[:3], images[3] + 1], labels[:4]), labels[:4], attack, LINF)

    class Diverged(Small):
        def forward(self, images):
            return super().forward(images).index_fill(0, torch.tensor([2]), float("nan"))

    with pytest.raises(RunError, match="logits for image 2 are not finite"):
        predict(Diverged(), images)


def test_a_network_elsewhere_is_refused():
    with pytest.raises(DeviceError, match="on cpu"):
        predict(Small(), some()[0], device="meta")


def test_robust_is_the_worst_case_image_by_image():
    correct = torch.tensor([True, True, True, False])
    first = torch.tensor([True, False, False, False])
    second = torch.tensor([False, True, False, False])
    assert robust(correct, [first, second]).tolist() == [False, False, True, False]
    assert robust(correct, []).tolist() == correct.tolist()
    assert correct.tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="same images"):
        robust(correct, [first[:2]])


def test_the_order_of_batches_does_not_matter_to_a_deterministic_attack():
    images, labels = some()
    attack = foolbox.attacks.LinfPGD(steps=4, abs_stepsize=0.04, random_start=False)
    whole, pieces = (evaluate(Small(), images, labels, attack, LINF, Conditions(batch=batch)) for batch in (12, 1))
    assert torch.equal(whole.prediction, pieces.prediction)
    torch.testing.assert_close(whole.distance, pieces.distance, atol=1e-5, rtol=0)


def test_no_images_give_an_empty_record():
    record = evaluate(Small(), torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64), Fixed(lambda x: x), LINF)
    assert record.success.shape == (0,)


def test_what_minimises_is_kept_as_it_is_even_when_it_is_beyond_the_ball_by_rounding():
    """Projected, it would fool no more, and be lost for every larger radius."""
    threat = ThreatModel("linf", 0.05)
    attack = Minimal(lambda x: x + 0.05 + 5e-6)
    record = evaluate(Brightness(), levels(0.449998), torch.tensor([0]), attack, threat)
    assert not record.success.any()
    assert float(record.found) == pytest.approx(0.050005, abs=1e-7)
    assert record.at(0.06).success.all()


def test_running_out_of_memory_is_not_the_attacks_fault():
    def fail(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Brightness(), levels(0.4), torch.tensor([0]), Fixed(fail), LINF)
