"""Linear networks that repeat pixels before they mix them, and the exact least values of their logits.

A pixel that stands in several entries is one pixel to an adversary: a bound that takes its copies for pixels of their
own is false in l_2 and l_1.  The networks are linear, so what is true is known.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.soundness.points import lowest
from robustnas.threat import ThreatModel

THREE = torch.tensor([0.75, -0.5, 0.25]).view(3, 1, 1)
PLACES = torch.tensor([0, 2, 2, 1])

COPYING: dict[str, Callable[[Tensor], Tensor]] = {
    "cat": lambda x: torch.cat([x, x, x], dim=1),
    "cat of scaled copies": lambda x: torch.cat([x, 0.5 - x, 2 * x], dim=3),
    "stack": lambda x: torch.stack([x, x], dim=2).flatten(1, 2),
    "minus a mean for each of three channels": lambda x: x[:, :1] - THREE.to(x),
    "over a deviation for each of three channels": lambda x: (x[:, :1] + 0.5) / THREE.to(x),
    "times three factors": lambda x: THREE.to(x) * x[:, :1],
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "broadcast_to": lambda x: torch.broadcast_to(x[:, None], (len(x), 2, *x.shape[1:])).flatten(1, 2),
    "repeat": lambda x: x.repeat(1, 2, 1, 2),
    "tile": lambda x: x.tile(2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=2),
    "chosen twice": lambda x: x[:, :, PLACES],
    "index_select": lambda x: x.index_select(3, PLACES),
    "gather": lambda x: x.gather(3, PLACES.expand(*x.shape[:3], 4)),
    "take_along_dim": lambda x: x.take_along_dim(PLACES.view(1, 1, 1, 4), dim=3),
    "windows": lambda x: x.unfold(3, 2, 1).flatten(3),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2),
    "upsampled to a size": lambda x: F.interpolate(x, size=(4, 5), mode="nearest-exact"),
    "padded by reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "padded by repetition": lambda x: F.pad(x, (2, 0, 0, 1), mode="replicate"),
    "padded in a circle": lambda x: F.pad(x, (1, 1, 0, 0), mode="circular"),
}
"""(N, C, H, W) with sides of at least 3 -> the same with copies."""

MOVING: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: 1.5 - x,
    lambda x: x.flip(2).mT,
    lambda x: F.pad(x, (1, 0, 0, 1), value=0.25),
    lambda x: x.roll(1, 3) * -0.5,
)
"""What repeats nothing, to stand between."""


class Copying(nn.Module):
    """(N, 1, H, W) -> (N, 3): functions in a row, then a convolution and a linear layer, or a linear layer alone."""

    def __init__(self, seed: int, functions: tuple[Callable[[Tensor], Tensor], ...], shape: tuple[int, int, int]):
        super().__init__()
        self.functions = functions
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with torch.no_grad():
                entries = self.copied(torch.zeros(1, *shape))
            channels = entries.shape[1]
            self.mix = (
                nn.Identity(),
                nn.Conv2d(channels, 2, 2, padding=1),
                nn.Conv2d(channels, channels, 3, 2, groups=channels),
            )[seed % 3]
            self.head = nn.Linear(self.mix(entries).numel(), 3)
            if seed % 2:
                # copies with alike coefficients, as of grey images in an RGB network: where the bound is exact
                self.head.weight.data.copy_(self.head.weight[:, :1].expand_as(self.head.weight))
        self.eval()

    def copied(self, images: Tensor) -> Tensor:
        for function in self.functions:
            images = function(images)
        return images

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(self.copied(images)).flatten(1))


def chain(seed: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """One or two copying functions drawn at random, with others between them; the first goes through all of them."""
    draw, functions = Random(seed), list(COPYING.values())
    first = functions[seed % len(functions)]
    more = [draw.choice(functions)] if draw.random() < 0.5 else []
    return tuple(step for function in (first, *more) for step in (draw.choice(MOVING), function))


def least_logits(network: nn.Module, images: Tensor, threat: ThreatModel) -> Tensor:
    """(N, K) exact least values of the logits of a linear network over the region."""
    slopes = torch.autograd.functional.jacobian(network, images[:1])[0, :, 0].flatten(1)
    clean = images.flatten(1)[:, None].expand(-1, *slopes.shape)
    step = lowest(slopes.expand_as(clean), clean, threat)
    least: Tensor = network(images) + (slopes * step).sum(dim=2)
    return least.detach()
