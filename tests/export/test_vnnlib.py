"""Boxes cut nothing off, and properties mean what they say."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from robustnas.export import box, vnnlib
from robustnas.threat import ThreatModel
from support.vnnlib_reader import exact, forms, holds, read_box, shapes_of


def pixels() -> Tensor:
    """Pixels as they come: of bytes, of digits, the ends, tiny ones, any."""
    any_ = torch.rand(200, generator=torch.Generator().manual_seed(1))
    odd = torch.tensor([0.0, 1.0, 1e-38, 1e-45, 1 - 2.0**-24, 2.0**-24, 0.5])
    return torch.cat([torch.arange(256) / 255, torch.arange(17) / 16, odd, any_]).reshape(1, 1, -1)


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 1 / 255, 8 / 255, 0.02, 0.1, 0.3, 0.999, 1.0])
def test_a_box_holds_the_exact_ball_and_the_float32_one(epsilon: float) -> None:
    image = pixels()
    made = box.around(image, epsilon)
    threat = ThreatModel("linf", epsilon)
    corners = [threat.project(image + sign, image) for sign in (-1.0, 1.0)]
    radius = torch.tensor(epsilon)
    ends = [(image - radius).clamp_min(0), (image + radius).clamp_max(1)]
    walked = 0
    for index, pixel in enumerate(exact(image)):
        low, high = Fraction(made.lower[index]), Fraction(made.upper[index])
        least, largest = max(pixel - Fraction(epsilon), Fraction(0)), min(pixel + Fraction(epsilon), Fraction(1))
        assert 0 <= low <= least <= largest <= high <= 1
        for reached in (*corners, *ends):
            assert low <= Fraction(reached.flatten()[index].item()) <= high
        assert least - low <= Fraction(2) ** -24
        assert high - largest <= Fraction(2) ** -24
        # read as float64 it still holds both
        assert Fraction(float(made.lower[index])) <= least
        assert Fraction(float(made.upper[index])) >= largest
        walked += 1
    assert walked == image.numel() > 400


def test_nearest_decimals_would_cut_something_off() -> None:
    """Why ends are rounded outwards: `repr` of the float64 difference does not hold the ball."""
    image, epsilon = pixels(), 8 / 255
    cut = [p for p in exact(image) if Fraction(repr(float(p) - epsilon)) > p - Fraction(epsilon)]
    assert len(cut) > 50


def test_decimals_have_no_exponent() -> None:
    made = box.around(pixels(), 1e-9)
    numbers = {*made.lower, *made.upper}
    assert len(numbers) > 400
    assert all(re.fullmatch(r"[01]\.\d{1,20}", number) for number in numbers)
    assert box.downwards(Fraction(-1, 3)) == "0.0"
    assert box.upwards(Fraction(4, 3)) == "1.0"
    assert Fraction(box.downwards(Fraction(1, 3))) < Fraction(1, 3) < Fraction(box.upwards(Fraction(1, 3)))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("classes", "label"), [(2, 1), (10, 3)])
def test_a_property_is_true_exactly_for_images_in_the_box_that_are_not_classified_so(
    version: str, classes: int, label: int
) -> None:
    generator = torch.Generator().manual_seed(classes)
    image = torch.rand(2, 3, 2, generator=generator)
    text = vnnlib.WRITERS[version](box.around(image, 0.1), label, classes, ("a comment (with brackets)",))
    seen = set()
    for trial in range(60):
        reach = 0.1 if trial % 2 else 0.2
        point = (image + reach * (2 * torch.rand(image.shape, generator=generator) - 1)).clamp(0, 1)
        logits = torch.randint(0, 3, (classes,), generator=generator).float()  # with ties
        logits[label] += trial // 2 % 3
        inside = bool(((point - image).abs() <= 0.1).all())
        violated = bool((logits[[j for j in range(classes) if j != label]] >= logits[label]).any())
        assert holds(text, exact(point), exact(logits)) == (inside and violated)
        seen.add((inside, violated))
    assert len(seen) == 4


def test_entries_are_in_the_order_of_memory_in_both_versions() -> None:
    image = torch.arange(24).reshape(2, 3, 4) / 100
    made = box.around(image, 0.0)
    one, two = (vnnlib.WRITERS[version](made, 0, 3, ()) for version in ("1.0", "2.0"))
    assert shapes_of(two) == {"X": [1, 2, 3, 4], "Y": [1, 3]}
    assert read_box(one) == read_box(two)
    lower, upper = read_box(one)
    for index, value in enumerate(exact(image)):
        assert Fraction(lower[index]) <= value <= Fraction(upper[index])
    assert f"(assert (>= X[0,1,2,3] {lower[23]}))" in two
    declared = [form[1] for form in forms(one) if form[0] == "declare-const"]
    assert declared == [*(f"X_{i}" for i in range(24)), "Y_0", "Y_1", "Y_2"]


def test_the_standards_own_parser_reads_version_2() -> None:
    parser = pytest.importorskip("vnnlib", reason="needs vnnlib, the parser of VNN-LIB 2.0")
    for classes in (2, 10):
        made = box.around(torch.rand(3, 2, 2), 0.1)
        query = parser.parse_query_string(vnnlib.version_2(made, 1, classes))
        assert len(query.assertions) == 25
        assert len(query.assertions[-1].expr.to_dnf()) == classes - 1
        assert [one.shape for one in (query.networks[0].inputs[0], query.networks[0].outputs[0])] == [
            [1, 3, 2, 2],
            [1, classes],
        ]
