"""Puts the outcomes of all attacks on one network together, image by image, and holds them against its certificates.

    certified <= robust <= clean                                 under one threat
    certified radius <= size of any perturbation that fooled     in the certificate's own norm

An image is robust at a radius when it is right when clean and no attack that was run in that norm, at this radius or a
smaller one, fooled it there.  A perturbation that an attack at a larger radius happened to find inside is held against
certificates, but does not count here: which images that attack was given depends on the attacks before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from attrs import field, frozen

from robustnas.attack.column import Column
from robustnas.attack.outcomes import Array, Outcomes, robust
from robustnas.errors import VerdictError
from robustnas.threat import NORMS, ThreatModel, radius_text

ROUNDING = 1e-6
"""A certified radius may exceed the size of a perturbation that fooled by this share: both were rounded."""

Attacked = tuple[Column, Sequence[Outcomes]]
"""An attack, and what it did to one network: at its radii, ascending, or in its variants."""


def fooled(rows: Sequence[Outcomes], epsilon: float) -> Array:
    """Find the images that an attack fooled at this radius or a smaller one, in any of its variants: (N,) bool."""
    broken = np.zeros(len(rows[0].index), dtype=bool)
    for row in rows:
        if row.threat.epsilon <= epsilon:
            broken |= row.success
    return broken


def worst_case(attacked: Sequence[Attacked], norm: str, epsilon: float) -> Array | None:
    """Find the images that are right when clean and that no attack in this norm and radius fooled: (N,) bool.

    None where no such attack was run.
    """
    fitting = [
        rows
        for column, rows in attacked
        if not column.is_corruption
        and column.threat.norm == norm
        and any(row.threat.epsilon <= epsilon for row in rows)
    ]
    return robust(fitting[0][0].correct, [fooled(rows, epsilon) for rows in fitting]) if fitting else None


def broken(
    attacked: Sequence[Attacked], clean: Array, refuted: Sequence[bool] | None, threat: ThreatModel
) -> list[bool] | None:
    """Find the images that are wrong when clean, under an attack at the threat, or at an image that verification found.

    Args:
        clean: (N,) bool, right when clean.
        refuted: (n,) of the first images; None where nothing was verified, and the answer is None.
    """
    if refuted is None:
        return None
    standing = worst_case(attacked, threat.norm, threat.epsilon)
    wrong = ~clean if standing is None else ~standing
    return [bool(one) for one in wrong[: len(refuted)] | np.array(refuted, dtype=bool)]


def shown(attacked: Sequence[Attacked], place: int) -> Array:
    """Give the values (N,), float, whose mean an attack's column is: 1 where the image is right under the attack.

    An attack that was spared images counts those as fooled: its column is the share that it and the attacks before it
    left standing.  The column of a corruption is the mean over its variants.
    """
    column, rows = attacked[place]
    if column.is_corruption:
        return np.mean([row.correct & ~row.success for row in rows], axis=0)
    if not column.spared:
        return 1.0 * robust(rows[0].correct, [fooled(rows, column.threat.epsilon)])
    together = worst_case(attacked[: place + 1], column.threat.norm, column.threat.epsilon)
    assert together is not None
    return 1.0 * together


def nearest(attacked: Sequence[Attacked]) -> dict[str, Array]:
    """Give the size of the smallest perturbation known to fool each image, by norm (N,) float64; infinite for none.

    Corruptions count too.
    """
    every = [row.sizes for _, rows in attacked for row in rows]
    return {norm: np.min([sizes[norm] for sizes in every], axis=0) for norm in NORMS if every}


def check(
    who: str,
    attacked: Sequence[Attacked],
    clean: Array | None,
    certified: Sequence[bool] | None,
    radius: Mapping[str, Sequence[float]],
    threat: ThreatModel,
    certified_at: Mapping[float, Sequence[bool]] | None = None,
) -> None:
    """Hold the results of one network against each other.

    Args:
        who: method and seed, for messages.
        attacked: its attacks, in the order in which they were run.
        clean: (N,) bool, right when clean.
        certified: at `threat`, of the first images.
        radius: certified radii of the first images by norm.
        threat: of the recipe.
        certified_at: the same as `certified` at further radii in the threat's norm.

    Raises:
        VerdictError: names the first image that contradicts itself.
    """

    def refuse(wrong: Array, what: Callable[[int], str]) -> None:
        """Raise for the first image that is `wrong` (n,) bool; `what` says what was found at that place."""
        if wrong.any():
            at = int(wrong.nonzero()[0][0])
            place = int(attacked[0][1][0].index[at]) if attacked else at
            raise VerdictError(f"{who}: test image {place} {what(at)}")

    if clean is None:
        return
    for place, (column, rows) in enumerate(attacked):
        other = f"has another clean prediction in {column.label} than in the clean evaluation"
        refuse(rows[0].correct != clean, lambda _, other=other: other)  # type: ignore[misc]
        untried = (
            f"stands and was never given to {column.label}: an attack before it has other results now; delete the "
            f"folder of {column.label} and run the same command again"
        )
        refuse(_untried(attacked[: place + 1]), lambda _, untried=untried: untried)  # type: ignore[misc]
    at_threat = {} if certified is None else {threat.epsilon: certified}
    for epsilon, verdicts in {**at_threat, **(certified_at or {})}.items():
        proved, at = np.array(verdicts, dtype=bool), "" if epsilon == threat.epsilon else f" at {radius_text(epsilon)}"
        false = f"is certified{at} and yet wrong when clean; a bound is wrong"
        refuse(proved & ~clean[: len(proved)], lambda _, false=false: false)  # type: ignore[misc]
        for column, rows in attacked:
            if not column.is_corruption and column.threat.norm == threat.norm:
                broken = f"is certified{at} and yet broken by {column.label}; a bound or an attack is wrong"
                fell = fooled(rows, epsilon)[: len(proved)]
                refuse(proved & fell, lambda _, broken=broken: broken)  # type: ignore[misc]
    sizes = nearest(attacked)
    for norm, radii in radius.items():
        if norm in sizes:
            held = np.array(radii, dtype=np.float64)
            size = sizes[norm][: len(held)]

            def within(at: int, norm: str = norm, held: Array = held, size: Array = size) -> str:
                return (
                    f"has a certified {norm} radius of {float(held[at]):.6g} and was fooled by a perturbation of "
                    f"{float(size[at]):.6g}; a bound or an attack is wrong.  Delete the folder of the attack and run "
                    "the same command again: it then saves the image"
                )

            refuse(contradicted(held, size), within)


def contradicted(radius: Array, size: Array) -> Array:
    """Find images fooled within their certified radius, (n,) bool; both are (n,) float64, pixel units of one norm."""
    return radius > size * (1 + ROUNDING)


def _untried(attacked: Sequence[Attacked]) -> Array:
    """Find images that all attacks but the last left standing and that the last was not given: (N,) bool."""
    column, rows = attacked[-1]
    untried = np.zeros(len(rows[0].index), dtype=bool)
    for row in rows:
        stood = worst_case(attacked[:-1], column.threat.norm, row.threat.epsilon) if column.spared else None
        if row.threat.epsilon > 0:
            untried |= (row.correct if stood is None else stood) & ~((row.tried > 0) | row.success)
    return untried


@frozen
class Verdicts:
    """The figures of one network's attacks.

    Args:
        standing: by column, the values (N,) whose mean the column is.
        robust: (N,) bool at the recipe's threat; None without such attacks.
        curve: `robust` at each of the recipe's further radii.
        variants: for columns with several (corruptions, transfer), the share of images right under each, by name.
        evaluations: by column, model evaluations a test image.
        parts: for columns of several parts, images that each part broke at the threat, by name.
    """

    standing: dict[str, list[float]] = field(factory=dict)
    robust: list[bool] | None = None
    curve: dict[float, list[bool]] = field(factory=dict)
    variants: dict[str, dict[str, float]] = field(factory=dict)
    evaluations: dict[str, float] = field(factory=dict)
    parts: dict[str, dict[str, int]] = field(factory=dict)


def of(attacked: Sequence[Attacked], threat: ThreatModel, epsilons: Sequence[float], *, whole: bool = True) -> Verdicts:
    """Collect the figures of all columns of one network.

    Args:
        attacked: its attacks, in the order in which they were run.
        threat: the recipe's.
        epsilons: further radii of the curve.
        whole: whether every attack that counts has been run; a worst case over some of them would be too high, and
            is None.
    """
    worst = worst_case(attacked, threat.norm, threat.epsilon) if whole else None
    curve = {epsilon: worst_case(attacked, threat.norm, epsilon) if whole else None for epsilon in epsilons}
    return Verdicts(
        standing={column.label: shown(attacked, place).tolist() for place, (column, _) in enumerate(attacked)},
        robust=None if worst is None else worst.tolist(),
        curve={epsilon: standing.tolist() for epsilon, standing in curve.items() if standing is not None},
        variants={
            column.label: {row.variant: float((row.correct & ~row.success).mean()) for row in rows}
            for column, rows in attacked
            if any(row.variant for row in rows)
        },
        evaluations={
            column.label: sum(row.evaluations for row in rows) / len(rows[0].index) for column, rows in attacked
        },
        parts={column.label: _parts(column, rows) for column, rows in attacked if len(rows[0].parts) > 1},
    )


def _parts(column: Column, rows: Sequence[Outcomes]) -> dict[str, int]:
    """Count the images that each part broke at the attack's threat."""
    by = [row.by for row in rows if row.threat.epsilon == column.threat.epsilon]
    return {name or "run 1": int(np.sum([one == place for one in by])) for place, name in enumerate(rows[0].parts)}
