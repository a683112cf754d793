"""The l_1 forms of FGSM and PGD: few pixels move, and most of them far.

Written here because foolbox's are not what the names promise in l_1: `L1FastGradientAttack` and `L1PGD` spread a step
over all pixels in proportion to the gradient, which is not the direction of steepest ascent, and give back by scaling
what leaves the ball; `SparseL1DescentAttack` projects with the index after the last that satisfies the condition of
Duchi et al. 2008, so that its results lie outside the ball.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from torch import Tensor
from torch.nn.functional import cross_entropy

from robustnas.foolbox_import import load_foolbox
from robustnas.perturb import ascend, pushes, random_image
from robustnas.threat import ThreatModel

_base: Any = load_foolbox().attacks.base
_l1: Any = load_foolbox().distances.l1


class _InL1(_base.FixedEpsilonAttack, ABC):  # type: ignore[misc]
    """An untargeted attack inside an l_1 ball that raises the cross-entropy; random draws are torch's global ones."""

    distance = _l1

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """(N, C, H, W) in [0, 1] -> the same, within epsilon of it; `criterion` is `Misclassification`."""
        tensor, restore = astensor_(inputs)
        labels: Tensor = criterion.labels.raw

        def loss(images: Tensor) -> Tensor:
            """(N, C, H, W) -> scalar: the sum, so that every image has its own gradient whatever the batch."""
            return cross_entropy(model(images), labels, reduction="sum")

        found = self.perturbed(loss, tensor.raw, ThreatModel("l1", epsilon))
        return restore(astensor(found))

    @abstractmethod
    def perturbed(self, loss: Callable[[Tensor], Tensor], images: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W) -> admissible images at which `loss` is high."""


class SparseDescent(_InL1):
    """PGD in l_1, by the steps of `robustnas.perturb`.

    Args:
        steps: gradient steps.
        step_size: length of a step in l_1, in pixel units.
        random_start: start at a random image of the ball instead of the clean one.
    """

    def __init__(self, steps: int, step_size: float, random_start: bool):
        self.steps = steps
        self.step_size = step_size
        self.random_start = random_start

    def perturbed(self, loss: Callable[[Tensor], Tensor], images: Tensor, threat: ThreatModel) -> Tensor:
        """After `steps` steps."""
        return ascend(
            loss,
            images,
            threat,
            steps=self.steps,
            generator=torch.default_generator,
            step_size=self.step_size,
            random_start=self.random_start,
        )


class FillPixels(_InL1):
    """FGSM in l_1: the admissible image at which the loss, made linear, is highest.

    Args:
        random_start: take the gradient at a random image of the ball instead of the clean one.
    """

    def __init__(self, random_start: bool):
        self.random_start = random_start

    def perturbed(self, loss: Callable[[Tensor], Tensor], images: Tensor, threat: ThreatModel) -> Tensor:
        """One step."""
        start = random_image(images, threat, torch.default_generator) if self.random_start else images.clone()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(start.requires_grad_()), start)
        return threat.project((images + pushes(images, gradient, threat.epsilon)).clamp(0.0, 1.0), images)
