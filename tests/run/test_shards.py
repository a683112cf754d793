"""Parts of a plan: together all of it, chains whole, and about equally much work."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.plan import Plan
from robustnas.run.shards import Shard, part, work
from support.tiny_plan import RECIPE, plan


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recipe = tmp_path_factory.mktemp("shards") / "r.yaml"
    recipe.write_text(RECIPE)
    return plan(recipe, "seeds=[0, 1, 2]", "methods.longer={search: {epochs: 20}}")


@pytest.mark.parametrize("of", [1, 2, 4, 9, 20])
def test_parts_are_all_of_it_once_and_in_order(planned: Plan, of: int):
    every = planned.until(None)
    parts = [part(planned, every, Shard(number, of)) for number in range(1, of + 1)]
    assert sorted(stage.key for some in parts for stage in some) == sorted(stage.key for stage in every)
    assert parts == [part(planned, list(every), Shard(number, of)) for number in range(1, of + 1)], "again"
    for some in parts:
        assert some == [stage for stage in every if stage in some]
        keys = {stage.key for stage in some}
        assert all(keys.issuperset(stage.needs) for stage in some), "no part waits for another"
    assert sum(not some for some in parts) == max(0, of - 9), "nine methods and seeds"


def test_parts_are_about_equally_much_work(planned: Plan):
    every = planned.until(None)
    loads = [work(planned, part(planned, every, Shard(number, 3))) for number in (1, 2, 3)]
    assert max(loads) == min(loads), "each has one of the three long searches"
    loads = [work(planned, part(planned, every, Shard(number, 2))) for number in (1, 2)]
    assert max(loads) <= 1.4 * min(loads)


def test_a_part_has_what_it_reads_of_others(planned: Plan, tmp_path: Path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    attacked = plan(recipe, "attacks=[{name: transfer, steps: 2, step_size: 2/255}]")
    every = attacked.until(None)
    some = part(attacked, every, Shard(1, 4))
    own = {(stage.method, stage.seed.search) for stage in some if stage.kind == "clean"}
    assert len(own) == 1, "one method and seed is this part's"
    read = {stage.method for stage in some if stage.kind == "train"}
    assert read == {"darts", "jac"}, "images are made on the other method's network"
