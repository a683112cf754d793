"""Random numbers that metrics add to images or to mixing weights."""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.contracts import Context
from robustnas.threat import ThreatModel


def drawn(like: Tensor, distribution: str, context: Context) -> Tensor:
    """Noise of scale 1 in the shape of `like`: `uniform` in [-1, 1], or `gaussian` of deviation 1."""
    draw = torch.randn if distribution == "gaussian" else torch.rand
    noise = draw(like.shape, generator=context.generator, device=context.generator.device).to(like)
    return noise if distribution == "gaussian" else 2 * noise - 1


def usual_scale(images: Tensor, threat: ThreatModel) -> float:
    """The scale of a pixel's noise that belongs to a threat: epsilon, in l_1 shared by the d values of an image."""
    return threat.epsilon / images[0].numel() if threat.norm == "l1" else threat.epsilon
