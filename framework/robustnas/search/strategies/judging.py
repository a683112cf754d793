"""The options that strategies share which have candidates judged: by which network, and what counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

from attrs import frozen
from attrs.validators import and_, ge, gt, lt, optional

from robustnas.contracts import OBJECTIVES, Estimation
from robustnas.errors import RunError
from robustnas.options import option
from robustnas.runtime.suggest import did_you_mean

NONE_JUDGED = "no candidate could be judged: each diverged, or its metric failed (candidates.json says why)"

Found = TypeVar("Found")

OF_WEIGHTS = ("clean", "robust", "certified")
"""Objectives that an untrained network has nothing to say of."""


@frozen(kw_only=True)
class Judging:
    """How candidates are judged."""

    network: Literal["trained", "inherited", "untrained"] = option(
        "trained",
        "network of a candidate that is judged: trained from scratch, inherited (its path of a supernet that section "
        "search trains path by path), or untrained",
    )
    epochs: int | None = option(
        None,
        "epochs of a candidate's training, default train.epochs; of an inherited network on its own path, default none",
        optional(ge(1)),
    )
    holdout: float = option(0.1, "share of the training images held out to judge candidates", and_(gt(0.0), lt(1.0)))

    def judged(self, objectives: Sequence[str]) -> Estimation:
        """How candidates are judged by these objectives."""
        return Estimation(tuple(objectives), self.network, self.epochs, self.holdout)

    @epochs.validator
    def _of_weights(self, attribute: object, epochs: int | None) -> None:
        if epochs is not None and self.network == "untrained":
            raise ValueError(f"found {epochs} beside network: untrained; one of the two would do")

    def check_objective(self, objective: str) -> None:
        """Look whether these networks can be judged so.

        Raises:
            ValueError: there is no such objective, or none of it before a training; says what would do.
        """
        if objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise ValueError(f"found {objective!r}{did_you_mean(objective, list(OBJECTIVES))}; {known} would do")
        if self.network == "untrained" and objective in OF_WEIGHTS:
            raise ValueError(
                f"found the objective {objective} beside network: untrained, which gets no image right but by luck; "
                "metric, parameters or multiply_adds would do, or network: trained"
            )


@frozen(kw_only=True)
class OneObjective(Judging):
    """How candidates are judged by one objective."""

    objective: str = option(
        "robust", "what is to be best: clean, robust, certified, metric, parameters or multiply_adds"
    )

    @objective.validator
    def _judged_so(self, attribute: object, objective: str) -> None:
        self.check_objective(objective)


def check_population(population: int, candidates: int) -> None:
    """Look whether a population is part of the candidates.

    Raises:
        ValueError: there are fewer candidates.
    """
    if population > candidates:
        raise ValueError(
            f"found {population} beside candidates: {candidates}, of which the population is a part; at most "
            f"{candidates} would do"
        )


def best(objective: str, judged: Iterable[tuple[Found, float]]) -> tuple[Found, float]:
    """The candidate with the best figure, and its figure; of equals the first.

    Raises:
        RunError: none has a figure.
    """
    found: tuple[Found, float] | None = None
    for one in judged:
        found = one if found is None or better(objective, one[1], found[1]) else found
    if found is None or math.isnan(found[1]):
        raise RunError(NONE_JUDGED)
    return found


def better(objective: str, one: float, other: float) -> bool:
    """Whether a candidate's figure is better than another's; one that is not a number is better than none."""
    if math.isnan(one) or math.isnan(other):
        return not math.isnan(one)
    return one > other if OBJECTIVES[objective] else one < other
