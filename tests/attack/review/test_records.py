"""What attacks did, looked at as a reviewer would: which results earn a warning, and which do not."""

import attrs
import numpy as np
import pytest

from robustnas.attack.column import Column
from robustnas.attack.outcomes import Outcomes
from robustnas.attack.review.records import of_attacks, of_options
from robustnas.threat import ThreatModel


def names(flags):
    return [flag.name for flag in flags]


def attack(label, access, threat, correct, tried, success, one_step=False):
    index = np.arange(len(correct))
    done = Outcomes(
        threat,
        index=index,
        label=index * 0,
        clean=(~correct).astype(np.int64),
        tried=np.isin(index, tried).astype(np.int64),
        success=np.isin(index, success),
        access=(access,),
    )
    return Column(label, threat, access=access, one_step=one_step), [done]


def attempt(label, access="white-box", tried=(), success=(), *, epsilon=0.1, norm="linf", images=20, **more):
    """An attack on images that are all right when clean; indices of those tried and broken."""
    return attack(label, access, ThreatModel(norm, epsilon), np.ones(images, dtype=bool), tried, success, **more)


ALL = range(20)


@pytest.mark.parametrize("access", ["black-box", "noise"])
def test_what_falls_to_a_black_box_alone_is_counted(access):
    flags = of_attacks([attempt("pgd", tried=ALL, success=[0]), attempt("other", access, ALL, [0, 1, 2])], 64)
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
    assert of_attacks(attempts, 64) == []


def test_a_black_box_is_compared_at_its_own_epsilon_and_with_larger_balls():
    square = attempt("square", "black-box", ALL, [4, 5])
    beyond = attempt("pgd", tried=ALL, epsilon=0.2)
    assert names(of_attacks([beyond, square], 64)) == ["black-box-beats-white-box"]
    # pgd failed at the same epsilon; that it breaks them in a larger ball does not make up for it
    larger = attempt("pgd", tried=ALL, success=ALL, epsilon=0.2)
    assert names(of_attacks([attempt("pgd", tried=ALL), larger, square], 64)) == ["black-box-beats-white-box"]
    assert of_attacks([larger, square], 64) == []


def test_an_attack_is_named_once_a_norm_at_the_first_radius_that_shows_it():
    attempts = [
        attempt(label, access, ALL, broken, epsilon=epsilon, norm=norm)
        for norm in ("linf", "l2")
        for epsilon in (0.1, 0.2)
        for label, access, broken in [("pgd", "white-box", []), ("square", "black-box", range(int(epsilon * 50)))]
    ]
    flags = of_attacks(attempts, 64)
    assert names(flags) == ["black-box-beats-white-box"] * 2
    assert ["broke 5 of 20 images at linf 0.1" in flags[0].text, "at l2 0.1" in flags[1].text] == [True, True]


def test_what_was_broken_in_a_smaller_ball_and_is_not_tried_again_stays_broken():
    carried = attempt("pgd", tried=range(8, 20), success=range(8), epsilon=1)
    assert names(of_attacks([carried], 64)) == ["does-not-reach-zero"]
    assert "12 of 12" in of_attacks([carried], 64)[0].text
    square = attempt("square", "black-box", range(8), range(8), epsilon=1)
    assert names(of_attacks([carried, square], 64)) == ["does-not-reach-zero"]
    by_other = attempt("square", "black-box", (), ALL, epsilon=1)
    assert "does-not-reach-zero" not in names(of_attacks([carried, by_other], 64))
    again = attempt("square", "black-box", range(8, 10), range(10), epsilon=1)
    assert "broke 2 of 12 images" in of_attacks([carried, again], 64)[0].text


def test_parts_speak_for_the_whole():
    """The whole is broken by its black-box part, and counts as a white-box attack: it must not hide the part."""
    column, (done,) = attempt("autoattack", tried=ALL, success=[1, 2])
    parts = {"parts": ("apgd", "square"), "access": ("white-box", "black-box"), "tried": done.tried * 2}
    broken = attrs.evolve(done, by=np.where(done.success, 1, -1), **parts)
    flags = of_attacks([(column, [broken])], 64)
    assert names(flags) == ["black-box-beats-white-box"]
    assert flags[0].attack == "square"
    assert "square of autoattack" in flags[0].text
    assert of_attacks([(column, [attrs.evolve(broken, by=np.where(done.success, 0, -1))])], 64) == []


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1), ("l2", 8), ("l2", 9), ("l1", 64)])
def test_images_that_survive_where_everything_is_allowed(norm, epsilon):
    left = attempt("pgd", tried=ALL, success=range(10), epsilon=epsilon, norm=norm)
    flags = of_attacks([left], 64)
    assert names(flags) == ["does-not-reach-zero"]
    assert "10 of 20" in flags[0].text
    rest = attempt("square", "black-box", range(10, 20), range(10, 20), epsilon=epsilon, norm=norm)
    assert "does-not-reach-zero" not in names(of_attacks([left, rest], 64))
    before = attempt("pgd", tried=ALL, success=range(10, 20), epsilon=epsilon / 2, norm=norm)
    assert of_attacks([left, before], 64) == []


def test_what_need_not_reach_zero_is_not_asked_to():
    assert of_attacks([attempt("fgsm", tried=ALL, epsilon=1, one_step=True)], 64) == []
    assert of_attacks([attempt("gauss", "noise", ALL, epsilon=1)], 64) == []
    assert of_attacks([attempt("pgd", tried=ALL, epsilon=0.9)], 64) == []
    assert of_attacks([attempt("pgd", tried=ALL, epsilon=8, norm="l2")], 65) == []
    assert of_attacks([attempt("pgd", tried=range(200), success=range(199), epsilon=1, images=200)], 64) == []


def test_more_right_under_attack_than_clean():
    correct = np.arange(10) < 6
    flags = of_attacks([attack("naive", "noise", ThreatModel("linf", 0.1), correct, range(10), [0])], 64)
    assert names(flags) == ["robust-above-clean"]
    assert "9 of 10 images count as right, and 6 are right when clean" in flags[0].text
    assert of_attacks([attack("honest", "noise", ThreatModel("linf", 0.1), correct, range(6), [0])], 64) == []


def one_step(tried, success, **more):
    return attempt("fgsm", tried=tried, success=success, one_step=True, **more)


def test_one_step_that_is_weaker_than_noise():
    noise = attempt("uniform", "noise", ALL, range(8))
    flags = of_attacks([one_step(ALL, []), noise], 64)
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
    assert "noise-beats-fgsm" not in names(of_attacks(attempts, 64))


def test_nothing_tried_is_nothing_to_warn_of():
    assert of_attacks([], 64) == []
    assert of_attacks([attempt("pgd", epsilon=1), attempt("square", "black-box", epsilon=1)], 64) == []


def test_attempts_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="numbers of images"):
        of_attacks([attempt("a"), attempt("b", images=3)], 64)
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


def test_steps_longer_than_the_ball_is_wide():
    (flag,) = of_options("pgd", ThreatModel("linf", "8/255"), 20, 2.0)
    assert flag.name == "weak-steps"
    assert "64 epsilon" in flag.text


@pytest.mark.parametrize(
    ("epsilon", "steps", "step_size"),
    [
        (0.1, 20, 0.2),  # as long as the ball is wide
        (0.012, 2, 0.009),  # 2 * 0.009 < 1.5 * 0.012 in floating point
        (0, 10, 0.0),
    ],
)
def test_steps_that_are_just_enough(epsilon, steps, step_size):
    assert of_options("pgd", ThreatModel("linf", epsilon), steps, step_size) == []
