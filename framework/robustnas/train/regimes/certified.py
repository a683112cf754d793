"""Certified training: the cross-entropy of the worst logits that bounds allow, beside that of the clean ones.

    loss  =  kappa CE(f(x), y)  +  (1 - kappa) CE(w, y),      w_y = 0,  w_j = -m_j
    m     =  (1 - beta) IBP margins  +  beta CROWN-IBP margins

IBP: Gowal et al. 2018, arXiv:1810.12715; the mix: Zhang et al. 2020 (CROWN-IBP), arXiv:1906.06316.  m_j is a lower
bound of f_y - f_j over the admissible images, and the CROWN-IBP margin here is the engine's: the larger of both
methods'.  With epsilon 0 the loss is the clean one.  With `fused` it is the losses of both that are mixed,

    loss  =  kappa CE(f(x), y)  +  (1 - kappa) ((1 - beta) CE(w, y) + beta F),      w of the IBP margins

F the bound of the cross-entropy by one backward pass (`bounds/fused.py`; Xu et al. 2020, arXiv:2002.12920).

The schedule moves every step: epsilon is `grown` times its end (`ramp.py`), and

    kappa     =  kappa_start + grown * (kappa_end - kappa_start),      beta likewise
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from attrs import asdict, frozen
from attrs.validators import ge, le, lt
from torch import Tensor, nn

from robustnas.bounds import IBP, CrownIBP, interval_and_linear_margins, interval_margins_and_loss, margins_within
from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.nn.read_only import read_only
from robustnas.options import option
from robustnas.runtime.precision import single
from robustnas.threat import ThreatModel
from robustnas.train.regimes.bounded import Worst, beside_bounds, worst_logits
from robustnas.train.regimes.ramp import Ramp


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
class Certified(Ramp):
    """Regime `certified`: cross-entropy mixed with that of the worst bounded logits, IBP or CROWN-IBP.

    Sources: Gowal et al. 2018, arXiv:1810.12715; Zhang et al. 2020, arXiv:1906.06316.
    """

    kappa_start: float = option(1.0, "weight of the clean loss as epsilon begins to grow", ge(0.0), le(1.0))
    kappa_end: float = option(0.5, "weight of the clean loss once epsilon has grown", ge(0.0), lt(1.0))
    beta_start: float = option(
        1.0, "share of CROWN-IBP in the bounds as epsilon begins to grow, the rest is IBP", ge(0.0), le(1.0)
    )
    beta_end: float = option(0.0, "share of CROWN-IBP once epsilon has grown", ge(0.0), le(1.0))
    fused: bool = option(
        False,
        "CROWN-IBP bounds the loss itself, one backward pass instead of K - 1 (Xu et al. 2020)",
        identity="if given",
    )

    @fused.validator
    def _bounds_lines(self, attribute: object, fused: bool) -> None:
        if fused and self.beta_start == self.beta_end == 0:
            raise ValueError(
                "found fused: true with beta_start and beta_end 0, which are IBP alone; a beta above 0 or fused: false "
                "would do"
            )

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, context: TrainingContext
    ) -> TrainingLoss:
        """(N, C, H, W), (N,) -> the loss, the clean logits, and which images are `certified`."""
        moment = self.moment(context.passed, context.epochs, threat)

        def bounds() -> Worst:
            if moment.beta and self.fused:
                return _fused(moment, network, images, labels, threat.norm, context)
            return Worst.of(_margins(moment, network, images, labels, threat.norm), labels, context)

        bounded = bounds if moment.epsilon > 0 else None
        terms = self.terms(network, context, threat, moment.epsilon)
        return beside_bounds(network, images, labels, context, bounded, 1 - moment.kappa, terms)

    def right(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """Find images that the network, as it is evaluated, is certified for at the last epsilon: (N,) bool."""
        last = Moment(self.last(threat), self.kappa_end, self.beta_end)
        with read_only(network), single(images.device), torch.no_grad():
            return (_margins(last, network, images, labels, threat.norm) > 0).all(dim=1)

    def schedule(self, passed: float, epochs: int, threat: ThreatModel) -> dict[str, float]:
        """Epsilon, kappa and beta."""
        return asdict(self.moment(passed, epochs, threat))

    def moment(self, passed: float, epochs: int, threat: ThreatModel) -> Moment:
        """The schedule after `passed` of `epochs` epochs."""
        share = self.share(passed, epochs)
        kappa = self.kappa_start + share * (self.kappa_end - self.kappa_start)
        return Moment(share * self.last(threat), kappa, self.beta_start + share * (self.beta_end - self.beta_start))


def _fused(
    moment: Moment, network: nn.Module, images: Tensor, labels: Tensor, norm: str, context: TrainingContext
) -> Worst:
    """Mix the losses of IBP's worst logits and of the loss that CROWN-IBP bounds at once."""
    epsilon = _same(images, moment.epsilon)
    intervals, losses = interval_margins_and_loss(network, images, labels, norm, epsilon)
    of_intervals = Worst.of(intervals, labels, context)
    # what label smoothing adds is that of the intervals' worst logits
    less = F.cross_entropy(worst_logits(intervals, labels), labels) - losses.mean()
    # a margin of 0 costs log 2
    proved = of_intervals.right | (losses.detach() < math.log(2.0))
    return Worst(of_intervals.loss - moment.beta * less, proved)


def _same(images: Tensor, epsilon: float) -> Tensor:
    return torch.full((len(images),), epsilon, dtype=images.dtype, device=images.device)


def _margins(moment: Moment, network: nn.Module, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Mix IBP and CROWN-IBP bounds of the margins, (N, K - 1); bounds whose share is 0 are not computed."""
    epsilon = _same(images, moment.epsilon)
    if moment.beta in (0, 1):
        return margins_within(network, images, labels, norm, epsilon, CrownIBP() if moment.beta else IBP())
    intervals, lines = interval_and_linear_margins(network, images, labels, norm, epsilon)
    return (1 - moment.beta) * intervals + moment.beta * lines
