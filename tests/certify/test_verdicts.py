"""What several attacks and certificates say together of one network, image by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustnas.attack import Outcomes
from robustnas.attack.column import Column
from robustnas.attack.review.records import of_attacks
from robustnas.certify import verdicts
from robustnas.certify.verdicts import Attacked
from robustnas.errors import VerdictError
from robustnas.threat import NORMS, ThreatModel

LINF, L2 = ThreatModel("linf", 0.1), ThreatModel("l2", 0.5)
CLEAN = [False, True, True, True, True]
"""Five images, the first wrong when clean; their places in the test split are 10, 20, ..."""


def record(threat: ThreatModel, success: list[int], given: list[int] | None = None, **more: Any) -> Outcomes:
    label = np.zeros(5, dtype=np.int64)
    clean = np.where(CLEAN, 0, 1)
    fooled = np.isin(np.arange(5), success)
    found: dict[str, Any] = {
        "tried": np.array(CLEAN if given is None else np.isin(np.arange(5), given)).astype(np.int64),
        "prediction": np.where(fooled, 2, clean),
        "success": fooled,
        "by": np.where(fooled, 0, -1),
        **{f"size_{norm}": np.where(fooled, threat.epsilon, np.inf) for norm in NORMS},
        "evaluations": 10,
    }
    return Outcomes(threat, index=np.arange(10, 60, 10), label=label, clean=clean, **{**found, **more})


def measured(label: str, *rows: Outcomes, access: str = "white-box", spared: bool = False) -> Attacked:
    return Column(label, rows[-1].threat, access=access, spared=spared), rows


def test_robust_is_the_worst_case_of_each_image():
    found = [measured("a", record(LINF, [1])), measured("b", record(LINF, [2])), measured("c", record(L2, [3, 4]))]
    told = verdicts.of(found, LINF, [])
    assert told.robust == [False, False, False, True, True]
    assert told.standing == {"a": [0, 0, 1, 1, 1], "b": [0, 1, 0, 1, 1], "c": [0, 1, 1, 0, 0]}
    assert told.evaluations == {"a": 2.0, "b": 2.0, "c": 2.0}


def test_a_spared_column_is_what_the_attacks_up_to_it_left():
    found = [
        measured("a", record(LINF, [1])),
        measured("b", record(LINF, [2], given=[2, 3, 4]), spared=True),
        measured("c", record(L2, [4])),
    ]
    told = verdicts.of(found, LINF, [])
    assert told.standing["b"] == [0, 0, 0, 1, 1]
    assert told.standing["c"] == [0, 1, 1, 1, 0]


def test_a_smaller_radius_counts_for_a_larger_one_and_not_the_other_way():
    small, large = ThreatModel("linf", 0.05), ThreatModel("linf", 0.2)
    found = [measured("a", record(small, [1]), record(LINF, [1, 2]), record(large, [1, 2, 3]))]
    told = verdicts.of(found, LINF, [0.05, 0.2])
    assert told.robust == [False, False, False, True, True]
    assert told.curve == {0.05: [False, False, True, True, True], 0.2: [False, False, False, False, True]}
    assert verdicts.of(found, small, []).robust == [False, False, True, True, True]
    assert verdicts.of(found, ThreatModel("linf", 0.01), []).robust is None


def test_a_corruption_is_a_mean_and_no_worst_case():
    found = [
        measured(
            "noise", record(LINF, [1, 2], variant="fog/1"), record(LINF, [1], variant="fog/2"), access="corruption"
        ),
        measured("a", record(LINF, [4])),
    ]
    told = verdicts.of(found, LINF, [])
    assert told.standing["noise"] == [0, 0, 0.5, 1, 1]
    assert told.variants == {"noise": {"fog/1": 0.4, "fog/2": 0.6}}
    assert told.robust == [False, True, True, True, False]


def test_what_each_part_broke():
    by = np.array([-1, 0, 1, 1, -1])
    found = measured("aa", record(LINF, [1, 2, 3], by=by, parts=("apgd", "square"), access=("white-box", "black-box")))
    assert verdicts.of([found], LINF, []).parts == {"aa": {"apgd": 1, "square": 2}}


def clean() -> Any:
    return np.array(CLEAN)


GOOD = [measured("a", record(LINF, [1]))]
"""Image 1 (place 20) is fooled by a perturbation of 0.1 in every norm."""


def test_results_that_agree_pass():
    radius = {"linf": [0.0, 0.09, 0.3, 0.2], "l2": [0.0, 0.1, 0.4, 0.3]}
    verdicts.check("m", GOOD, clean(), [False, False, True, True], radius, LINF)
    verdicts.check("m", [], clean(), [False, True], {"linf": [0.0, 1.0]}, LINF)
    verdicts.check("m", [], None, None, {}, LINF)


FOG = [measured("fog", record(LINF, [2], variant="fog/1"), access="corruption")]


@pytest.mark.parametrize(
    ("attacked", "certified", "radius", "message"),
    [
        (GOOD, [False, True, False], {}, "test image 20 is certified and yet broken by a"),
        (GOOD, [True, False, False], {}, "test image 10 is certified and yet wrong when clean"),
        (GOOD, None, {"linf": [0, 0.11]}, "test image 20 has a certified linf radius of 0.11 and was fooled by .*0.1;"),
        (GOOD, None, {"l1": [0, 0.11]}, "test image 20 has a certified l1 radius"),
        (FOG, None, {"l2": [0, 0, 0.2]}, "test image 30 .* radius"),
    ],
)
def test_contradictions_name_the_image(attacked, certified, radius, message):
    with pytest.raises(VerdictError, match=f"who: {message}"):
        verdicts.check("who", attacked, clean(), certified, radius, LINF)


def test_what_is_certified_at_a_further_radius_is_held_against_attacks_there():
    stronger = [measured("a", record(LINF, [1]), record(ThreatModel("linf", 0.2), [2]))]
    verdicts.check("m", stronger, clean(), None, {}, LINF, {0.1: [False, False, True], 0.2: [False] * 3})
    with pytest.raises(VerdictError, match=r"who: test image 30 is certified at 0\.2 and yet broken by a"):
        verdicts.check("who", stronger, clean(), None, {}, LINF, {0.2: [False, False, True]})
    with pytest.raises(VerdictError, match=r"test image 10 is certified at 0\.05 and yet wrong when clean"):
        verdicts.check("who", stronger, clean(), [False] * 3, {}, LINF, {0.05: [True, False, False]})


def test_an_attack_of_another_threat_may_break_what_is_certified():
    verdicts.check("m", [measured("a", record(L2, [1]))], clean(), [False, True], {"linf": [0.0, 0.2]}, LINF)


def test_clean_predictions_that_changed_are_told():
    with pytest.raises(VerdictError, match="another clean prediction in a"):
        verdicts.check("m", GOOD, np.array([True] * 5), None, {}, LINF)


def test_an_image_that_stands_without_having_been_tried_is_told():
    spared = measured("b", record(LINF, [3], given=[3, 4]), spared=True)
    with pytest.raises(VerdictError, match="test image 30 stands and was never given to b"):
        verdicts.check("m", [measured("a", record(LINF, [1])), spared], clean(), None, {}, LINF)
    verdicts.check("m", [measured("a", record(LINF, [1, 2])), spared], clean(), None, {}, LINF)


def test_a_black_box_part_that_beats_the_white_box_parts_is_flagged():
    by = np.array([-1, 1, 1, 1, -1])
    parts = {"parts": ("apgd", "square"), "access": ("white-box", "black-box"), "tried": np.array([0, 2, 2, 2, 2])}
    masked = measured("aa", record(LINF, [1, 2, 3], by=by, **parts))
    assert "black-box-beats-white-box" in {flag.name for flag in of_attacks([masked], 16)}
    sound = measured("aa", record(LINF, [1, 2, 3], by=np.where(by == 1, 0, by), **parts))
    assert not of_attacks([sound], 16)


def test_a_worst_case_over_some_of_the_attacks_is_none():
    told = verdicts.of(GOOD, LINF, [0.1], whole=False)
    assert told.robust is None
    assert told.curve == {}
    assert told.standing["a"] == [0, 0, 1, 1, 1]
