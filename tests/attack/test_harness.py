"""The attack harness: what an attack may prove, and under which conditions it is run."""

import random

import foolbox
import numpy as np
import pytest
import torch
from foolbox.attacks.base import FixedEpsilonAttack, MinimizationAttack

from robustnas.attack import Conditions, evaluate, predict, robust
from robustnas.data.images import InMemory, Streamed
from robustnas.errors import DataError, DeviceError, OptionError, RunError
from robustnas.threat import ThreatModel
from support.grey_images import Brightness, Fixed, Small, levels, some

LINF, L2, L1 = ThreatModel("linf", 0.1), ThreatModel("l2", 0.3), ThreatModel("l1", 1.2)
WIDE = ThreatModel("linf", 0.4)
CPU = torch.device("cpu")


class Minimal(MinimizationAttack):
    """An attack that minimises, made of a function of the images."""

    distance = foolbox.distances.linf

    def __init__(self, change):
        self.change = change

    def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
        assert early_stop is None
        return self.change(inputs)


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
    "outside the ball": (lambda x: (x + 0.11).clamp(0, 1), "image 4 a perturbation of 0.11, outside the ball"),
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


class Noisy(FixedEpsilonAttack):
    """PerImageRandom from every global generator there is, and remembers."""

    distance = foolbox.distances.linf

    def __init__(self):
        self.draws = []

    def run(self, model, inputs, criterion, *, epsilon, **kwargs):
        noise = torch.rand_like(inputs)
        self.draws.append((float(noise.sum()), float(np.random.rand()), random.random()))
        return (inputs + epsilon * (2 * noise - 1)).clamp(0, 1)


def seed_all(seed):
    for start in (torch.manual_seed, np.random.seed, random.seed):
        start(seed)


def run_noisy(seed=0, label="noisy", batch=5):
    attack, (images, labels) = Noisy(), some()
    record = evaluate(
        Small(), images, labels, attack, ThreatModel("linf", 0.3), Conditions(batch=batch, seed=seed, label=label)
    )
    return attack.draws, record


def test_draws_depend_on_seed_label_and_batch_alone():
    seed_all(1)
    draws, first = run_noisy()
    seed_all(2)
    again, second = run_noisy()
    assert draws == again
    assert len(draws) == 3
    assert len(set(draws)) == 3
    for name in ("clean", "prediction", "success", "distance", "found"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert run_noisy(seed=1)[0][0] != draws[0]
    assert run_noisy(label="other")[0][0] != draws[0]


def test_the_callers_random_state_is_put_back():
    seed_all(3)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    seed_all(3)
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
    told, (images, labels) = [], some()
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2)
    conditions = Conditions(batch=5, report=lambda done, total, unit, **f: told.append((done, total, unit, f)))
    record = evaluate(Small(), images, labels, attack, LINF, conditions)
    assert [one[:3] for one in told] == [(5, 12, "image"), (10, 12, "image"), (12, 12, "image")]
    share = float(robust(record.correct, [record.success]).float().mean())
    assert told[-1][3]["standing"] == pytest.approx(share)


def test_foolbox_wrappers_that_can_only_be_called_are_called():
    images, labels = some()
    attack = foolbox.attacks.LinfPGD(steps=3, abs_stepsize=0.2).repeat(2)
    record = evaluate(Small(), images, labels, attack, WIDE)
    assert record.success.any()
    assert float(record.distance.max()) <= 0.4 + 1e-6


@pytest.mark.parametrize(
    ("attack", "threat", "message"),
    [
        (foolbox.attacks.L2PGD(steps=2), LINF, "l_2 and the threat is linf"),
        (foolbox.attacks.LinfPGD(steps=2), L2, "l_inf and the threat is l2"),
        (object(), LINF, "not a foolbox Attack"),
    ],
)
def test_an_attack_of_another_norm_is_refused(attack, threat, message):
    with pytest.raises(OptionError, match=message):
        evaluate(Small(), *some(), attack, threat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels: (images, labels.int()), "int64"),
        (lambda images, labels: (images, labels[:3]), "12 images with 3 labels"),
        (lambda images, labels: (InMemory(images[:3], labels[:3]), labels), "first images"),
        (lambda images, labels: (images * 255, labels), r"\[0, 1\]"),
        (
            lambda images, labels: (Streamed([*images[:3], images[3] + 1], labels[:4]), labels[:4]),
            "image 3 has pixels outside",
        ),
    ],
)
def test_bad_images_and_labels_are_named(change, message):
    with pytest.raises(DataError, match=message):
        evaluate(Small(), *change(*some()), foolbox.attacks.LinfFastGradientAttack(), LINF)


def test_logits_that_are_not_finite_are_named():
    class Diverged(Small):
        def forward(self, images):
            return super().forward(images).index_fill(0, torch.tensor([2]), float("nan"))

    with pytest.raises(RunError, match="logits for image 2 are not finite"):
        predict(Diverged(), some()[0])


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


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"runs": 0}, {"expectation": -1}, {"access": "grey-box"}])
def test_conditions_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' must be"):
        Conditions(**wrong)
