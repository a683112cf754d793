"""Certified training: the cross-entropy of the worst logits that bounds allow, beside that of the clean ones.

    loss  =  kappa CE(f(x), y)  +  (1 - kappa) CE(w, y),      w_y = 0,  w_j = -m_j
    m     =  (1 - beta) IBP margins  +  beta CROWN-IBP margins

IBP: Gowal et al. 2018, arXiv:1810.12715; the mix: Zhang et al. 2020 (CROWN-IBP), arXiv:1906.06316.  m_j is a lower
bound of f_y - f_j over the admissible images, and the CROWN-IBP margin here is the engine's: the larger of both
methods'.  With epsilon 0 the loss is the clean one.

The schedule moves every step.  With `passed` epochs gone, the step's own fraction of one included,

    t         =  (passed - warmup) / ramp, cut to [0, 1]
    grown     =  (4 t)^4 / 13  up to t = 1/4,   (16 t - 3) / 13  from there on: smooth at 1/4, 1 at the end
    epsilon   =  grown * end
    kappa     =  kappa_start + grown * (kappa_end - kappa_start),      beta likewise

The fourth power is that of Xu et al. 2020 (arXiv:2002.12920): with its first weights a deep network has useful bounds
at tiny radii only.

Bounds are of the network in eval mode (no drop-path, no dropout) with the statistics of the batch, through which
gradients pass (`robustnas.nn.batch_statistics`), and float32 whatever the precision.
"""

from __future__ import annotations

import torch
from attrs import asdict, frozen
from attrs.validators import ge, gt, le, lt, optional
from torch import Tensor, nn

from robustnas.bounds import IBP, CrownIBP, margins_within
from robustnas.bounds.margins import wrong_classes
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.errors import OptionError
from robustnas.nn.batch_statistics import noted_statistics
from robustnas.nn.read_only import read_only
from robustnas.options import option
from robustnas.runtime.precision import single
from robustnas.threat import ThreatModel, beyond_range


@frozen
class Moment:
    """The values of the schedule at one step.

    Args:
        epsilon: in pixel units.
        kappa: weight of the clean loss.
        beta: share of CROWN-IBP in the margins.
    """

    epsilon: float
    kappa: float
    beta: float


@frozen
class Certified:
    """Regime `certified`: cross-entropy mixed with that of the worst bounded logits, IBP or CROWN-IBP.

    Sources: Gowal et al. 2018, arXiv:1810.12715; Zhang et al. 2020, arXiv:1906.06316.
    """

    epsilon: float | None = option(
        None, "radius at the end in pixel units; default the threat's (one a little larger is usual)", optional(gt(0.0))
    )
    warmup_epochs: float | None = option(
        None, "epochs at the start with epsilon 0, a fraction too; default a twentieth of all", optional(ge(0.0))
    )
    ramp_epochs: float | None = option(
        None, "epochs after these in which epsilon grows to its end; default half of all", optional(ge(0.0))
    )
    kappa_start: float = option(1.0, "weight of the clean loss as epsilon begins to grow", ge(0.0), le(1.0))
    kappa_end: float = option(0.5, "weight of the clean loss once epsilon has grown", ge(0.0), lt(1.0))
    beta_start: float = option(
        1.0, "share of CROWN-IBP in the bounds as epsilon begins to grow, the rest is IBP", ge(0.0), le(1.0)
    )
    beta_end: float = option(0.0, "share of CROWN-IBP once epsilon has grown", ge(0.0), le(1.0))

    advice = "a longer ramp_epochs of train.regime"

    def check(self, epochs: int, threat: ThreatModel | None) -> None:
        """Refuse a schedule in which epsilon does not reach its end, or an end that the threat's norm does not allow.

        Raises:
            OptionError: epsilon does not reach its end, or the end is larger than the whole pixel range.
        """
        warmup, ramp = self._spans(epochs)
        if warmup + ramp > epochs:
            raise OptionError(
                f"found warmup_epochs {warmup:g} and ramp_epochs {ramp:g}, together more than epochs: {epochs}, "
                "so epsilon would never reach its end; smaller ones or more epochs would do"
            )
        if threat is not None and beyond_range(threat.norm, self._last(threat)):
            raise OptionError(
                f"found epsilon {self.epsilon:g} in train.regime; a fraction of the pixel range, at most 1 for linf, "
                "would do, such as 8/255"
            )

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the loss, the clean logits, and which images are `certified`."""
        moment = self.moment(context.passed, context.epochs, threat)
        noted = context.hold(noted_statistics(network))
        with noted.watched():
            clean, logits = context.plain(network, images, labels)
        if moment.epsilon == 0:
            return TrainingLoss(clean, logits, {"certified": logits.detach().argmax(1) == labels})
        with noted.lent(), single(images.device):
            bounds = _margins(moment, network, images, labels, threat.norm)
            worst = context.loss(worst_logits(bounds, labels), labels)
        # only the clean loss includes the auxiliary head's, so the head never sees bounds
        mixed = clean + (1 - moment.kappa) * (worst - context.loss(logits, labels))
        return TrainingLoss(mixed, logits, {"certified": (bounds.detach() > 0).all(dim=1)})

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Find images that the network, as it is evaluated, is certified for at the last epsilon: (N,) bool."""
        last = Moment(self._last(threat), self.kappa_end, self.beta_end)
        with read_only(network), single(images.device), torch.no_grad():
            return (_margins(last, network, images, labels, threat.norm) > 0).all(dim=1)

    def judged(self, epoch: int, epochs: int) -> bool:
        """Judge networks only once epsilon is at its end: at a smaller epsilon more images would be certified."""
        return epoch >= sum(self._spans(epochs))

    def schedule(self, passed: float, epochs: int, threat: ThreatModel) -> dict[str, float]:
        """Epsilon, kappa and beta."""
        return asdict(self.moment(passed, epochs, threat))

    def moment(self, passed: float, epochs: int, threat: ThreatModel) -> Moment:
        """The schedule after `passed` of `epochs` epochs."""
        warmup, ramp = self._spans(epochs)
        share = grown((passed - warmup) / ramp) if ramp > 0 else float(passed > warmup)
        kappa = self.kappa_start + share * (self.kappa_end - self.kappa_start)
        return Moment(share * self._last(threat), kappa, self.beta_start + share * (self.beta_end - self.beta_start))

    def _spans(self, epochs: int) -> tuple[float, float]:
        """Epochs with epsilon 0, and those in which it grows, of `epochs` in all."""
        warmup = epochs / 20 if self.warmup_epochs is None else self.warmup_epochs
        return warmup, epochs / 2 if self.ramp_epochs is None else self.ramp_epochs

    def _last(self, threat: ThreatModel) -> float:
        """The epsilon at the end of the ramp."""
        return threat.epsilon if self.epsilon is None else self.epsilon


def grown(time: float) -> float:
    """The share, from 0 to 1, of its end that epsilon has reached at a time of the ramp, which goes from 0 to 1."""
    time = min(max(time, 0.0), 1.0)
    return (4 * time) ** 4 / 13 if time < 1 / 4 else (16 * time - 3) / 13


def _margins(moment: Moment, network: nn.Module, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Mix IBP and CROWN-IBP bounds of the margins, (N, K - 1); bounds whose share is 0 are not computed."""
    epsilon = torch.full((len(images),), moment.epsilon, dtype=images.dtype, device=images.device)
    parts = [
        share * margins_within(network, images, labels, norm, epsilon, method)
        for method, share in ((IBP(), 1 - moment.beta), (CrownIBP(), moment.beta))
        if share > 0
    ]
    return torch.stack(parts).sum(0)


def worst_logits(bounds: Tensor, labels: Tensor) -> Tensor:
    """0 for the true class and minus its margin's bound for any other: (N, K - 1), (N,) -> (N, K)."""
    classes = bounds.shape[1] + 1
    return bounds.new_zeros(len(labels), classes).scatter(1, wrong_classes(labels, classes), -bounds)
