"""AutoAttack: an ensemble without parameters to choose, each attack on the images that still stand.

    standard   AutoPGD on the cross-entropy, AutoPGD towards classes, FAB towards classes, Square
    plus       both AutoPGD from five starts, untargeted FAB from five, Square, and the two towards classes
    rand       both AutoPGD on the mean of 20 passes, for networks whose answers are random

Order and budgets are those of the reference implementation.  In l_1 the standard version starts the first AutoPGD five
times and aims the second at five classes (Croce and Hein 2021, arXiv:2103.01208).

Source: Croce and Hein 2020, arXiv:2003.01690.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from attrs.validators import in_

from robustnas.attack.foolbox_attack import InTurn
from robustnas.options import option
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy, AutoPGDLogitsRatio, AutoPGDTargeted
from robustnas_plugins.attacks.fab import FAB, FABT
from robustnas_plugins.attacks.square import VARIANTS, Square

VERSIONS = ("standard", "rand", "plus")


@frozen
class AutoAttack:
    """AutoAttack in l_inf, l_2 or l_1; an image is robust if every part fails on it.

    Parts towards classes try all wrong ones where there are fewer than they ask for.
    """

    version: str = option(
        "standard",
        "standard, plus (more starts and losses), or rand (for networks whose answers are random)",
        in_(VERSIONS),
    )
    square_variant: str = option(
        "per-sample",
        "Square's squares: per-sample is stronger, reference is what leaderboards ran",
        in_(VARIANTS),
    )
    steps: int = option(
        100, "steps of AutoPGD and FAB; with fewer than 100 the figures are not AutoAttack's", at_least=1
    )
    queries: int = option(5000, "queries of Square; with fewer than 5000 the figures are not AutoAttack's", at_least=1)

    def parts(self, norm: str) -> dict[str, Any]:
        """The attacks in the order in which they are tried, by name."""
        sparse = norm == "l1"
        square = Square(queries=self.queries, variant=self.square_variant, rescaled=False)
        if self.version == "rand":
            return {
                "apgd-ce": AutoPGDCrossEntropy(self.steps, eot_samples=20),
                "apgd-dlr": AutoPGDLogitsRatio(self.steps, eot_samples=20),
            }
        if self.version == "plus":
            return {
                "apgd-ce": AutoPGDCrossEntropy(self.steps, restarts=5),
                "apgd-dlr": AutoPGDLogitsRatio(self.steps, restarts=5),
                "fab": FAB(self.steps, restarts=5),
                "square": square,
                "apgd-t": AutoPGDTargeted(self.steps, target_classes=9),
                "fab-t": FABT(self.steps, target_classes=9),
            }
        return {
            "apgd-ce": AutoPGDCrossEntropy(self.steps, restarts=5 if sparse else 1),
            "apgd-t": AutoPGDTargeted(self.steps, target_classes=5 if sparse else 9),
            "fab-t": FABT(self.steps, target_classes=9),
            "square": square,
        }

    def build(self, threat: ThreatModel) -> InTurn:
        """The parts in turn, for `threat.norm`."""
        return InTurn(threat.norm, {name: part.build(threat) for name, part in self.parts(threat.norm).items()})

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image that stands to the end costs: of all parts, and one that judges after each."""
        return max(float(sum(part.evaluations(classes) + 1 for part in self.parts(norm).values())) for norm in NORMS)
