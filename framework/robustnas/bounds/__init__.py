"""Certified lower bounds of networks: sound over every admissible image, differentiable in alpha and weights.

    margins(network, images, labels, threat, method="crown-ibp") -> (N, K - 1)

The network's own forward runs on bounded values (`value.py`): no second description of it is needed, and a
function without a rule is refused.  `rules/` holds one small rule a function, `relaxation.py` the backward
pass through lines, `region.py` the admissible images, `methods.py` the methods.  docs/bounds.md has the
mathematics.

Sound up to rounding: arithmetic is that of the images' number format, without directed rounding.
"""

from robustnas.bounds import rules as _rules  # noqa: F401 (importing it registers the rules)
from robustnas.bounds.inputs import TARGETS
from robustnas.bounds.margins import (
    interval_and_linear_margins,
    interval_margins_and_loss,
    linear_bounds,
    log_widths,
    log_widths_and_logits,
    log_widths_within,
    margins,
    margins_and_logits,
    margins_within,
)
from robustnas.bounds.methods import IBP, METHODS, AlphaCrown, BoundMethod, Branching, Crown, CrownIBP
from robustnas.bounds.registration import activation_rule, boundable, linear_rule, rule
from robustnas.bounds.relaxation import relax, relax_entrywise
from robustnas.bounds.rules.curve import Curve, enclose_curve
from robustnas.bounds.streams import Lines
from robustnas.bounds.value import RULES, Value

__all__ = [
    "IBP", "METHODS", "RULES", "TARGETS", "AlphaCrown", "BoundMethod", "Branching", "Crown", "CrownIBP", "Curve",
    "Lines", "Value", "activation_rule", "boundable", "enclose_curve", "interval_and_linear_margins",
    "interval_margins_and_loss", "linear_bounds", "linear_rule", "log_widths", "log_widths_and_logits",
    "log_widths_within", "margins", "margins_and_logits", "margins_within", "relax", "relax_entrywise", "rule",
]  # fmt: skip
