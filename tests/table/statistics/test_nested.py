"""Means and intervals of nested designs, and the share of variance between architectures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustnas.table.statistics.estimate import mean_estimate
from robustnas.table.statistics.intraclass import shares
from robustnas.table.statistics.nested import nested

RATINGS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Shrout and Fleiss 1979, table 2: six targets, four ratings each."""


def drawn(generator: np.random.Generator, between: float, within: float, sizes: list[int]) -> list[list[float]]:
    """Values[architecture][training] with standard deviations between and within, around 0."""
    return [list(generator.normal(generator.normal(0, between), within, size)) for size in sizes]


def test_a_nested_design_worked_by_hand():
    found = nested([[0.80, 0.90], [0.70, 0.70, 0.76], [None, None], [0.90]])
    assert found is not None
    assert found.means == [pytest.approx(0.85), pytest.approx(0.72), None, 0.9]
    assert found.mean == pytest.approx((0.85 + 0.72 + 0.9) / 3), "every search counts the same"
    assert found.std == pytest.approx(np.std([0.85, 0.72, 0.9], ddof=1))
    assert found.std_within == pytest.approx(((0.005 + 0.0024) / 3) ** 0.5), "1 + 2 degrees of freedom"
    interval = stats.t.interval(0.95, 2, found.mean, stats.sem([0.85, 0.72, 0.9]))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx(interval)


def test_what_a_design_cannot_say_is_none():
    assert nested([[None], []]) is None
    one = nested([[0.5]])
    assert one is not None
    assert (one.mean, one.std, one.std_within, one.interval) == (0.5, None, None, None)
    fixed = nested([[0.5, 0.7]])
    assert fixed is not None
    assert fixed.std is None, "trainings of one search are not searches"
    assert fixed.std_within == pytest.approx(0.02**0.5)
    assert mean_estimate([1.0]) is None
    assert shares([[1.0], [2.0], [3.0]]) is None
    assert shares([[1.0, 2.0]]) is None
    assert shares([[1.0, 1.0], [1.0, 1.0]]) is None


def test_the_interval_covers_the_mean_of_a_nested_design_and_one_over_networks_does_not():
    generator = np.random.default_rng(0)
    held, naive = 0, 0
    for _ in range(2000):
        values = drawn(generator, 1.0, 0.5, [3] * 6)
        found = nested(values)
        assert found is not None
        assert found.interval is not None
        flat = mean_estimate([value for below in values for value in below])
        assert flat is not None
        held += found.interval.low <= 0 <= found.interval.high
        naive += flat.low <= 0 <= flat.high
    assert 0.935 < held / 2000 < 0.965
    assert naive / 2000 < 0.8, "eighteen networks of six searches are not eighteen searches"


def test_intraclass_correlations_of_the_textbook():
    found = shares(RATINGS)
    assert found is not None
    assert round(found.single.value, 2) == 0.17
    assert round(found.averaged.value, 2) == 0.44
    assert (round(found.single.high, 2), round(found.averaged.high, 2)) == (0.72, 0.91)
    assert (found.single.low, found.averaged.low, found.count) == (0.0, 0.0, 4), "a share is not negative"
    eight = shares(RATINGS, count=8)
    assert eight is not None
    r = found.single.value
    assert eight.averaged.value == pytest.approx(8 * r / (1 + 7 * r)), "Spearman and Brown's formula"


def test_architectures_that_train_alike_have_the_whole_share():
    found = shares([[1.0, 1.0], [2.0, 2.0]])
    assert found is not None
    assert (found.single.value, found.single.low, found.single.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("sizes", [[2] * 10, [3] * 6, [1, 2, 3, 4, 5, 3, 2, 1]])
def test_the_interval_of_the_share_covers_it(sizes: list[int]):
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        found = shares(drawn(generator, 1.0, 1.0, sizes))
        assert found is not None
        held += found.single.low <= 0.5 <= found.single.high
    assert 0.93 < held / 1000 < 0.97
