"""HopSkipJump: the gradient at the boundary estimated from decisions alone, a jump along it, and back to the boundary.

Source: Chen et al. 2020, arXiv:1904.02144, algorithm 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of

from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.norms import for_norm

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack

MOST_HALVINGS = 24
"""Halvings of a bisection at most: below, float32 shows no difference."""
SHORTER = 20
"""Halvings of a jump at most; an image that still does not fool then stays for this jump."""


def samples_of(jump: int, first: int, most: int) -> int:
    """Evaluations of the gradient of the `jump`-th jump, from 1 on: section III-C of the paper."""
    return min(int(first * math.sqrt(jump)), most)


@frozen
class HopSkipJump:
    """HopSkipJump in l_inf and l_2: sees the predicted class only."""

    access: ClassVar[str] = "black-box"

    steps: int = field(default=32, validator=and_(instance_of(int), ge(1)), metadata={"help": "jumps"})
    samples: int = field(
        default=100,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "evaluations of the first gradient; the t-th takes sqrt(t) times as many"},
    )
    most_samples: int = field(
        default=10000, validator=and_(instance_of(int), ge(1)), metadata={"help": "evaluations of a gradient at most"}
    )
    gamma: float = field(
        default=1.0,
        converter=float,
        validator=gt(0.0),
        metadata={"help": "bisection stops at gamma / d^1.5 (l2) or gamma / d^2 (linf) of the way, d pixel values"},
    )
    tries: int = field(
        default=50,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "images tried as a start; an image without one is left clean"},
    )

    def evaluations(self, classes: int) -> float:
        """The start, and for every jump its gradient, the search for its length and the bisection."""
        gradients = sum(samples_of(jump, self.samples, self.most_samples) for jump in range(1, self.steps + 1))
        return float(self.tries + MOST_HALVINGS + gradients + self.steps * (SHORTER + MOST_HALVINGS))

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from a foolbox class
        from robustnas_plugins.attacks.jump import Jump

        instead = "in l1 a gradient attack would do, or give it a threat of its own, threat: {norm: l2, epsilon: 0.5}"
        form = for_norm("hopskipjump", {"linf": Jump, "l2": Jump}, threat, instead)
        attack: FoolboxAttack = form(threat.norm, self.steps, self.samples, self.most_samples, self.gamma, self.tries)
        return attack
