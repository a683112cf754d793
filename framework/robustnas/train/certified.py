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
from attrs import frozen
from torch import Tensor

from robustnas.bounds import IBP, CrownIBP, margins_within
from robustnas.bounds.margins import wrong_classes
from robustnas.errors import InputError
from robustnas.nn.batch_statistics import Noted
from robustnas.nn.normalize import PixelNetwork
from robustnas.nn.read_only import read_only
from robustnas.runtime.precision import single
from robustnas.threat import ThreatModel, beyond_range
from robustnas.train.regimes import Criterion, with_head
from robustnas.train.settings import Certified


@frozen
class Moment:
    """What the schedule says of one step.

    Args:
        epsilon: in pixel units.
        kappa: weight of the clean loss.
        beta: share of CROWN-IBP in the margins.
    """

    epsilon: float
    kappa: float
    beta: float


def moment(regime: Certified, end: float, epochs: int, passed: float) -> Moment:
    """The schedule after `passed` of `epochs` epochs; `end` is the last epsilon."""
    warmup, ramp = regime.warmup(epochs), regime.ramp(epochs)
    share = grown((passed - warmup) / ramp) if ramp > 0 else float(passed > warmup)
    kappa = regime.kappa_start + share * (regime.kappa_end - regime.kappa_start)
    return Moment(share * end, kappa, regime.beta_start + share * (regime.beta_end - regime.beta_start))


def grown(time: float) -> float:
    """How far epsilon has grown, from 0 to 1, at a time from 0 to 1 of the ramp; 0 before it and 1 after it."""
    time = min(max(time, 0.0), 1.0)
    return (4 * time) ** 4 / 13 if time < 1 / 4 else (16 * time - 3) / 13


def last_epsilon(regime: Certified, threat: ThreatModel) -> float:
    """The epsilon at the end of the ramp.

    Raises:
        InputError: it is larger than the whole pixel range.
    """
    if regime.epsilon is None:
        return threat.epsilon
    if beyond_range(threat.norm, regime.epsilon):
        raise InputError(
            f"train.regime.epsilon is {regime.epsilon:g}, a fraction of the pixel range and at most 1 for linf; "
            "8/255 is written so"
        )
    return regime.epsilon


def loss(
    moment: Moment,
    network: PixelNetwork,
    images: Tensor,
    labels: Tensor,
    norm: str,
    criterion: Criterion,
    auxiliary: float,
    noted: Noted,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the clean logits, and which images are certified: (N, C, H, W), (N,) -> (scalar, (N, K), (N,)).

    Args:
        moment: of the schedule.
        norm: of the threat.
        criterion: (N, K) logits, (N,) labels -> scalar.
        auxiliary: weight of the auxiliary head's clean loss; 0 does not run the head.
        noted: of the network; the caller's backward pass stays inside its context.
    """
    with noted.watched():
        clean, logits = with_head(network, images, labels, criterion, auxiliary)
    if moment.epsilon == 0:
        return clean, logits, logits.detach().argmax(1) == labels
    with noted.lent(), single(images.device):
        bounds = _margins(moment, network, images, labels, norm)
        worst = criterion(worst_logits(bounds, labels), labels)
    # the auxiliary head's loss is all clean
    mixed = clean + (1 - moment.kappa) * (worst - criterion(logits, labels))
    return mixed, logits, (bounds.detach() > 0).all(dim=1)


def _margins(moment: Moment, network: PixelNetwork, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """(N, K - 1) bounds of the margins, IBP and CROWN-IBP mixed; what has no share is not computed."""
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


def certified(
    regime: Certified, network: PixelNetwork, images: Tensor, labels: Tensor, norm: str, end: float
) -> Tensor:
    """Which images the network, as it is evaluated, is certified for at the last epsilon: (N, C, H, W) -> (N,) bool."""
    last = Moment(end, regime.kappa_end, regime.beta_end)
    with read_only(network), single(images.device), torch.no_grad():
        return (_margins(last, network, images, labels, norm) > 0).all(dim=1)
