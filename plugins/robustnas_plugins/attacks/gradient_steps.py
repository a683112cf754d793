"""Steps along a gradient, each projected back into the ball: FGSM, PGD, MI-FGSM and the margin attack are cases of it.

    g <- decay g + gradient / ||gradient||_1          x <- project(x + the steepest step of length s along g)

The step is that of `robustnas.attack.pgd`.  Every iterate at which a gradient is taken is also judged by those
logits: an image that is fooled leaves with the iterate that fools it.
"""

from __future__ import annotations

import torch
from attrs import define, fields
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import step
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.losses import Loss, cross_entropy
from robustnas_plugins.attacks.random_images import inside


def shares(gradient: Tensor) -> Tensor:
    """The gradient of each image over its l_1 norm: (n, C, H, W) -> the same; 0 stays 0, and no square underflows."""
    size = gradient.flatten(1).abs().sum(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / size.view(-1, *[1] * (gradient.dim() - 1))


@define(eq=False)
class _Standing:
    """The images of a run that still stand, n of them.

    Args:
        rows: (n,) int64, their places in the batch.
        clean: (n, C, H, W).
        labels: (n,) int64.
        at: (n, C, H, W), the iterate.
        memory: (n, C, H, W), the direction g.
    """

    rows: Tensor
    clean: Tensor
    labels: Tensor
    at: Tensor
    memory: Tensor

    def keep(self, chosen: Tensor) -> None:
        """Leave the others: (n,) bool."""
        for one in fields(_Standing):
            setattr(self, one.name, getattr(self, one.name)[chosen])


class GradientSteps(BallAttack):
    """Steps of one size along the gradient of a loss.

    Args:
        norm: `linf`, `l2` or `l1`.
        steps: steps of one run; each costs one evaluation an image.
        step_size: length of a step in the norm, in pixel units; None is epsilon.
        loss: what is raised.
        restarts: runs, each of what stands after the one before; more than one need `random_start`.
        random_start: start at an image uniform in the ball instead of the clean one.
        momentum: decay of earlier gradients in the direction.
        leaves: whether an image stops when it is fooled; images that shall fool other networks go on to the end.
    """

    def __init__(
        self,
        norm: str,
        steps: int,
        step_size: float | None = None,
        loss: Loss = cross_entropy,
        restarts: int = 1,
        random_start: bool = False,
        momentum: float = 0.0,
        leaves: bool = True,
    ):
        super().__init__(norm)
        self.steps = steps
        self.step_size = step_size
        self.loss = loss
        self.restarts = restarts
        self.random_start = random_start
        self.momentum = momentum
        self.leaves = leaves

    def perturbed(
        self, network: Network, images: Tensor, labels: Tensor, threat: ThreatModel, draws: PerImageRandom
    ) -> Tensor:
        """The iterate that fools, or the last one of the last run."""
        found = images.clone()
        rows = torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            if not len(rows):
                break
            clean = images[rows]
            begin = inside(clean, threat, draws.of("start", restart).at(rows)) if self.random_start else clean
            standing = _Standing(rows, clean, labels[rows], begin, torch.zeros_like(clean))
            self._run(network, standing, threat, found)
            rows = standing.rows
            if restart + 1 < self.restarts and len(rows):
                with torch.no_grad():
                    rows = rows[~fooled(network(standing.at), standing.labels)]
        return found

    def _run(self, network: Network, standing: _Standing, threat: ThreatModel, found: Tensor) -> None:
        """All steps from one start; writes what it ends with into `found`, `standing` is left as it is then."""
        length = threat.epsilon if self.step_size is None else self.step_size
        for _ in range(self.steps):
            at = standing.at.detach().requires_grad_()
            logits = network(at)
            (gradient,) = torch.autograd.grad(self.loss(logits, standing.labels, standing.labels).sum(), at)
            standing.memory = self.momentum * standing.memory + shares(gradient)
            if self.leaves:
                fell = fooled(logits, standing.labels)
                if bool(fell.any()):
                    found[standing.rows[fell]] = standing.at[fell]
                    standing.keep(~fell)
                    if not len(standing.rows):
                        return
            ahead = step(standing.at, standing.memory, length, threat.norm)
            standing.at = threat.project(ahead, standing.clean)
        found[standing.rows] = standing.at
