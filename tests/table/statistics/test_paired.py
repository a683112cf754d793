"""Tests of pairs over seeds and images, and Holm's correction."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from robustnas.table.statistics import paired


@pytest.mark.parametrize("number", [5, 8, 15])
def test_wilcoxon_is_scipys_exact_test(number: int):
    generator = np.random.default_rng(number)
    for _ in range(20):
        gaps = generator.normal(0.4, 1, number)
        assert paired.wilcoxon(gaps) == pytest.approx(stats.wilcoxon(gaps, method="exact").pvalue, abs=1e-15)


def test_wilcoxon_with_ties_is_exact_over_all_signs():
    gaps = [0.02, 0.01, -0.01, 0.03, 0.02, 0.0, 0.1 + 0.2 - 0.27]  # the last is 0.03 but for rounding
    ranks = stats.rankdata([2, 1, 1, 3, 2, 3])
    seen = abs(np.dot(ranks, [1, 1, -1, 1, 1, 1]))
    every = [abs(np.dot(ranks, signs)) >= seen for signs in product([-1, 1], repeat=6)]
    assert paired.wilcoxon(gaps) == pytest.approx(np.mean(every), abs=1e-14)
    assert paired.wilcoxon([0.0, 0.0]) == 1.0
    assert paired.wilcoxon([0.1, -0.1]) == 1.0
    assert paired.wilcoxon([0.1] * 60) == 2.0**-59, "rounding does not go below the least p"


def test_mcnemar_is_the_binomial_test_of_discordant_pairs():
    first = [True] * 9 + [False] * 3 + [True] * 20
    second = [False] * 9 + [True] * 3 + [True] * 20
    assert paired.mcnemar(first, second) == pytest.approx(stats.binomtest(3, 12).pvalue, abs=1e-14)
    assert paired.mcnemar(first, first) == 1.0
    generator = np.random.default_rng(0)
    for _ in range(20):
        one, two = generator.random((2, 10_000)) < [[0.30], [0.31]]
        expected = stats.binomtest(int((one & ~two).sum()), int((one ^ two).sum())).pvalue
        assert paired.mcnemar(one, two) == pytest.approx(expected, abs=1e-11)
        assert paired.mcnemar_over_networks([one], [two]) == pytest.approx(expected, abs=1e-11)


def test_over_networks_an_image_is_one_unit():
    first = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 0], [1, 0, 1, 1, 0]])
    second = np.array([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    scores = [3, 1, 2, 2, -1]
    every = [abs(np.dot(scores, signs)) >= 7 for signs in product([-1, 1], repeat=5)]
    assert paired.mcnemar_over_networks(first, second) == pytest.approx(np.mean(every), abs=1e-14)


def test_over_networks_the_level_holds_where_added_up_pairs_exceed_it():
    generator = np.random.default_rng(2)
    ours = added = 0
    for _ in range(400):
        # two methods that are alike, each strong on images of its own, five networks each
        hard = generator.normal(0, 1, (2, 100))
        one, two = (hard[i] + generator.normal(0, 0.5, (5, 100)) > 0 for i in (0, 1))
        ours += paired.mcnemar_over_networks(one, two) <= 0.05
        added += paired.mcnemar(one.ravel(), two.ravel()) <= 0.05
    assert ours / 400 < 0.08
    assert added / 400 > 0.2


def test_holm_worked_by_hand():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
    assert paired.holm([]) == []


def test_a_difference_over_pairs():
    first, second = [0.9, 0.8, None, 0.85, 0.7, 0.95], [0.8, 0.75, 0.9, 0.7, 0.72, 0.9]
    found = paired.difference(first, second)
    assert found is not None
    gaps = [0.1, 0.05, 0.15, -0.02, 0.05]
    assert found.pairs == 5
    assert found.p == 4 / 32, "ranks 4, 2.5, 5, -1, 2.5: two of the 16 pairs of opposite signs are as far from 0"
    test = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert found.interval is not None
    assert (found.mean, found.interval.low, found.interval.high) == pytest.approx((0.066, *test))
    few = paired.difference(first[:5], second[:5])
    assert few is not None
    assert (few.interval, few.p, few.pairs) == (None, None, 4), "four pairs support no claim"
    assert paired.difference([None, 0.1], [0.2, None]) is None
    same = paired.difference([0.1 + 0.2] * 6, [0.3] * 6)
    assert same is not None
    assert (same.p, same.mean) == (1.0, 0.0), "equal but for rounding"


@pytest.mark.parametrize(("family", "pairs"), [(1, 6), (2, 7), (5, 8), (11, 9), (12, 9), (25, 10)])
def test_pairs_needed_are_those_whose_least_p_survives_holm(family: int, pairs: int):
    assert paired.pairs_needed(family) == pairs
    assert family * paired.wilcoxon([0.1] * pairs) <= paired.LEVEL < family * paired.wilcoxon([0.1] * (pairs - 1))
