"""The worst images found by PGD from the clean ones, which draws nothing: what some scores hold beside the clean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.attack.pgd import pgd
from robustnas.threat import ThreatModel


def worst_images(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, steps: int, step_size: float | None
) -> Tensor:
    """Climb the cross-entropy of each image: (N, C, H, W), (N,) -> (N, C, H, W) within the threat, detached.

    Args:
        step_size: in pixel units; None is epsilon / 4.
    """
    return pgd(
        network,
        images,
        lambda logits: F.cross_entropy(logits, labels, reduction="sum"),
        threat,
        steps=steps,
        step_size=step_size,
        generator=torch.Generator(images.device),  # of a noise of size 0
        noise=0.0,
    )
