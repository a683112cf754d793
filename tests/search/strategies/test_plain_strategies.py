"""The strategies without candidates: the bilevel search, a random draw, and the best of several draws."""

from __future__ import annotations

import pytest

from robustnas.contracts import uses
from robustnas.search.candidates import BestOf
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.search.strategies.evolution import Evolution
from robustnas.search.strategies.one_shot import OneShot
from robustnas.search.strategies.random import Random
from robustnas.search.strategies.random_search import RandomSearch
from robustnas.testing import check_strategy


@pytest.mark.parametrize("strategy", [Bilevel(), Random(), RandomSearch(2)], ids=["bilevel", "random", "random-search"])
def test_keeps_the_contract(strategy):
    assert "search is a function of its context: the seed, and what estimate answers" in check_strategy(strategy)


def test_what_each_uses_of_a_method():
    assert uses(Bilevel()) == {"metric", "search"}
    assert uses(Random()) == uses(RandomSearch(2)) == uses(Evolution()) == set()
    assert uses(Evolution(objective="metric")) == {"metric"}
    assert uses(OneShot()) == uses(Evolution(network="inherited")) == {"metric", "search"}


def test_random_search_is_the_best_of_random_draws():
    strategy = RandomSearch(4, epochs=2)
    assert strategy.best_of == BestOf(4, epochs=2)
    assert isinstance(strategy, Random)
