"""What attacks did, looked at as a reviewer would: results that cannot be if the attacks were strong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor

from robustnas.attack.review.evidence import CHANCE, by_chance, counts
from robustnas.attack.review.flag import Flag
from robustnas.contracts import ACCESS
from robustnas.threat import ThreatModel, largest_radius

BEATEN = 0.005
"""The share of images, of those that white-box attacks were tried on, from which on a black box is too good.

AutoAttack's own warning is due from the first image on; where attacks with gradients are good, an image or two of a
thousand still fall to random search alone.
"""

STANDING = 0.01
"""The share of images that may survive where every image is allowed."""

CROSSING = 1.5
"""Epsilons that the steps of an iterative attack add up to: from a random start the far side is up to 2 away."""


WIDE = 2.0
"""Epsilons from one side of the ball to the other."""


@frozen(eq=False)
class Attempt:
    """One attack at one threat, on N images in the order that all attempts share.

    Args:
        label: its name in the table.
        access: of `robustnas.contracts.ACCESS`.
        threat: what was allowed.
        correct: (N,) bool, right when clean.
        tried: (N,) bool, the images the attack was given.
        success: (N,) bool, those it broke; may hold those it broke in a smaller ball, which are not tried again.
        one_step: whether it is a single step along the gradient (FGSM).
        part_of: the label of the attack it is a part of; that attack, where it is an attempt too, then says nothing
            of its own.
    """

    label: str
    access: str = field(validator=in_(ACCESS))
    threat: ThreatModel
    correct: Tensor
    tried: Tensor
    success: Tensor
    one_step: bool = False
    part_of: str | None = None

    def __attrs_post_init__(self) -> None:
        sizes = {tuple(mask.shape) for mask in (self.correct, self.tried, self.success)}
        kinds = {mask.dtype for mask in (self.correct, self.tried, self.success)}
        if len(sizes) != 1 or len(next(iter(sizes))) != 1 or kinds != {torch.bool}:
            raise ValueError(f"attempt {self.label}: correct, tried and success are bool of one shape (N,)")

    @property
    def broken(self) -> Tensor:
        """(N,) bool: right when clean, and broken; in a smaller ball perhaps, and not tried in this one."""
        return self.correct & self.success

    @property
    def withstood(self) -> Tensor:
        """(N,) bool: tried, right when clean, and not broken."""
        return self.tried & self.correct & ~self.success

    def __str__(self) -> str:
        return f"{self.label} of {self.part_of}" if self.part_of else self.label


def of_attempts(attempts: Sequence[Attempt], values: int) -> list[Flag]:
    """The warnings that the results of attacks on one network earn together.

    One of a name for each attack and norm: at the first of its radii, in the order given, that earns it.

    Args:
        attempts: all on the same N images.
        values: pixel values of one image, C H W.
    """
    if len({len(attempt.correct) for attempt in attempts}) > 1:
        raise ValueError("attempts on different numbers of images cannot be compared")
    wholes = {(attempt.part_of, attempt.threat) for attempt in attempts}
    single = [attempt for attempt in attempts if (attempt.label, attempt.threat) not in wholes]
    found: dict[tuple[str, str, str], Flag] = {}
    for attempt in single:
        for flag in (
            *_beats_white_box(attempt, single),
            *_above_clean(attempt),
            *_noise_beats_one_step(attempt, single),
        ):
            found.setdefault((flag.name, str(attempt), attempt.threat.norm), flag)
    norms = dict.fromkeys(attempt.threat.norm for attempt in single)
    return [*found.values(), *(flag for norm in norms for flag in _left(single, norm, values))]


def _beats_white_box(attempt: Attempt, attempts: Sequence[Attempt]) -> list[Flag]:
    """Images that fell to this attack without gradients, at an epsilon at which attacks with them did not break them.

    A white-box attack counts for an image where it was tried on it in the same norm, at this epsilon or a larger one,
    and failed; an image that any of them broke at this epsilon or a smaller one is not counted.  A single step loses to
    any search on sound networks too, so its failure is no evidence.
    """
    if attempt.access not in ("black-box", "noise"):
        return []
    rivals = [one for one in attempts if one.access == "white-box" and one.threat.norm == attempt.threat.norm]
    lost, failed, tried = (torch.zeros_like(attempt.correct) for _ in range(3))
    for rival in rivals:
        if rival.threat.epsilon <= attempt.threat.epsilon:
            lost |= rival.broken
        if rival.threat.epsilon >= attempt.threat.epsilon and not rival.one_step:
            failed |= rival.withstood
            tried |= rival.tried & rival.correct
    beaten, among = int((attempt.broken & failed & ~lost).sum()), int(tried.sum())
    if not counts(beaten, among, BEATEN):
        return []
    text = (
        f"{attempt} ({attempt.access}) broke {beaten} of {among} images at {attempt.threat} that survived every "
        "white-box attack tried on them there: gradients may be masked, or those attacks are weak; "
        "more steps and restarts, and attacks made for this network, would do"
    )
    return [Flag("black-box-beats-white-box", text, attempt.label)]


def _left(attempts: Sequence[Attempt], norm: str, values: int) -> list[Flag]:
    """Images that survived attacks where every image is allowed.

    Attacks of a single step, noise and corruptions promise nothing there and are no reason to warn.
    """
    everything = largest_radius(norm, values)
    same = [one for one in attempts if one.threat.norm == norm]
    tried = torch.zeros_like(attempts[0].correct)
    broken = tried.clone()
    for attempt in same:
        broken |= attempt.broken
        # a radius that was written as a decimal may be short of a root by its rounding
        reaches = attempt.threat.epsilon >= everything * (1 - 1e-4)
        if reaches and attempt.access in ("white-box", "black-box") and not attempt.one_step:
            tried |= attempt.tried & attempt.correct
    standing, among = int((tried & ~broken).sum()), int(tried.sum())
    if not counts(standing, among, STANDING) and not 0 < standing == among:
        return []
    text = (
        f"{standing} of {among} images survive every attack in {norm} at epsilon {everything:g}, which allows every "
        "image: the attacks do not find what is there, at smaller radii neither; more steps, larger steps and "
        "attacks without gradients would do"
    )
    return [Flag("does-not-reach-zero", text)]


def _above_clean(attempt: Attempt) -> list[Flag]:
    """An attack that leaves more images right than were: it counts images that were wrong when clean."""
    tried = int(attempt.tried.sum())
    clean, left = int((attempt.tried & attempt.correct).sum()), int((attempt.tried & ~attempt.success).sum())
    if left <= clean:
        return []
    text = (
        f"under {attempt} at {attempt.threat} {left} of {tried} images count as right, and {clean} are right when "
        "clean: images that were wrong anyway are counted; right when clean and under attack would do"
    )
    return [Flag("robust-above-clean", text, attempt.label)]


def _noise_beats_one_step(attempt: Attempt, attempts: Sequence[Attempt]) -> list[Flag]:
    """One step along the gradient that broke fewer images than noise at the same threat, by more than chance.

    Images that the step broke and noise was not tried on count for the step, so that it does not matter whether
    the second was given only what the first left.
    """
    if not attempt.one_step or attempt.access != "white-box":
        return []
    found = []
    for noise in attempts:
        if noise.access != "noise" or noise.threat != attempt.threat:
            continue
        ahead = int((noise.broken & attempt.withstood).sum())
        behind = int((attempt.broken & ~noise.broken).sum())
        chance = by_chance(ahead, behind)
        if chance < CHANCE:
            text = (
                f"{noise} at {noise.threat} broke {ahead} images that {attempt} did not, and {attempt} {behind} that "
                f"{noise} did not (by chance: {chance:.1g}): the gradients do not point to what fools this network; "
                "attacks without gradients would do"
            )
            found.append(Flag("noise-beats-fgsm", text, attempt.label))
    return found


def of_options(label: str, threat: ThreatModel, steps: int | None, step_size: float | None) -> list[Flag]:
    """The warning that an iterative attack earns by its options alone.

    Args:
        label: the attack's name in the table.
        threat: what it is allowed.
        steps: how many; None where it has none.
        step_size: length of one in the threat's norm, pixel units; None where the attack chooses it.
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
    # 2 steps of 0.009 are 1.5 times 0.012, whatever the last bit says
    if reach >= CROSSING * threat.epsilon * (1 - 1e-9):
        return []
    text = (
        f"{steps} steps of {step_size:.4g} add up to {reach / threat.epsilon:.2g} epsilon at {threat}: the attack may "
        f"not cross the ball; steps of at least {CROSSING * threat.epsilon / steps:.4g}, or more of them, would do"
    )
    return [Flag("weak-steps", text, label)]
