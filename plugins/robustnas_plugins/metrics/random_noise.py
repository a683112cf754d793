"""Random noise in the inner level: on the mixing weights (SDARTS-RS), or on the images.

alpha   w is trained at p + delta, delta uniform in [-eps, eps], p = softmax(alpha); entries are then clamped to
        [0, 1] and rows scaled to sum to 1.  Alpha itself moves at p.
input   w is trained on images plus noise of scale eps, clamped to [0, 1]; alpha moves on clean images.

eps runs linearly over the search from `start` to `end`.  Where a recipe gives none for the images, it is the threat's
epsilon; in l_1, where that is a sum over the d values of an image, epsilon / d.

Source: Chen and Hsieh 2020 (SmoothDARTS), arXiv:2002.05283: eps from 0.03 to 0.3.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen
from attrs.validators import ge, in_, optional
from torch import Tensor

from robustnas.contracts import Context, Supernet
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.metrics.mixing import END, START, perturbed, schedule
from robustnas_plugins.metrics.noise import drawn, usual_scale


def _scale(value: str | float | None) -> float | None:
    return None if value is None else pixels(value)


@frozen
class RandomNoise:
    """Trains w under random noise; has no score."""

    target: Literal["alpha", "input"] = option(
        "alpha",
        "what is disturbed: alpha (the mixing weights, SDARTS-RS) or input (the images)",
        in_(("alpha", "input")),
    )
    distribution: Literal["uniform", "gaussian"] = option(
        "uniform",
        "of the noise: uniform in [-eps, eps], or gaussian of deviation eps (input only)",
        in_(("uniform", "gaussian")),
    )
    start: float | None = option(
        None,
        "eps at the first epoch; default 0.03 for alpha, the threat's epsilon for input (l1: epsilon / d)",
        optional(ge(0.0)),
        converter=_scale,
    )
    end: float | None = option(
        None,
        "eps after the last epoch; default 0.3 for alpha, the threat's epsilon for input (l1: epsilon / d)",
        optional(ge(0.0)),
        converter=_scale,
    )

    @distribution.validator
    def _fits_target(self, attribute: object, distribution: str) -> None:
        if distribution == "gaussian" and self.target == "alpha":
            raise ValueError("gaussian noise is for target: input; the noise on alpha is uniform, as in SDARTS-RS")

    def inner_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """The loss under this step's noise: (N, C, H, W), (N,) -> scalar."""
        if self.target == "input":
            usual = usual_scale(images, threat)
            scale = self._eps(usual, usual, context)
            return context.loss(
                supernet((images + scale * drawn(images, self.distribution, context)).clamp(0.0, 1.0)), labels
            )
        scale = self._eps(START, END, context)
        mixing = supernet.mixing()
        noisy = {name: perturbed(p, scale * drawn(p, self.distribution, context)) for name, p in mixing.items()}
        return context.loss(supernet(images, mixing=noisy), labels)

    def _eps(self, start: float, end: float, context: Context) -> float:
        """eps at this step; `start` and `end` stand in for options that were not given."""
        start = start if self.start is None else self.start
        end = end if self.end is None else self.end
        return schedule(start, end, context.progress)
