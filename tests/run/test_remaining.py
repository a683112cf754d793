"""The time left of a whole run: from what was measured, and nothing beyond it."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from robustnas.plan import Kind, Seed, Stage
from robustnas.run.progress import Progress
from robustnas.run.remaining import Remaining, Working
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.search.strategies.evolution import Evolution
from robustnas.search.strategies.random import Random


def method(epochs: int, searches: bool = True) -> Any:
    return SimpleNamespace(
        searches=searches,
        strategy=Bilevel() if searches else Random(),
        search=SimpleNamespace(epochs=epochs),
        train=SimpleNamespace(epochs=2 * epochs),
    )


PLAN: Any = SimpleNamespace(
    search=SimpleNamespace(epochs=3),
    methods={
        **{"a": method(10), "b": method(20), "drawn": method(5, searches=False)},
        "evolved": SimpleNamespace(searches=False, strategy=Evolution(candidates=30), search=None, train=None),
    },
)


def stage(kind: Kind, name: str, seed: int = 0, label: str | None = None) -> Stage:
    column: Any = None if label is None else SimpleNamespace(label=label)
    return Stage(kind, f"{kind}{name}{seed}{label}", name, Seed(seed), column=column)


def remaining(*todo: Stage, places: int = 1) -> Remaining:
    return Remaining(PLAN, todo, places)


def test_a_stage_costs_an_epoch_what_those_of_its_method_did_and_else_what_those_of_others_did():
    searches = [stage("search", name, seed) for seed in (0, 1) for name in ("a", "b")]
    found = remaining(*searches)
    assert found.text([]) == "", "nothing is measured"
    found.ended(searches[0], 600.0)
    assert found.text([]) == "about 50 min left", "20 + 10 + 20 epochs of a minute"
    found.ended(searches[1], 2400.0)
    assert found.text([]) == "about 50 min left", "10 of one minute, and 20 of two"
    found.ended(searches[2], 600.0)
    found.ended(searches[3])
    assert found.text([]) == "", "what failed is not left"


def test_what_is_unknown_is_not_guessed():
    todo = [stage("clean", "a"), stage("attack", "a", label="pgd"), stage("attack", "a", 1, "pgd"), stage("clean", "b")]
    found = remaining(*todo, stage("attack", "b", label="square"))
    found.ended(todo[0], 3.0)
    assert found.text([]) == "", "three seconds of who knows how many"
    found.ended(todo[1], 7200.0)
    assert found.text([]) == "over 2.0 h left", "square has not been seen"
    found.ended(stage("attack", "b", label="square"), 172800.0)
    assert found.text([]) == "about 2.0 h left"


def test_stages_under_way_tell_their_pace_and_are_counted_for_what_is_left_of_them():
    todo = [stage("search", "a"), stage("search", "b"), stage("search", "drawn")]
    found = remaining(*todo)
    assert found.text([Working(todo[0], 30.0)]) == ""
    assert found.text([Working(todo[0], 60.0, 60.0, 540.0)]) == "about 29 min left", "9 epochs and 20; a draw is none"
    found = remaining(*todo, places=2)
    both = [Working(todo[0], 60.0, 60.0, 540.0), Working(todo[1], 60.0, 60.0, 1140.0)]
    assert found.text(both) == "about 19 min left", "the longer of two that are done side by side"
    found.ended(todo[0], 600.0)
    assert found.text([Working(todo[1], 1180.0)]) == "about 20 s left", "1200 by the other method's pace"
    assert found.text([Working(todo[1], 5000.0)]) == "", "it is overdue, and nothing else is left"


def test_an_epoch_of_a_bilevel_search_tells_nothing_of_a_candidate_of_another_strategy():
    todo = [stage("search", "a"), stage("search", "evolved"), stage("search", "evolved", 1)]
    found = remaining(*todo)
    found.ended(todo[0], 600.0)
    assert found.text([]) == "", "of candidates nothing is known"
    found.ended(todo[1], 1200.0)
    assert found.text([]) == "about 20 min left"


@pytest.mark.parametrize("first", [0, 8])
def test_a_resumed_stage_is_counted_whole_and_lines_carry_the_time_left(first: int):
    text, now = io.StringIO(), [0.0]
    progress = Progress(console=Console(file=text, width=200), clock=lambda: now[0])
    todo = [stage("search", "a"), stage("search", "a", 1)]
    progress.plan(5, 3, remaining(*todo))
    progress.started(todo[0])
    report = progress.reporter(todo[0])
    report(first, 10, "epoch")
    now[0] = 60.0 * (10 - first)
    report(10, 10, "epoch", loss=1.0)
    progress.finished(todo[0])
    assert text.getvalue().splitlines()[-1].endswith("  loss 1  about 10 min left")
