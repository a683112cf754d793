"""Noise on the images of both levels of a search: noisy examples in place of adversarial ones (R-NAS).

    inner   (1 - share) L_train(x) + share L_train(x + noise)
    outer   (1 - share) L_val(x) + share L_val(x + noise)            the first term alone with `levels: inner`

noise is uniform in [-eps, eps], or Gaussian of deviation eps, clamped to the images' box; eps is the threat's epsilon
if not given, in l_1 epsilon / d over the d values of an image.  `random-noise` with `target: input` has noise in the
inner level alone, with no clean term and eps on a schedule.

Source: Zhu et al. 2023 (R-NAS), arXiv:2304.02845, which has noise examples and a term that balances accuracy and
robustness; there is no released code, and the form of that term is ours: the two losses, weighed.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen
from attrs.converters import optional as if_given
from attrs.validators import ge, gt, in_, le, optional
from torch import Tensor

from robustnas.contracts import Context, Supernet
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.metrics.noise import drawn, usual_scale


@frozen
class InputNoise:
    """Trains w, and moves alpha, on noisy images beside clean ones (R-NAS, Zhu et al. 2023, arXiv:2304.02845)."""

    eps: float | None = option(
        None,
        "scale of the noise in pixel units; default the threat's epsilon (l1: epsilon / d)",
        optional(ge(0.0)),
        converter=if_given(pixels),
    )
    distribution: Literal["uniform", "gaussian"] = option(
        "uniform", "of the noise: uniform in [-eps, eps], or gaussian of deviation eps", in_(("uniform", "gaussian"))
    )
    share: float = option(0.5, "weight of the noisy loss, beside the clean one", gt(0.0), le(1.0), converter=float)
    levels: Literal["both", "inner"] = option(
        "both", "levels that see noise: both, or inner (alpha then moves on clean images)", in_(("both", "inner"))
    )

    def inner_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """The loss of clean and noisy images: (N, C, H, W), (N,) -> scalar."""
        eps = usual_scale(images, threat) if self.eps is None else self.eps
        noisy = (images + eps * drawn(images, self.distribution, context)).clamp(0.0, 1.0)
        loss = self.share * context.loss(supernet(noisy), labels)
        return loss if self.share == 1 else loss + (1 - self.share) * context.loss(supernet(images), labels)

    def outer_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """The same, or the clean loss where `levels` says so: (N, C, H, W), (N,) -> scalar."""
        if self.levels == "both":
            return self.inner_loss(supernet, images, labels, threat, context)
        return context.loss(supernet(images), labels)
