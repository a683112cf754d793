"""The time left of a whole run, from what its stages took so far; nothing is said before there is a basis.

A stage costs what those of its kind and method took, an epoch where it has epochs; where none of that method is done,
what those of other methods took.  A kind of which none is done, and none under way tells its pace, is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from attrs import Factory, define, frozen

from robustnas.plan import Plan, Stage
from robustnas.search.strategies.random import Random

Kind = tuple[str, str]
"""Kind of stage, and the label of the attack or the name of the strategy: an epoch of one tells nothing of a candidate
of another."""


@frozen
class Working:
    """What a stage under way tells of its cost.

    Args:
        elapsed: seconds since it began.
        pace: seconds an epoch; None where it is not known yet, or the stage has none.
        left: seconds left of it; None where they are not known.
    """

    stage: Stage
    elapsed: float
    pace: float | None = None
    left: float | None = None


@define(eq=False)
class Remaining:
    """The stages left, by kind and method, and what those that are done took.

    Kept as sums, because a plan may have a hundred thousand stages, and each that ends asks.

    Args:
        plan: knows how many epochs a stage has.
        todo: the stages left.
        places: how many are done side by side.
    """

    plan: Plan
    todo: Sequence[Stage]
    places: int = 1
    _left: Counter[tuple[Kind, str]] = Factory(Counter)
    _unmeasured: Counter[Kind] = Factory(Counter)
    _known: float = 0.0
    _took: dict[tuple[Kind, str] | Kind, tuple[float, int]] = Factory(dict)

    def __attrs_post_init__(self) -> None:
        for stage in self.todo:
            self._left[self._like(stage)] += self._amount(stage)
            self._unmeasured[self._like(stage)[0]] += self._amount(stage)

    def ended(self, stage: Stage, seconds: float | None = None) -> None:
        """Note that a stage is no longer left.

        Args:
            seconds: what all of it took; None where that is not known, or it failed.
        """
        like, amount = self._like(stage), self._amount(stage)
        self._known -= self._left[like] * self._pace(like) if like in self._took else 0.0
        if like not in self._took:
            self._unmeasured[like[0]] -= amount if seconds is None else self._left[like]
        self._left[like] -= amount
        if seconds is not None:
            for key in (like, like[0]):
                before, amounts = self._took.get(key, (0.0, 0))
                self._took[key] = before + seconds, amounts + amount
        self._known += self._left[like] * self._pace(like) if like in self._took else 0.0

    def text(self, working: Iterable[Working]) -> str:
        """Write the time left, as `about 40 min left`: `over` where a kind of stage is unknown, empty without a basis.

        Args:
            working: the stages under way.
        """
        working = list(working)
        paces = {self._like(one.stage)[0]: one.pace for one in working if one.pace is not None}
        paces |= {kind: self._pace(kind) for kind in self._unmeasured if kind in self._took}
        seconds, longest = self._known, 0.0
        seconds += sum(amount * paces.get(kind, 0.0) for kind, amount in self._unmeasured.items())
        for one in working:
            like, amount = self._like(one.stage), self._amount(one.stage)
            whole = amount * (self._pace(like) if like in self._took else paces.get(like[0], 0.0))
            left = max(whole - one.elapsed, 0.0) if one.left is None else one.left
            seconds, longest = seconds + left - whole, max(longest, left)
        seconds = max(seconds / self.places, longest)
        if any(amount and kind not in paces for kind, amount in self._unmeasured.items()):
            return f"over {_rounded(seconds)} left" if seconds >= 60 else ""
        return f"about {_rounded(seconds)} left" if seconds >= 1 else ""

    def _pace(self, like: tuple[Kind, str] | Kind) -> float:
        """Seconds a unit of work."""
        seconds, amount = self._took[like]
        return seconds / amount if amount else 0.0

    def _amount(self, stage: Stage) -> int:
        return amount(self.plan, stage)

    def _like(self, stage: Stage) -> tuple[Kind, str]:
        """Return what a stage has in common with those that cost as much: its kind, and its method."""
        label = stage.column.label if stage.column else ""
        if stage.kind == "search":
            label = type(self.plan.methods[stage.method].strategy).__name__
        return (stage.kind, label), stage.method


def amount(plan: Plan, stage: Stage) -> int:
    """How much work a stage is: epochs, or candidates, or 1 where it has neither; a draw at random is none."""
    method = plan.methods[stage.method]
    if stage.kind == "search":
        if method.searches:
            return method.search.epochs
        return 0 if isinstance(method.strategy, Random) else int(getattr(method.strategy, "candidates", 1))
    if stage.kind == "candidate":
        return method.of_candidates.epochs
    return {"train": method.train.epochs, "supernet": plan.search.epochs}.get(stage.kind, 1)


def _rounded(seconds: float) -> str:
    """Write seconds as roughly as they are known."""
    if seconds < 90:
        return f"{max(round(seconds, -1), 10):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"
