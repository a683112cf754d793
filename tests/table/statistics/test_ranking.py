"""Rank correlations, their bootstrap intervals, and noise ceilings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustnas.table.statistics import ranking
from robustnas.table.statistics.ranking import Correlation, correlation, kendall, noise_ceiling, spearman

KINDS = [(kendall, stats.kendalltau), (spearman, stats.spearmanr)]


@pytest.mark.parametrize(("kind", "theirs"), KINDS)
@pytest.mark.parametrize("block", [30, 2**22])
def test_draws_are_what_scipy_finds_of_the_drawn(
    kind: Correlation, theirs: object, block: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ranking, "BLOCK", block)
    generator = np.random.default_rng(0)
    first = generator.integers(0, 6, 12).astype(float)  # with ties
    second = first + generator.normal(0, 2, 12).round(0)
    draws = generator.multinomial(12, np.full(12, 1 / 12), size=8)
    counts = np.vstack([np.ones(12), draws])
    expected = [theirs(np.repeat(first, n), np.repeat(second, n)).statistic for n in counts.astype(int)]  # type: ignore[operator]
    assert kind(first, second, counts) == pytest.approx(expected)


def test_a_constant_and_too_few_architectures_have_no_correlation():
    assert np.isnan(kendall(np.ones(4), np.arange(4.0), np.ones((1, 4)))).all()
    assert correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert correlation([1, 2], [1, 2]) is None
    assert noise_ceiling([[0.1], [0.2], [0.3]]) is None
    assert noise_ceiling([[0.1, 0.2], [0.2, 0.3]]) is None
    found = correlation([1, 2, 3], [1, 2, 4])
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)


def test_a_seed_gives_the_same_interval():
    first, second = np.arange(20.0), np.arange(20.0) % 7
    assert correlation(first, second, seed=3) == correlation(first, second, seed=3)
    assert correlation(first, second, seed=3) != correlation(first, second, seed=4)


@pytest.mark.parametrize(("kind", "truth"), [(kendall, 2 / np.pi * np.arcsin(0.7)), (spearman, 0.683)])
def test_bootstrap_intervals_cover(kind: Correlation, truth: float):
    generator = np.random.default_rng(5)
    held = 0
    for seed in range(300):
        first, second = generator.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 30).T
        found = correlation(first, second, kind, seed=seed, draws=300)
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.88 < held / 300 <= 0.98  # percentile intervals of 30 architectures are a little short


def test_the_ceiling_is_the_outcomes_own_correlation():
    generator = np.random.default_rng(0)
    outcomes = generator.normal(0, 1, (400, 1)) + generator.normal(0, 1, (400, 3))
    found = noise_ceiling(outcomes.tolist())
    assert found is not None
    pairs = [stats.spearmanr(outcomes[:, i], outcomes[:, j]).statistic for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.between_trainings.value == pytest.approx(np.mean(pairs))
    assert found.of_the_mean.value == pytest.approx(0.75, abs=0.05), "3/4 of the mean's variance is the architecture's"
    assert found.highest.value == pytest.approx(found.of_the_mean.value**0.5)
    assert found.seeds == 3
    assert found.highest.low < found.highest.value < found.highest.high
