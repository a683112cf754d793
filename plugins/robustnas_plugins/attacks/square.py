"""Square: a random search that paints squares into the ball, and sees nothing of the network but its logits.

    l_inf   a square of the perturbation becomes epsilon or -epsilon, a sign for each channel
    l_2     a square of the perturbation takes the mass of another, as a bump up beside a bump down
    l_1     the same in l_1, then to the nearest image that is in ball and box

A change stays if it lowers the margin f_y - max_{j != y} f_j.  Squares shrink as queries are used up.

Sources: Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3; for l_1 Croce and Hein 2021, arXiv:2103.01208,
with the constants of the code published with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.validators import and_, ge, gt, in_, instance_of, le

from robustnas.threat import ThreatModel

if TYPE_CHECKING:
    from foolbox.attacks.base import Attack as FoolboxAttack

VARIANTS = ("per-sample", "reference")
"""`reference` is what leaderboards of AutoAttack ran: its figures are not those of `per-sample`, which is stronger."""


@frozen
class Square:
    """Square attack in l_inf, l_2 or l_1.  Costs up to `queries` evaluations an image and restart, without gradients.

    With `variant: reference` all images share the places of their squares, which come from a stream of random numbers
    that knows no image and no seed: so an image's result is its own there too.
    """

    queries: int = field(
        default=5000,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "evaluations of an image in one restart, the start included"},
    )
    p_init: float = field(
        default=0.8,
        converter=float,
        validator=and_(gt(0.0), le(1.0)),
        metadata={"help": "share of the pixels that the first squares cover"},
    )
    restarts: int = field(
        default=1,
        validator=and_(instance_of(int), ge(1)),
        metadata={"help": "runs from new random starts; images already fooled are left out of the next"},
    )
    variant: str = field(
        default="per-sample",
        validator=in_(VARIANTS),
        metadata={
            "help": "per-sample: every image has squares of its own, anywhere; reference: as the leaderboard's code, "
            "one square for all images, never in the last row or column"
        },
    )
    rescaled: bool = field(
        default=True,
        validator=instance_of(bool),
        metadata={
            "help": "stretch the schedule of square sizes, which the paper gives for 10000 queries, over `queries`; "
            "AutoAttack does not"
        },
    )

    access = "black-box"

    def build(self, threat: ThreatModel) -> FoolboxAttack:
        """The attack for `threat.norm`."""
        # imported here because it derives from foolbox classes
        from robustnas_plugins.attacks.square_search import SquareSearch

        attack: FoolboxAttack = SquareSearch(
            threat.norm,
            queries=self.queries,
            p_init=self.p_init,
            restarts=self.restarts,
            shared=self.variant == "reference",
            rescaled=self.rescaled,
        )
        return attack

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most."""
        return float(self.queries * self.restarts)
