"""What the attacks on one network say together, image by image, and where they contradict its certificates.

    certified <= robust <= clean                                 under one threat
    certified radius <= size of any perturbation that fooled     in the certificate's own norm

An image is robust at a radius when it is right when clean and no attack that was run in that norm, at this radius or a
smaller one, fooled it there.  What an attack of a larger radius happened to find inside is held against certificates
and does not count here: which images it was given depends on what came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from attrs import field, frozen
from torch import Tensor

from robustnas.attack import robust
from robustnas.attack.columns import Columns
from robustnas.attack.review.flag import Flag
from robustnas.attack.review.records import Attempt, of_attempts
from robustnas.errors import VerdictError
from robustnas.threat import NORMS, ThreatModel

ROUNDING = 1e-6
"""Share by which a certified radius may exceed the size of a perturbation that fooled: both were rounded."""


@frozen(eq=False)
class Measured:
    """What one attack of the recipe did to one network.

    Args:
        label: the column's name.
        threat: at which it is shown.
        access: `white-box`, `black-box`, `noise` or `corruption`.
        spared: whether it was spared the images that the attacks before it had fooled.
        one_step: whether it is a single step along the gradient.
        columns: image by image.
    """

    label: str
    threat: ThreatModel
    access: str
    spared: bool
    one_step: bool
    columns: Columns

    @property
    def correct(self) -> Tensor:
        """(N,) bool, right when clean."""
        return self.columns.tensor("clean") == self.columns.tensor("label")

    @property
    def success(self) -> Tensor:
        """(N,) bool, fooled at its threat; by any of its variants."""
        return self.fooled(self.threat.epsilon)

    def fooled(self, epsilon: float) -> Tensor:
        """(N,) bool, fooled at this radius or a smaller one."""
        rows = torch.from_numpy(self.columns.arrays["epsilon"] <= epsilon)
        return self.columns.tensor("success")[rows].any(dim=0)


def worst_case(measured: Sequence[Measured], norm: str, epsilon: float) -> Tensor | None:
    """(N,) bool, right when clean and fooled by no attack in this norm and radius; None where there is none."""
    fitting = [one for one in measured if one.access != "corruption" and one.threat.norm == norm]
    fitting = [one for one in fitting if bool((one.columns.arrays["epsilon"] <= epsilon).any())]
    if not fitting:
        return None
    return robust(fitting[0].correct, [one.fooled(epsilon) for one in fitting])


def shown(measured: Sequence[Measured], place: int) -> Tensor:
    """(N,) float, what an attack's column is the mean of: 1 where the image is right under it.

    An attack that was spared images counts those as fooled: its column is what the attacks up to it left standing.
    The column of a corruption is the mean over its variants.
    """
    one = measured[place]
    if one.access == "corruption":
        return (one.correct & ~one.columns.tensor("success")).double().mean(dim=0)
    if not one.spared:
        return robust(one.correct, [one.success]).double()
    together = worst_case(measured[: place + 1], one.threat.norm, one.threat.epsilon)
    assert together is not None
    return together.double()


def nearest(measured: Sequence[Measured]) -> dict[str, Tensor]:
    """By norm (N,) float64, the smallest perturbation known that fools; infinite for none.  Corruptions count too."""
    return {norm: torch.stack([one.columns.size(norm) for one in measured]).amin(dim=0) for norm in NORMS if measured}


def check(
    who: str,
    measured: Sequence[Measured],
    clean: Tensor | None,
    certified: Sequence[bool] | None,
    radius: Mapping[str, Sequence[float]],
    threat: ThreatModel,
) -> None:
    """Hold the results of one network against each other.

    Args:
        who: method and seed, for messages.
        clean: (N,) bool, right when clean.
        certified: at `threat`, of the first images.
        radius: certified radii of the first images by norm.

    Raises:
        VerdictError: names the first image that contradicts itself.
    """

    def refuse(wrong: Tensor, what: Callable[[int], str]) -> None:
        """Raise for the first image that is `wrong` (n,) bool; `what` says what was found at that place."""
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            place = int(measured[0].columns.arrays["index"][at]) if measured else at
            raise VerdictError(f"{who}: test image {place} {what(at)}")

    if clean is None:
        return
    for one in measured:
        other = f"has another clean prediction in {one.label} than in the clean evaluation"
        refuse(one.correct != clean, lambda _, other=other: other)  # type: ignore[misc]
        untried = (
            f"stands and was never given to {one.label}: an attack before it has other results now; delete the folder "
            f"of {one.label} and run the same command again"
        )
        refuse(_untried(one, measured), lambda _, untried=untried: untried)  # type: ignore[misc]
    if certified is not None:
        proved = torch.tensor(certified, dtype=torch.bool)
        refuse(proved & ~clean[: len(proved)], lambda _: "is certified and yet wrong when clean; a bound is wrong")
        for one in measured:
            if one.access != "corruption" and one.threat.norm == threat.norm:
                broken = f"is certified and yet broken by {one.label}; a bound or an attack is wrong"
                fooled = one.fooled(threat.epsilon)[: len(proved)]
                refuse(proved & fooled, lambda _, broken=broken: broken)  # type: ignore[misc]
    sizes = nearest(measured)
    for norm, radii in radius.items():
        if norm in sizes:
            held = torch.tensor(radii, dtype=torch.float64)
            size = sizes[norm][: len(held)]

            def within(at: int, norm: str = norm, held: Tensor = held, size: Tensor = size) -> str:
                return (
                    f"has a certified {norm} radius of {float(held[at]):.6g} and was fooled by a perturbation of "
                    f"{float(size[at]):.6g}; a bound or an attack is wrong.  Delete the folder of the attack and run "
                    "the same command again: it then saves the image"
                )

            refuse(contradicted(held, size), within)


def contradicted(radius: Tensor, size: Tensor) -> Tensor:
    """(n,) bool: fooled within the certified radius; both (n,) in pixel units of one norm."""
    return radius.double() > size.double() * (1 + ROUNDING)


def _untried(one: Measured, measured: Sequence[Measured]) -> Tensor:
    """(N,) bool: the image stands, after the attacks before this one, and was not given to it."""
    before = measured[: list(measured).index(one)]
    found = torch.zeros(len(one.correct), dtype=torch.bool)
    for row, epsilon in enumerate(one.columns.arrays["epsilon"].tolist()):
        stood = worst_case(before, one.threat.norm, epsilon) if one.spared else None
        known = (one.columns.tensor("tried")[row] > 0) | one.columns.tensor("success")[row]
        if epsilon > 0:
            found |= (one.correct if stood is None else stood) & ~known
    return found


def flags(measured: Sequence[Measured], values: int) -> list[Flag]:
    """What a reviewer would object to in the results of one network's attacks.

    Args:
        values: pixel values of an image.
    """
    attempts = []
    for one in measured:
        if one.access == "corruption":
            continue
        arrays = one.columns.arrays
        accesses = [str(access) for access in arrays["access"]]
        names = [str(name) for name in arrays["parts"]]
        for row, epsilon in enumerate(arrays["epsilon"].tolist()):  # type: ignore[var-annotated]
            threat = ThreatModel(one.threat.norm, epsilon)
            tried, by = one.columns.tensor("tried")[row], one.columns.tensor("by")[row]
            success = one.columns.tensor("success")[row]
            label = f"{one.label} {one.columns.variants[row]}".strip()
            access = accesses[0] if len(names) == 1 else one.access  # of several parts one may be all that was run
            attempts.append(Attempt(label, access, threat, one.correct, tried > 0, success, one.one_step))
            if len(names) > 1:
                attempts += [
                    Attempt(name, access, threat, one.correct, tried > place, by == place, part_of=label)
                    for place, (name, access) in enumerate(zip(names, accesses, strict=True))
                ]
    return of_attempts(attempts, values)


@frozen
class Verdicts:
    """The figures of one network's attacks.

    Args:
        standing: by column (N,), what the column is the mean of.
        robust: (N,) bool at the recipe's threat; None without such attacks.
        curve: the same by radius, for the recipe's further radii.
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


def of(measured: Sequence[Measured], threat: ThreatModel, epsilons: Sequence[float], whole: bool = True) -> Verdicts:
    """The figures of all columns of one network.

    Args:
        threat: the recipe's.
        epsilons: further radii of the curve.
        whole: whether these are all attacks that count; a worst case over some of them would be too high, and is None.
    """
    worst = worst_case(measured, threat.norm, threat.epsilon) if whole else None
    curve = {epsilon: worst_case(measured, threat.norm, epsilon) if whole else None for epsilon in epsilons}
    return Verdicts(
        standing={one.label: shown(measured, place).tolist() for place, one in enumerate(measured)},
        robust=None if worst is None else worst.tolist(),
        curve={epsilon: found.tolist() for epsilon, found in curve.items() if found is not None},
        variants={one.label: _variants(one) for one in measured if any(one.columns.variants)},
        evaluations={
            one.label: float(one.columns.arrays["evaluations"].sum()) / len(one.correct)  # type: ignore[arg-type]
            for one in measured
        },
        parts={one.label: _parts(one) for one in measured if len(one.columns.arrays["parts"]) > 1},
    )


def _variants(one: Measured) -> dict[str, float]:
    right = (one.correct & ~one.columns.tensor("success")).double().mean(dim=1).tolist()
    return dict(zip(one.columns.variants, right, strict=True))


def _parts(one: Measured) -> dict[str, int]:
    """Images that each part broke at the attack's threat."""
    rows = torch.from_numpy(one.columns.arrays["epsilon"] == one.threat.epsilon)
    by = one.columns.tensor("by")[rows]
    names = [str(name) or "run 1" for name in one.columns.arrays["parts"]]
    return {name: int((by == place).sum()) for place, name in enumerate(names)}
