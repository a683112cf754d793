"""The part of a plan's stages that one of several commands does, for a scheduler that knows plain commands only.

    robustnas run RECIPE --shard 1/8  ...  robustnas run RECIPE --shard 8/8

The stages of a method and a search seed stay together, because each reads what the one before it wrote.  Parts depend
on the plan alone, not on what is done, and are about equally much work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from robustnas.errors import InputError
from robustnas.plan import Plan, Stage
from robustnas.run.remaining import amount


@frozen
class Shard:
    """One of several parts.

    Args:
        number: which, from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def of_two(cls, given: Any) -> Shard:
        """The part that two numbers name.

        Raises:
            InputError: they name none.
        """
        numbers = list(given) if isinstance(given, tuple | list) else []
        if len(numbers) != 2 or any(type(one) is not int for one in numbers) or not 1 <= numbers[0] <= numbers[1]:
            raise InputError(f"found shard {given!r:.60}; (I, N) with I from 1 to N would do, such as (3, 8)")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def part(plan: Plan, stages: Sequence[Stage], shard: Shard) -> list[Stage]:
    """List the stages of a part, and those of other parts whose results they read, in the order of `stages`.

    Whoever comes first to a stage of two parts does it, and the other waits.
    """
    groups: dict[tuple[str, int], list[Stage]] = {}
    for stage in stages:
        groups.setdefault((stage.method, stage.seed.search), []).append(stage)
    loads = [0.0] * shard.of
    own: set[str] = set()
    # the largest first, each to whoever has least: at most a third more than the best that can be
    for group in sorted(groups.values(), key=lambda some: -work(plan, some)):
        least = loads.index(min(loads))
        loads[least] += work(plan, group)
        if least == shard.number - 1:
            own.update(stage.key for stage in group)
    by_key = {stage.key: stage for stage in stages}
    waiting = list(own)
    while waiting:
        stage = by_key[waiting.pop()]
        further = {*stage.needs, *stage.after} & by_key.keys() - own
        own |= further
        waiting += further
    return [stage for stage in stages if stage.key in own]


def work(plan: Plan, stages: Sequence[Stage]) -> int:
    """How much work stages are: epochs, and 1 for what has none."""
    return sum(amount(plan, stage) for stage in stages)
