"""An attack: random corners of the ball."""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import frozen
from torch import Tensor

from robustnas.attack.foolbox_attack import BallAttack, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.options import option
from robustnas.threat import ThreatModel


@frozen
class Example(BallAttack):
    """Tries random corners of the l_inf ball; sees the class alone.  Name the paper and its arXiv number here."""

    name = "example"
    norms = ("linf",)
    instead = "square knows all norms"
    access = "black-box"
    contract = 1

    tries: int = option(20, "corners an image", at_least=1)

    def evaluations(self, classes: int) -> int:
        """Model evaluations an image at most: attacks are run from cheap to expensive."""
        return self.tries

    def perturbed(
        self,
        network: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        draws: PerImageRandom,
    ) -> Tensor:
        """Images (N, C, H, W) in [0, 1] and labels (N,) -> (N, C, H, W), inside ball and box."""
        found = images.clone()
        left = torch.arange(len(images), device=images.device)
        for number in range(self.tries):
            # draws are each image's own, so that what becomes of it does not depend on its batch
            signs = draws.of("corner", number).at(left).signs(*images.shape[1:])
            tried = threat.project(images[left] + threat.epsilon * signs, images[left])
            with torch.no_grad():
                wrong = fooled(network(tried), labels[left])
            found[left[wrong]] = tried[wrong]
            left = left[~wrong]
            if not len(left):
                break
        return found
