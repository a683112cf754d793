"""Flags as data, how much is more than chance, and networks whose answers have nothing to do with the images."""

import json
from math import comb

import pytest
import torch

from robustnas.attack.review.answers import blind
from robustnas.attack.review.evidence import FEWEST, at_least, by_chance, counts
from robustnas.attack.review.flag import Flag
from robustnas.errors import InputError


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
    assert {flag.name for flag in blind(predictions.numpy(), labels.numpy())} == due


def test_how_many_images_count():
    assert not counts(1, 1, 0.01)
    assert counts(2, 2, 0.01)
    assert not counts(4, 1000, 0.005)
    assert counts(5, 1000, 0.005)
