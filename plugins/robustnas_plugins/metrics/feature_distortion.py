"""Feature distortion (RNAS): how far the worst image found moves the features in front of the classifier.

    R = - max( || z(x') - z(x) ||_2 / || z(x) ||_2 - bound, 0 )        z: the input of the network's last linear layer

x' maximises the cross-entropy within the threat by PGD from the clean image, and is a constant then; gradients in alpha
and w go through both features.  The search of the paper keeps the distortion below a bound (RNAS-H and RNAS-L are two)
and sees PGD images in both levels: `metric: [feature-distortion, adversarial-training]`.

Source: Qian et al. 2022, "Robust Network Architecture Search via Feature Distortion Restraining", ECCV.  The division
by the clean features' length is ours: without it shrinking features would be a gain.  The released code
(hye999/RNAS-pytorch) has no distortion term at all, and follows the paper in its adversarial losses alone; here the
constraint is a penalty in the outer level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from attrs import frozen
from attrs.converters import optional as if_given
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from robustnas.errors import RunError
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.metrics.worst_images import worst_images


@frozen
class FeatureDistortion:
    """Minus how far the worst image found moves the features, relative to them (RNAS, Qian et al. 2022, ECCV)."""

    bound: float = option(0.0, "distortion that costs nothing", ge(0.0), converter=float)
    steps: int = option(7, "steps of PGD, from the clean image", at_least=1)
    step_size: float | None = option(
        None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)), converter=if_given(pixels)
    )

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), at most 0.

        Raises:
            RunError: no linear layer takes part in the network's forward pass.
        """
        worst = worst_images(network, images, labels, threat, self.steps, self.step_size)
        with _watched(network) as seen:
            network(images)
            clean = _last(seen)
            network(worst)
            moved = torch.linalg.vector_norm(_last(seen) - clean, dim=1)
        length = torch.linalg.vector_norm(clean, dim=1).clamp_min(torch.finfo(clean.dtype).tiny)
        beyond: Tensor = (moved / length - self.bound).clamp_min(0.0)
        return -beyond


@contextmanager
def _watched(network: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what linear layers are given is noted, in the order in which they are called."""
    seen: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    with ExitStack() as hooks:
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                hooks.callback(layer.register_forward_pre_hook(note).remove)
        yield seen


def _last(seen: list[Tensor]) -> Tensor:
    """The features in front of the classifier, (N, F)."""
    if not seen:
        raise RunError("feature-distortion looks at what the last linear layer is given, and the network has none")
    return seen[-1].flatten(1)
