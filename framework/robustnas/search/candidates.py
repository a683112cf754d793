"""How many genotypes a method makes, and how the best of them is chosen.

The baseline that every search must beat is the best of several random genotypes (Li and Talwalkar 2019,
arXiv:1902.07638; Yang et al. 2020, arXiv:1912.12522): candidates are trained, and judged on training images held out.
"""

from __future__ import annotations

from attrs import frozen
from attrs.validators import and_, ge, gt, lt, optional

from robustnas.options import MISSING, option

PGD_STEPS = 10
"""Steps of the attack that judges a candidate, each of a quarter of epsilon: enough to tell candidates apart."""


@frozen
class BestOf:
    """A number of candidates, each trained without the training images that judge it; the best is kept.

    The best is the one with the most images held out right under PGD at the method's threat, of equals the one with
    more right when clean, of these the first.
    """

    samples: int = option(MISSING, "candidates of which the best is kept", at_least=2)
    epochs: int | None = option(None, "epochs of a candidate's training; default train.epochs", optional(ge(1)))
    holdout: float = option(0.1, "share of the training images held out to judge candidates", and_(gt(0.0), lt(1.0)))
