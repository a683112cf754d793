"""What training minimises: cross-entropy on clean images, on PGD images, TRADES, or bounds.

    standard      CE(f(x), y)
    adversarial   CE(f(x'), y),   x' by PGD on CE                        Madry et al. 2018, arXiv:1706.06083
    trades        CE(f(x), y) + beta KL(f(x) || f(x')),  x' by PGD on KL     Zhang et al. 2019, arXiv:1901.08573
    certified     CE(f(x), y) mixed with CE of bounds: `robustnas.train.certified`

PGD starts uniform in the ball, for TRADES a little Gaussian noise away from the image: so the two papers have it (at
the image itself the divergence has no gradient).  Perturbed images are made in eval mode (no batch norm statistics
move) and without drop-path.  The auxiliary head sees the images that the first cross-entropy sees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.attack.pgd import pgd
from robustnas.nn.normalize import PixelNetwork
from robustnas.threat import ThreatModel
from robustnas.train.settings import Adversarial, Standard, Trades

Criterion = Callable[[Tensor, Tensor], Tensor]


def loss(
    regime: Standard | Adversarial | Trades,
    network: PixelNetwork,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    criterion: Criterion,
    auxiliary: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The regime's loss and the logits it judged: (N, C, H, W), (N,) -> (scalar, (N, K)).

    Args:
        criterion: (N, K) logits, (N,) labels -> scalar.
        auxiliary: weight of the auxiliary head's loss; 0 does not run the head.
        generator: for the random start of PGD.
    """
    if isinstance(regime, Standard):
        return with_head(network, images, labels, criterion, auxiliary)
    if isinstance(regime, Adversarial):
        perturbed = perturb(regime, network, images, labels, threat, generator)
        return with_head(network, perturbed, labels, criterion, auxiliary)
    perturbed = perturb(regime, network, images, labels, threat, generator)
    natural, logits = with_head(network, images, labels, criterion, auxiliary)
    divergence = _divergence(logits, network(perturbed)).mean()
    return natural + regime.beta * divergence, logits


def perturb(
    regime: Adversarial | Trades,
    network: PixelNetwork,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    generator: torch.Generator,
) -> Tensor:
    """The regime's perturbed images: (N, C, H, W) -> the same."""
    raised: Callable[[Tensor], Tensor]
    if isinstance(regime, Trades):
        training = network.training
        with torch.no_grad():
            clean = network.eval()(images)
        network.train(training)

        def raised(logits: Tensor) -> Tensor:
            return _divergence(clean, logits)
    else:

        def raised(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, reduction="none")

    noise = regime.noise if isinstance(regime, Trades) else None
    return pgd(
        network,
        images,
        raised,
        threat,
        steps=regime.steps,
        step_size=regime.step_size,
        noise=noise,
        generator=generator,
    )


def _divergence(clean: Tensor, perturbed: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(perturbed)): (N, K) twice -> (N,)."""
    log_perturbed, log_clean = perturbed.log_softmax(1), clean.log_softmax(1)
    return (log_clean.exp() * (log_clean - log_perturbed)).sum(1)


def with_head(
    network: PixelNetwork, images: Tensor, labels: Tensor, criterion: Criterion, auxiliary: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the auxiliary head's, and the logits: (N, C, H, W), (N,) -> (scalar, (N, K))."""
    if auxiliary == 0:
        logits = network(images)
        return criterion(logits, labels), logits
    logits, head = network.with_auxiliary(images)
    return criterion(logits, labels) + auxiliary * criterion(head, labels), logits
