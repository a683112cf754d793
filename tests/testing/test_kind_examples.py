"""The examples that `plugins new` writes keep their contracts."""

from __future__ import annotations

from importlib import import_module

import pytest

from robustnas.testing import CHECKS
from robustnas.testing.examples import (
    attack,
    dataset,
    executor,
    metric,
    order,
    regime,
    search_space,
    strategy,
    tracker,
)

OPTIONS = {"search-space": {"channels": 4, "network_channels": 4}}

QUICK = {"metric": {"norms": ("linf",)}, "regime": {"norms": ("linf",)}, "search-space": {"shapes": ((1, 8, 8),)}}


@pytest.mark.parametrize("kind", CHECKS)
def test_an_example_keeps_its_contract(kind):
    module = import_module(f"robustnas.testing.examples.{kind.replace('-', '_')}")
    assert module in (attack, dataset, executor, metric, order, regime, search_space, strategy, tracker)
    assert CHECKS[kind](module.Example(**OPTIONS.get(kind, {})), **QUICK.get(kind, {}))
