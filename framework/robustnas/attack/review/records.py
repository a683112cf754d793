"""Reviews what attacks did, and warns of results that are impossible if the attacks were strong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from robustnas.attack.column import Column
from robustnas.attack.outcomes import Array, Outcomes
from robustnas.attack.review.evidence import CHANCE, by_chance, counts
from robustnas.attack.review.flag import Flag
from robustnas.threat import ThreatModel, largest_radius

BEATEN = 0.005
"""A black-box attack is too good where it breaks this share of the images that white-box attacks were tried on.

AutoAttack warns from the first image on; but even where attacks with gradients are good, an image or two of a thousand
fall to random search alone.
"""

STANDING = 0.01
"""The share of images that may survive where every image is allowed."""

CROSSING = 1.5
"""The steps of an iterative attack should add up to so many epsilons: from a random start the far side of the ball is
up to 2 away."""

WIDE = 2.0
"""Epsilons from one side of the ball to the other."""


class _Attempt(NamedTuple):
    """One attack, or one part of an attack of several, at one radius or in one variant.

    Args:
        label: what a flag calls it.
        title: what a sentence calls it.
        one_step: whether it is a single step along the gradient (FGSM).
        did: the outcomes of this attack or part alone.
    """

    label: str
    title: str
    one_step: bool
    did: Outcomes

    @property
    def access(self) -> str:
        return self.did.access[0]

    @property
    def threat(self) -> ThreatModel:
        return self.did.threat

    @property
    def broken(self) -> Array:
        """(N,) bool, whether the attack broke an image that is right when clean, in this ball or in a smaller one."""
        return self.did.correct & self.did.success

    @property
    def given(self) -> Array:
        """(N,) bool, whether the image is right when clean and the attack was tried on it."""
        return (self.did.tried > 0) & self.did.correct

    @property
    def withstood(self) -> Array:
        """(N,) bool, whether the image is right when clean and the attack was tried on it and did not break it."""
        return self.given & ~self.did.success


def of_attacks(attacked: Sequence[tuple[Column, Sequence[Outcomes]]], values: int) -> list[Flag]:
    """List the warnings that the results of attacks on one network earn together.

    Each attack earns a warning at most once a norm: at the first of its radii, in the order given.  An attack of
    several parts earns none itself: its parts do.

    Args:
        attacked: attacks and their outcomes on the same N images; corruptions, which are no attacks, are skipped.
        values: pixel values of one image, C H W.
    """
    attempts = [
        attempt for column, rows in attacked if not column.is_corruption for row in rows for attempt in _of(column, row)
    ]
    if len({len(attempt.did.index) for attempt in attempts}) > 1:
        raise ValueError("attacks on different numbers of images cannot be compared")
    flags: dict[tuple[str, str, str], Flag] = {}
    for attempt in attempts:
        for flag in (
            *_beats_white_box(attempt, attempts),
            *_above_clean(attempt),
            *_noise_beats_one_step(attempt, attempts),
        ):
            flags.setdefault((flag.name, attempt.title, attempt.threat.norm), flag)
    norms = dict.fromkeys(attempt.threat.norm for attempt in attempts)
    return [*flags.values(), *(flag for norm in norms for flag in _standing(attempts, norm, values))]


def _of(column: Column, row: Outcomes) -> Iterator[_Attempt]:
    """Yield the attempts of one row of an attack: the attack itself where it has one part, else its parts."""
    label = f"{column.label} {row.variant}".strip()
    if len(row.parts) == 1:
        yield _Attempt(label, label, column.one_step, row)
        return
    for place, name in enumerate(row.parts):
        yield _Attempt(name, f"{name} of {label}", one_step=False, did=row.of_part(place))


def _beats_white_box(attempt: _Attempt, attempts: Sequence[_Attempt]) -> list[Flag]:
    """Warn where images fell to this attack without gradients that attacks with them did not break at its epsilon.

    A white-box attack counts for an image where it was tried on it in the same norm, at this epsilon or a larger one,
    and failed; an image that any of them broke at this epsilon or a smaller one is not counted.  A single step loses to
    any search on sound networks too, so its failure is no evidence.
    """
    if attempt.access not in ("black-box", "noise"):
        return []
    rivals = [one for one in attempts if one.access == "white-box" and one.threat.norm == attempt.threat.norm]
    lost, failed, tried = (np.zeros(len(attempt.did.index), dtype=bool) for _ in range(3))
    for rival in rivals:
        if rival.threat.epsilon <= attempt.threat.epsilon:
            lost |= rival.broken
        if rival.threat.epsilon >= attempt.threat.epsilon and not rival.one_step:
            failed |= rival.withstood
            tried |= rival.given
    beaten, among = int((attempt.broken & failed & ~lost).sum()), int(tried.sum())
    if not counts(beaten, among, BEATEN):
        return []
    text = (
        f"{attempt.title} ({attempt.access}) broke {beaten} of {among} images at {attempt.threat} that survived every "
        "white-box attack tried on them there: gradients may be masked, or those attacks are weak; "
        "more steps and restarts, and attacks made for this network, would do"
    )
    return [Flag("black-box-beats-white-box", text, attempt.label)]


def _standing(attempts: Sequence[_Attempt], norm: str, values: int) -> list[Flag]:
    """Warn of images that survived attacks where every image is allowed.

    Attacks of a single step, and noise, promise nothing there and are no reason to warn.
    """
    everything = largest_radius(norm, values)
    tried, broken = (np.zeros(len(attempts[0].did.index), dtype=bool) for _ in range(2))
    for attempt in attempts:
        if attempt.threat.norm != norm:
            continue
        broken |= attempt.broken
        # the largest l_2 radius is a root, of which a radius written as a decimal may fall short by rounding
        reaches = attempt.threat.epsilon >= everything * (1 - 1e-4)
        if reaches and attempt.access in ("white-box", "black-box") and not attempt.one_step:
            tried |= attempt.given
    standing, among = int((tried & ~broken).sum()), int(tried.sum())
    if not counts(standing, among, STANDING) and not 0 < standing == among:
        return []
    text = (
        f"{standing} of {among} images survive every attack in {norm} at epsilon {everything:g}, which allows every "
        "image: the attacks do not find what is there, at smaller radii neither; more steps, larger steps and "
        "attacks without gradients would do"
    )
    return [Flag("does-not-reach-zero", text)]


def _above_clean(attempt: _Attempt) -> list[Flag]:
    """Warn of an attack after which more images are right than when clean: it counts images that were wrong."""
    tried = attempt.did.tried > 0
    clean, left = int(attempt.given.sum()), int((tried & ~attempt.did.success).sum())
    if left <= clean:
        return []
    text = (
        f"under {attempt.title} at {attempt.threat} {left} of {int(tried.sum())} images count as right, and {clean} "
        "are right when clean: images that were wrong anyway are counted; right when clean and under attack would do"
    )
    return [Flag("robust-above-clean", text, attempt.label)]


def _noise_beats_one_step(attempt: _Attempt, attempts: Sequence[_Attempt]) -> list[Flag]:
    """Warn of one step along the gradient that broke fewer images than noise at the same threat, by more than chance.

    Images that the step broke and noise was not tried on count for the step, so that it does not matter whether noise
    was given only what the step left.
    """
    if not attempt.one_step or attempt.access != "white-box":
        return []
    flags = []
    for noise in attempts:
        if noise.access != "noise" or noise.threat != attempt.threat:
            continue
        ahead = int((noise.broken & attempt.withstood).sum())
        behind = int((attempt.broken & ~noise.broken).sum())
        chance = by_chance(ahead, behind)
        if chance < CHANCE:
            text = (
                f"{noise.title} at {noise.threat} broke {ahead} images that {attempt.title} did not, and "
                f"{attempt.title} {behind} that {noise.title} did not (by chance: {chance:.1g}): the gradients do not "
                "point to what fools this network; attacks without gradients would do"
            )
            flags.append(Flag("noise-beats-fgsm", text, attempt.label))
    return flags


def of_options(label: str, threat: ThreatModel, steps: int | None, step_size: float | None) -> list[Flag]:
    """Warn of an iterative attack that is weak by its options alone.

    Args:
        label: the attack's name in the table.
        threat: norm and epsilon that the attack is allowed.
        steps: number of steps; None where it has none.
        step_size: length of a step in the threat's norm, pixel units; None where the attack chooses it.
    """
    if steps is None or step_size is None or steps <= 1:
        return []
    if threat.epsilon > 0 and step_size > WIDE * threat.epsilon * (1 + 1e-9):
        text = (
            f"a step of {step_size:.4g} is {step_size / threat.epsilon:.2g} epsilon at {threat}, longer than the ball "
            f"is wide: the attack jumps from border to border; steps of {threat.epsilon / 4:.4g}, say, would do"
        )
        return [Flag("weak-steps", text, label)]
    reach = steps * step_size
    # the tolerance is for rounding: 2 steps of 0.009 must count as 1.5 times 0.012
    if reach >= CROSSING * threat.epsilon * (1 - 1e-9):
        return []
    text = (
        f"{steps} steps of {step_size:.4g} add up to {reach / threat.epsilon:.2g} epsilon at {threat}: the attack may "
        f"not cross the ball; steps of at least {CROSSING * threat.epsilon / steps:.4g}, or more of them, would do"
    )
    return [Flag("weak-steps", text, label)]
