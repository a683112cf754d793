"""The warnings a reviewer would raise: due for masked gradients and weak evaluations, and for nothing else."""

import json
import threading
from math import comb, sqrt

import pytest
import torch
from torch import nn
from torch.autograd import grad as imported_by_name

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.review import gradients
from robustnas.attack.review.answers import blind
from robustnas.attack.review.evidence import FEWEST, at_least, by_chance, counts
from robustnas.attack.review.flag import NAMES, Flag
from robustnas.attack.review.inner import gradients_in_forward
from robustnas.attack.review.probe import probe
from robustnas.attack.review.records import Attempt, of_attempts, of_options
from robustnas.data.images import InMemory
from robustnas.errors import DataError, InputError, RunError
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
    return trained(train.pixels, train.labels, ThreatModel("linf", 0.15))


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


# the network ----------------------------------------------------------------------------------------------------


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


def test_every_flag_there_is_is_raised_by_some_network_or_record():
    mask = torch.ones(20, dtype=torch.bool)
    threat = ThreatModel("linf", 0.1)
    raised = {name for _, due in MASKED.values() for name in due}
    raised |= set(names(of_options("pgd", threat, 10, 0.001)))
    raised |= set(names(of_attempts([Attempt("naive", "noise", threat, ~mask, mask, ~mask)], 64)))
    raised |= set(
        names(of_attempts([attempt("pgd", tried=range(20)), attempt("square", "black-box", range(20), [1, 2])], 64))
    )
    raised |= set(names(blind(torch.zeros(20, dtype=torch.int64), torch.arange(20) % 4)))
    assert raised == set(NAMES)
    assert len(raised) == 11


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


def test_what_rounding_does_is_not_random(standard, digits):
    class Rounding(Around):
        calls = 0

        def forward(self, images):
            self.calls += 1
            return super().forward(images) * (1 + 1e-7 * (self.calls % 2))

    assert probed(Rounding(standard), digits) == []


def test_logits_that_look_like_probabilities_to_a_glance_are_not(standard, digits):
    class Sigmoid(Around):
        def forward(self, images):
            return super().forward(images).sigmoid()

    assert "probabilities-for-logits" not in names(probed(Sigmoid(standard), digits))


@pytest.mark.parametrize("how", GRADIENTS)
def test_gradients_in_the_forward_pass_are_seen_however_they_are_computed(how, standard, digits):
    assert gradients_in_forward(Purified(standard, how), digits.pixels[:4])


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("how", [by_method, by_backward, by_grad])
def test_another_thread_is_not_watched(how, standard, digits):
    done = []

    class Elsewhere(Around):
        def shown(self, images):
            in_a_thread(lambda: done.append(how(torch.sum, torch.ones(2, requires_grad=True))))
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


class NotANumber(Around):
    def forward(self, images):
        return super().forward(images) * float("nan")


class OfTheWrongShape(Around):
    def forward(self, images):
        return super().forward(images).mean(1)


class Failing(Around):
    def forward(self, images):
        raise IndexError("list index out of range")


class NoTensor(Around):
    def forward(self, images):
        return (super().forward(images), None)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (NotANumber, "not finite"),
        (OfTheWrongShape, r"found shape \(64,\)"),
        (Failing, "raised IndexError in its forward pass: list index out of range"),
        (NoTensor, "found tuple"),
    ],
)
def test_a_broken_network_is_named_as_such(kind, found, standard, digits):
    with pytest.raises(RunError, match=found):
        probed(kind(standard), digits)


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


# what attacks did -----------------------------------------------------------------------------------------------


def attempt(label, access="white-box", tried=(), success=(), *, epsilon=0.1, norm="linf", images=20, **more):
    """An attempt on images that are all right when clean; indices of those tried and broken."""
    masks = [torch.zeros(images, dtype=torch.bool) for _ in range(2)]
    masks[0][list(tried)] = True
    masks[1][list(success)] = True
    return Attempt(label, access, ThreatModel(norm, epsilon), torch.ones(images, dtype=torch.bool), *masks, **more)


ALL = range(20)


@pytest.mark.parametrize("access", ["black-box", "noise"])
def test_what_falls_to_a_black_box_alone_is_counted(access):
    flags = of_attempts([attempt("pgd", tried=ALL, success=[0]), attempt("other", access, ALL, [0, 1, 2])], 64)
    assert names(flags) == ["black-box-beats-white-box"]
    assert flags[0].attack == "other"
    assert "broke 2 of 20 images at linf 0.1" in flags[0].text


@pytest.mark.parametrize(
    "attempts",
    [
        pytest.param([attempt("pgd", tried=ALL), attempt("square", "black-box", ALL, [3])], id="one image"),
        pytest.param([attempt("square", "black-box", ALL, ALL)], id="no white box"),
        pytest.param([attempt("pgd", tried=[0]), attempt("square", "black-box", ALL, range(1, 20))], id="not tried"),
        pytest.param(
            [attempt("fgsm", tried=ALL, one_step=True), attempt("square", "black-box", ALL, ALL)], id="one step alone"
        ),
        pytest.param(
            [
                attempt("pgd", tried=ALL, success=range(10, 20)),
                attempt("fgsm", tried=ALL, success=range(10), one_step=True),
                attempt("square", "black-box", ALL, ALL),
            ],
            id="broken by one step",
        ),
        pytest.param([attempt("pgd", tried=ALL), attempt("blur", "corruption", ALL, ALL)], id="a corruption"),
        pytest.param(
            [attempt("pgd", tried=ALL, norm="l2"), attempt("square", "black-box", ALL, ALL)], id="another norm"
        ),
        pytest.param(
            [attempt("pgd", tried=ALL, epsilon=0.05), attempt("square", "black-box", ALL, ALL)], id="a smaller ball"
        ),
        pytest.param(
            [
                attempt("pgd", tried=ALL),
                attempt("pgd", tried=ALL, success=ALL, epsilon=0.05),
                attempt("square", "black-box", ALL, ALL),
            ],
            id="broken in a smaller ball",
        ),
        pytest.param(
            [
                attempt("pgd", tried=range(1000), images=1000),
                attempt("square", "black-box", range(1000), range(4), images=1000),
            ],
            id="4 of 1000",
        ),
    ],
)
def test_what_is_no_evidence_against_white_box_attacks_is_not_called_so(attempts):
    assert of_attempts(attempts, 64) == []


def test_a_black_box_is_compared_at_its_own_epsilon_and_with_larger_balls():
    square = attempt("square", "black-box", ALL, [4, 5])
    beyond = attempt("pgd", tried=ALL, epsilon=0.2)
    assert names(of_attempts([beyond, square], 64)) == ["black-box-beats-white-box"]
    # pgd failed at the same epsilon; that it breaks them in a larger ball does not make up for it
    larger = attempt("pgd", tried=ALL, success=ALL, epsilon=0.2)
    assert names(of_attempts([attempt("pgd", tried=ALL), larger, square], 64)) == ["black-box-beats-white-box"]
    assert of_attempts([larger, square], 64) == []


def test_an_attack_is_named_once_a_norm_at_the_first_radius_that_shows_it():
    attempts = [
        attempt(label, access, ALL, broken, epsilon=epsilon, norm=norm)
        for norm in ("linf", "l2")
        for epsilon in (0.1, 0.2)
        for label, access, broken in [("pgd", "white-box", []), ("square", "black-box", range(int(epsilon * 50)))]
    ]
    flags = of_attempts(attempts, 64)
    assert names(flags) == ["black-box-beats-white-box"] * 2
    assert ["broke 5 of 20 images at linf 0.1" in flags[0].text, "at l2 0.1" in flags[1].text] == [True, True]


def test_what_was_broken_in_a_smaller_ball_and_is_not_tried_again_stays_broken():
    carried = attempt("pgd", tried=range(8, 20), success=range(8), epsilon=1)
    assert names(of_attempts([carried], 64)) == ["does-not-reach-zero"]
    assert "12 of 12" in of_attempts([carried], 64)[0].text
    square = attempt("square", "black-box", range(8), range(8), epsilon=1)
    assert names(of_attempts([carried, square], 64)) == ["does-not-reach-zero"]
    by_other = attempt("square", "black-box", (), ALL, epsilon=1)
    assert "does-not-reach-zero" not in names(of_attempts([carried, by_other], 64))
    again = attempt("square", "black-box", range(8, 10), range(10), epsilon=1)
    assert "broke 2 of 12 images" in of_attempts([carried, again], 64)[0].text


def test_parts_speak_for_the_whole():
    """The whole is broken by its black-box part, and counts as a white-box attack: it must not hide the part."""
    whole = attempt("autoattack", tried=ALL, success=[1, 2])
    parts = [
        attempt("apgd", tried=ALL, part_of="autoattack"),
        attempt("square", "black-box", ALL, [1, 2], part_of="autoattack"),
    ]
    flags = of_attempts([whole, *parts], 64)
    assert names(flags) == ["black-box-beats-white-box"]
    assert "square of autoattack" in flags[0].text


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1), ("l2", 8), ("l2", 9), ("l1", 64)])
def test_images_that_survive_where_everything_is_allowed(norm, epsilon):
    left = attempt("pgd", tried=ALL, success=range(10), epsilon=epsilon, norm=norm)
    flags = of_attempts([left], 64)
    assert names(flags) == ["does-not-reach-zero"]
    assert "10 of 20" in flags[0].text
    rest = attempt("square", "black-box", range(10, 20), range(10, 20), epsilon=epsilon, norm=norm)
    assert "does-not-reach-zero" not in names(of_attempts([left, rest], 64))
    before = attempt("pgd", tried=ALL, success=range(10, 20), epsilon=epsilon / 2, norm=norm)
    assert of_attempts([left, before], 64) == []


def test_what_need_not_reach_zero_is_not_asked_to():
    assert of_attempts([attempt("fgsm", tried=ALL, epsilon=1, one_step=True)], 64) == []
    assert of_attempts([attempt("gauss", "noise", ALL, epsilon=1)], 64) == []
    assert of_attempts([attempt("pgd", tried=ALL, epsilon=0.9)], 64) == []
    assert of_attempts([attempt("pgd", tried=ALL, epsilon=8, norm="l2")], 65) == []
    assert of_attempts([attempt("pgd", tried=range(200), success=range(199), epsilon=1, images=200)], 64) == []


def test_more_right_under_attack_than_clean():
    correct = torch.arange(10) < 6
    every = torch.ones(10, dtype=torch.bool)
    naive = Attempt("naive", "noise", ThreatModel("linf", 0.1), correct, every, torch.arange(10) < 1)
    flags = of_attempts([naive], 64)
    assert names(flags) == ["robust-above-clean"]
    assert "9 of 10 images count as right, and 6 are right when clean" in flags[0].text
    honest = Attempt("honest", "noise", ThreatModel("linf", 0.1), correct, correct, torch.arange(10) < 1)
    assert of_attempts([honest], 64) == []


def one_step(tried, success, **more):
    return attempt("fgsm", tried=tried, success=success, one_step=True, **more)


def test_one_step_that_is_weaker_than_noise():
    noise = attempt("uniform", "noise", ALL, range(8))
    flags = of_attempts([one_step(ALL, []), noise], 64)
    assert names(flags) == ["noise-beats-fgsm"]
    assert flags[0].attack == "fgsm"
    assert "broke 8 images that fgsm did not" in flags[0].text


@pytest.mark.parametrize(
    "attempts",
    [
        pytest.param([one_step(ALL, []), attempt("uniform", "noise", ALL, range(6))], id="by chance"),
        pytest.param(
            [one_step(ALL, range(8)), attempt("uniform", "noise", range(8, 20), range(8, 16))], id="fgsm first"
        ),
        pytest.param([one_step(range(8, 20), []), attempt("uniform", "noise", ALL, range(8))], id="noise first"),
        pytest.param([one_step(ALL, []), attempt("uniform", "noise", ALL, ALL, epsilon=0.2)], id="larger noise"),
        pytest.param([attempt("pgd", tried=ALL), attempt("uniform", "noise", ALL, ALL)], id="more than one step"),
    ],
)
def test_one_step_that_is_not_shown_to_be_weaker(attempts):
    assert "noise-beats-fgsm" not in names(of_attempts(attempts, 64))


def test_nothing_tried_is_nothing_to_warn_of():
    assert of_attempts([], 64) == []
    assert of_attempts([attempt("pgd", epsilon=1), attempt("square", "black-box", epsilon=1)], 64) == []


def test_attempts_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="numbers of images"):
        of_attempts([attempt("a"), attempt("b", images=3)], 64)
    with pytest.raises(ValueError, match="bool of one shape"):
        Attempt("a", "noise", ThreatModel("linf", 0.1), torch.ones(3), torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match="access"):
        attempt("a", "grey-box")


@pytest.mark.parametrize(
    ("steps", "step_size", "weak"),
    [(10, 1 / 255, True), (11, 1 / 255, True), (12, 1 / 255, False), (6, 2 / 255, False), (5, 2 / 255, True),
     (1, 8 / 255, False), (None, 1 / 255, False), (10, None, False)],
)  # fmt: skip
def test_steps_that_do_not_cross_the_ball(steps, step_size, weak):
    """1.5 times 8/255 is 12/255."""
    flags = of_options("pgd", ThreatModel("linf", "8/255"), steps, step_size)
    assert names(flags) == ["weak-steps"] * weak
    assert all(flag.attack == "pgd" and "linf 8/255" in flag.text for flag in flags)


def test_steps_that_just_cross_the_ball_cross_it_in_floating_point_too():
    assert 2 * 0.009 < 1.5 * 0.012
    assert of_options("pgd", ThreatModel("linf", 0.012), 2, 0.009) == []


def test_steps_longer_than_the_ball_is_wide():
    (flag,) = of_options("pgd", ThreatModel("linf", "8/255"), 20, 2.0)
    assert flag.name == "weak-steps"
    assert "64 epsilon" in flag.text
    assert of_options("pgd", ThreatModel("linf", 0.1), 20, 0.2) == []


def test_no_ball_needs_no_steps():
    assert of_options("pgd", ThreatModel("linf", 0), 10, 0.0) == []


# flags and evidence ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["pgd", None])
def test_a_flag_survives_json(attack):
    flag = Flag("weak-steps", "so and so", attack)
    assert Flag.of(json.loads(json.dumps(flag.plain()))) == flag


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"name": "weak", "text": "a"},
        {"name": "weak-steps"},
        {"name": "weak-steps", "text": "a", "attack": 1},
        {"name": "weak-steps", "text": "a", "more": 1},
        {"name": ["weak-steps"], "text": "a"},
    ],
)
def test_what_is_no_flag_is_refused(plain):
    with pytest.raises(InputError, match="flag"):
        Flag.of(plain)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="weak-steps"):
        Flag("weak", "a")


def test_the_sign_test_against_the_binomial_distribution():
    assert by_chance(0, 0) == 1
    assert by_chance(7, 0) == 2**-7 < 0.01 < by_chance(6, 0)
    assert FEWEST == 7
    for first in range(9):
        expected = sum(comb(12, ahead) for ahead in range(first, 13)) / 2**12
        assert by_chance(first, 12 - first) == pytest.approx(expected)


def test_the_binomial_tail_against_its_sum():
    for right in range(8):
        expected = sum(comb(7, ahead) * 0.3**ahead * 0.7 ** (7 - ahead) for ahead in range(right, 8))
        assert at_least(right, 7, 0.3) == pytest.approx(expected)
    assert at_least(3, 3, 1.0) == 1


# 40 images of four classes: 10 right are what one answer has; 17 are so by chance with probability 0.012, 18 with 0.005
@pytest.mark.parametrize(
    ("classes", "right", "answer", "due"),
    [
        ((10, 10, 10, 10), 10, 2, {"constant-answer", "chance-level"}),
        ((10, 10, 10, 10), 3, None, {"chance-level"}),
        ((10, 10, 10, 10), 17, None, {"chance-level"}),
        ((10, 10, 10, 10), 18, None, set()),
        ((37, 1, 1, 1), 37, None, {"chance-level"}),  # unequal classes: what looks like 92 % is one answer's
        ((20,), 20, None, {"chance-level"}),  # images of one class tell nothing
        ((1, 1, 1), 3, None, set()),  # too few for a test, and more than one answer has
        ((1, 1, 1), 1, None, {"chance-level"}),
    ],
)
def test_a_classifier_that_does_not_look_at_images(classes, right, answer, due):
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(classes))
    wrong = torch.arange(len(labels)) >= right
    predictions = torch.full_like(labels, answer) if answer is not None else torch.where(wrong, labels + 1, labels)
    assert int((predictions == labels).sum()) == right
    assert set(names(blind(predictions, labels))) == due


def test_how_many_images_count():
    assert not counts(1, 1, 0.01)
    assert counts(2, 2, 0.01)
    assert not counts(4, 1000, 0.005)
    assert counts(5, 1000, 0.005)


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
