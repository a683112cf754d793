"""Gaussian and uniform noise of the ball's size: what a network must stand before any attack is worth naming.

An attack that breaks fewer images than noise of the same size is no attack.  With n standard normal and u uniform in
[-1, 1], entry by entry, and epsilon the ball's radius:

              gaussian-noise                       uniform-noise
    l_inf     epsilon * clip(n, -1, 1)             epsilon * u
    l_2       epsilon * n / ||n||_2                epsilon * u / ||u||_2
    l_1       epsilon * n / ||n||_1                epsilon * u / ||u||_1

then clipped to the box, which only shortens it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen
from attrs.validators import and_, ge, instance_of

from robustnas.threat import ThreatModel

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack


@frozen
class GaussianNoise:
    """Gaussian noise of the ball's size, in every norm; the worst of some draws."""

    access: ClassVar[str] = "noise"

    draws: int = field(
        default=10,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "draws an image; ends with the first that fools it"},
    )

    def evaluations(self, classes: int) -> float:
        """One a draw."""
        return float(self.draws)

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from a foolbox class
        from robustnas_plugins.attacks.drawn import Drawn, gaussian

        attack: FoolboxAttack = Drawn(threat.norm, self.draws, gaussian)
        return attack


@frozen
class UniformNoise(GaussianNoise):
    """Uniform noise of the ball's size, in every norm; the worst of some draws."""

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        from robustnas_plugins.attacks.drawn import Drawn, uniform

        attack: FoolboxAttack = Drawn(threat.norm, self.draws, uniform)
        return attack
