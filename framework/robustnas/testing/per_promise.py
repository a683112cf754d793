"""The promises of one plugin: by which check it is held to them, and one test of pytest for each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from robustnas.testing.attack import check_attack
from robustnas.testing.dataset import check_dataset
from robustnas.testing.executor import check_executor
from robustnas.testing.meanings import MADE, MEANINGS, OPTIONAL
from robustnas.testing.metric import check_metric
from robustnas.testing.order import check_order
from robustnas.testing.promise import ConformanceError
from robustnas.testing.regime import check_regime
from robustnas.testing.search_space import check_search_space
from robustnas.testing.strategy import check_strategy
from robustnas.testing.tracker import check_tracker

CHECKS: dict[str, Callable[..., tuple[str, ...]]] = {
    "search-space": check_search_space,
    "metric": check_metric,
    "attack": check_attack,
    "dataset": check_dataset,
    "strategy": check_strategy,
    "order": check_order,
    "regime": check_regime,
    "tracker": check_tracker,
    "executor": check_executor,
}
"""By kind of plugin: what holds one to its contract, and returns the promises that it looked at."""


def promises(kind: str, plugin: Any) -> list[str]:
    """The promises of a plugin in the words of the kit, without those of members that it does not have."""
    absent = {name for name in OPTIONAL if getattr(plugin, name, None) is None}
    made = () if isinstance(plugin, type) else MADE
    return [promise for promise in MEANINGS[kind] if promise not in made and promise.split()[0] not in absent]


def parametrize(kind: str, plugin: Any, **options: Any) -> Callable[[str], None]:
    """One test of pytest for each promise of a plugin: a broken promise is one failed test.

    In a test file: `test_promises = parametrize("metric", Curvature())`.  The kit walks once, when the first of them
    runs.  A promise is skipped where the networks do not have what it is about, or where another one, which it needs,
    is broken.

    Args:
        kind: `metric`, `attack`, `dataset`, `search-space`, `strategy`, `order`, `regime`, `tracker` or
            `executor`.
        plugin: as its check takes it.
        options: of its check: `norms`, say.
    """
    import pytest

    @functools.cache
    def walked() -> tuple[dict[str, str], tuple[str, ...]]:
        try:
            return {}, CHECKS[kind](plugin, **options)
        except ConformanceError as fault:
            return {broken.promise: str(broken) for broken in fault.broken}, fault.tried

    @pytest.mark.parametrize("promise", promises(kind, plugin))
    def test_promise(promise: str) -> None:
        broken, tried = walked()
        if promise in broken:
            pytest.fail(broken[promise], pytrace=False)
        if promise not in tried:
            pytest.skip("not looked at: it needs a broken one, or something that is not there")

    return test_promise
