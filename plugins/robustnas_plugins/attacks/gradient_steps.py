"""Steps along a gradient, each projected back into the ball: FGSM, PGD, MI-FGSM and the margin attack are cases of it.

    g <- decay g + gradient / ||gradient||_1          x <- project(x + the steepest step of length s along g)

The step is that of `robustnas.attack.pgd`.  Every iterate at which a gradient is taken is also judged by those
logits: an image that is fooled leaves with the iterate that fools it.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs.validators import gt
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, Network, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import per_image, step
from robustnas.options import MISSING, option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.attacks.losses import cross_entropy
from robustnas_plugins.attacks.random_images import inside

RESTARTS = "runs from new random starts; images already fooled are left out of the next"
"""Help of the option `restarts`."""


def step_size_option(unit: str = "") -> Any:
    """The option of that name: required, in pixel units."""
    return option(MISSING, f"size of a step in pixel units{unit}; 2/255 is a number", gt(0.0), converter=pixels)


def shares(gradient: Tensor) -> Tensor:
    """The gradient of each image over its l_1 norm: (n, C, H, W) -> the same; 0 stays 0, and no square underflows."""
    size = gradient.flatten(1).abs().sum(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / per_image(size, gradient)


class GradientSteps(BallAttack):
    """Steps of one size along the gradient of a loss.  A plugin has what it leaves to its users as fields."""

    steps: int = 1
    """Steps of one run; each costs one evaluation an image."""

    step_size: float | None = None
    """Length of a step in the norm, in pixel units; None is epsilon."""

    restarts: int = 1
    """Runs, each of what stands after the one before; more than one need `random_start`."""

    random_start: bool = False
    """Whether a run starts at an image uniform in the ball instead of the clean one."""

    momentum: float = 0.0
    """Decay of earlier gradients in the direction."""

    leaves: bool = True
    """Whether an image stops when it is fooled; images that shall fool other networks go on to the end."""

    loss = staticmethod(cross_entropy)
    """What is raised."""

    def evaluations(self, classes: int) -> float:
        """Model evaluations an image costs at most: a run's last iterate is looked at where another run follows."""
        return float(self.restarts * (self.steps + 1) - 1)

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
            at = inside(clean, threat, draws.of("start", restart).at(rows)) if self.random_start else clean
            rows, at = self._run(network, rows, clean, labels[rows], at, threat, found)
            if restart + 1 < self.restarts and len(rows):
                with torch.no_grad():
                    rows = rows[~fooled(network(at), labels[rows])]
        return found

    def _run(
        self,
        network: Network,
        rows: Tensor,
        clean: Tensor,
        labels: Tensor,
        at: Tensor,
        threat: ThreatModel,
        found: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Take all steps from `at`; write what images end with into `found`, return the rows that stand, and where."""
        length = threat.epsilon if self.step_size is None else self.step_size
        memory = torch.zeros_like(clean)
        for _ in range(self.steps):
            leaf = at.detach().requires_grad_()
            logits = network(leaf)
            (gradient,) = torch.autograd.grad(self.loss(logits, labels, labels).sum(), leaf)
            memory = self.momentum * memory + shares(gradient)
            fell = fooled(logits, labels)
            if self.leaves and bool(fell.any()):
                found[rows[fell]] = at[fell]
                rows, clean, labels, at, memory = (each[~fell] for each in (rows, clean, labels, at, memory))
                if not len(rows):
                    return rows, at
            at = threat.project(step(at, memory, length, threat.norm), clean)
        found[rows] = at
        return rows, at
