"""The three forms of AutoPGD: on the cross-entropy, on the difference of logits ratio, and towards target classes.

Source: Croce and Hein 2020, arXiv:2003.01690; in l_1 Croce and Hein 2021, arXiv:2103.01208.  There is no step size to
choose; `robustnas_plugins.attacks.apgd_steps` says how it is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, instance_of

from robustnas.threat import ThreatModel

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack

LOOKS = 3
"""Evaluations of a run beyond its steps, one at each start: of one ball in l_inf and l_2, of three in l_1."""


@frozen
class AutoPGDCrossEntropy:
    """AutoPGD on the cross-entropy, in l_inf, l_2 or l_1."""

    loss: ClassVar[Literal["ce", "dlr"]] = "ce"

    steps: int = field(
        default=100, validator=and_(instance_of(int), ge(1)), metadata={"help": "steps of one run; 100 in the source"}
    )
    restarts: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "runs from new random starts; images already fooled are left out of the next"},
    )
    eot_samples: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "passes whose gradients are averaged, for networks whose answers are random"},
    )

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most."""
        return float(self.restarts * (self.steps + LOOKS) * self.eot_samples)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.apgd_steps import AutoPGD

        attack: FoolboxAttack = AutoPGD(
            threat.norm, self.loss, steps=self.steps, restarts=self.restarts, eot_samples=self.eot_samples
        )
        return attack


@frozen
class AutoPGDLogitsRatio(AutoPGDCrossEntropy):
    """AutoPGD on the difference of logits ratio, in l_inf, l_2 or l_1; with two classes on the difference."""

    loss: ClassVar[Literal["ce", "dlr"]] = "dlr"


@frozen
class AutoPGDTargeted:
    """AutoPGD on the ratio towards one target class after another, in l_inf, l_2 or l_1.

    The ratio needs four classes: with fewer it is the difference of the two logits.
    """

    steps: int = field(
        default=100, validator=and_(instance_of(int), ge(1)), metadata={"help": "steps of one run; 100 in the source"}
    )
    restarts: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "runs towards each target; images already fooled are left out of the next"},
    )
    target_classes: int = field(
        default=9,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "likeliest wrong classes that are targets, at most all"},
    )
    eot_samples: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "passes whose gradients are averaged, for networks whose answers are random"},
    )

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most; one is for finding the targets."""
        targets = min(self.target_classes, classes - 1)
        return float((targets * self.restarts * (self.steps + LOOKS) + 1) * self.eot_samples)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.apgd_steps import AutoPGD

        attack: FoolboxAttack = AutoPGD(
            threat.norm,
            "dlr-targeted",
            steps=self.steps,
            restarts=self.restarts,
            target_classes=self.target_classes,
            eot_samples=self.eot_samples,
        )
        return attack
