"""FAB-T: the nearest image that fools, by steps to the boundary towards one class after another.

Each step goes to the boundary of the network made linear where the search is, drawn towards the point of that boundary
nearest to the clean image; an image that fools is kept if it is the nearest so far, and left towards the clean one.

Source: Croce and Hein 2020, arXiv:1907.02044; towards given classes as in Croce and Hein 2020, arXiv:2003.01690.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of, le, lt

from robustnas.threat import ThreatModel

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack

FINAL = 4
"""Evaluations of the last search, between the nearest image found and the clean one: of that image, and three more."""


@frozen
class FABT:
    """Targeted FAB in l_inf, l_2 or l_1.  Costs `2 * steps * restarts` evaluations an image and class.

    It minimises, so it runs once and serves every epsilon.  Where there are fewer classes than asked for, all wrong
    ones are tried.
    """

    steps: int = field(
        default=100, validator=and_(instance_of(int), ge(1)), metadata={"help": "steps towards each class"}
    )
    restarts: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "runs; those after the first start at random, half as far away as the nearest image found"},
    )
    target_classes: int = field(
        default=9,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "wrong classes tried, those of the largest logits on the clean image"},
    )
    alpha_max: float = field(
        default=0.1,
        converter=float,
        validator=and_(ge(0.0), le(1.0)),
        metadata={"help": "largest weight of the clean image's own step in a step"},
    )
    eta: float = field(
        default=1.05,
        converter=float,
        validator=ge(1.0),
        metadata={"help": "factor by which a step overshoots the boundary"},
    )
    beta: float = field(
        default=0.9,
        converter=float,
        validator=and_(gt(0.0), lt(1.0)),
        metadata={"help": "share of the perturbation that is kept after an image that fools"},
    )

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.fab_steps import FastAdaptiveBoundary

        attack: FoolboxAttack = FastAdaptiveBoundary(
            threat.norm,
            steps=self.steps,
            restarts=self.restarts,
            target_classes=self.target_classes,
            alpha_max=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
        )
        return attack

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs: two a step, one that ranks the classes, and the last search."""
        targets = min(self.target_classes, classes - 1)
        return float(1 + 2 * self.steps * self.restarts * targets + FINAL)


@frozen
class FAB:
    """Untargeted FAB, each of whose steps goes to the nearest boundary: a part of AutoAttack's version `plus`.

    Args:
        steps: of one run.
        restarts: runs; those after the first start at random.
    """

    steps: int = 100
    restarts: int = 1

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.fab_steps import FastAdaptiveBoundary

        attack: FoolboxAttack = FastAdaptiveBoundary(
            threat.norm, steps=self.steps, restarts=self.restarts, target_classes=None
        )
        return attack

    def evaluations(self, classes: int) -> float:
        """As for `FABT`; one evaluation of two is differentiated once for every class."""
        return float(1 + 2 * self.steps * self.restarts + FINAL)
