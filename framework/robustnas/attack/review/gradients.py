"""Warns of gradients that lead nowhere: they are zero, weaker than noise, or never lead down to accuracy 0.

Every image that is tried here comes from gradients: a grey image, or one of another class, would break any network at a
radius that allows it, whether its gradients are masked or not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.attack.network import gradient_in_images
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import step
from robustnas.attack.review.evidence import CHANCE, FEWEST, by_chance, counts
from robustnas.attack.review.flag import Flag
from robustnas.runtime import interrupt
from robustnas.threat import ThreatModel, largest_radius

Network = Callable[[Tensor], Tensor]
"""(n, C, H, W) pixels -> (n, K) finite logits."""

FLAT = 0.05
"""From this share of images without a usable gradient on, a warning is due.

Cross-entropy underflows in float32 where the margin exceeds about 100 logits: a sound network may be so sure of an
image or two, and attacks with another loss still move these.
"""

STANDING = 0.03
"""The share of images that may survive where every image is allowed: of 64 images 1, because `counts` asks for 2."""

STEPS, STARTS = 50, 3
"""Each run takes steps of a tenth of the largest radius, which cross the box five times; one run starts at the image,
two start beside it."""

BESIDE = 0.1
"""Uniform noise of the random starts, in linf: enough to leave a flat place, too little to fool by itself."""

RADII = tuple(number / 255 for number in (2, 4, 8, 16, 32, 64, 128, 255))
"""Where one step is compared with noise, in linf; in l2 and l1 the same share of the largest radius."""


def gradient(network: Network, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, str]:
    """Compute logits, the gradient of each image's cross-entropy in the image, and the reason where there is none.

    A missing gradient is returned as 0.

    Args:
        network: (n, C, H, W) pixels -> (n, K) finite logits.
        images: (n, C, H, W).
        labels: (n,) int64.
    """
    loss = partial(F.cross_entropy, target=labels, reduction="sum")
    logits, found, reason = gradient_in_images(network, images, loss)
    return logits, torch.zeros_like(images) if found is None else found, reason


def _usable(found: Tensor) -> Tensor:
    """Find gradients, (n,) bool, that are finite everywhere and somewhere at least the smallest normal float."""
    flat = found.flatten(1)
    return flat.isfinite().all(dim=1) & (flat.abs().amax(dim=1) >= torch.finfo(found.dtype).tiny)


def zero(network: Network, images: Tensor, labels: Tensor) -> list[Flag]:
    """Warn of images at which the gradient is exactly 0, below the smallest normal float, or not finite."""
    _, found, reason = gradient(network, images, labels)
    wrong = int((~_usable(found)).sum())
    if not counts(wrong, len(images), FLAT) and wrong < len(images):
        return []
    text = (
        f"the gradient of the cross-entropy is 0 or not finite at {wrong} of {len(images)} images"
        f"{f' ({reason})' if reason else ''}: attacks with gradients have nothing to follow there; "
        "attacks without (square, boundary, hopskipjump), or gradients of a smooth stand-in, would do"
    )
    return [Flag("zero-gradients", text)]


def _moved(images: Tensor, along: Tensor, length: float, norm: str) -> Tensor:
    """Take one step of `length` in `norm`, the steepest by this gradient, clamped to the box: (n, C, H, W) all.

    The gradient is scaled by its largest entry first: a network that is very sure has gradients whose squares underflow
    in float32.
    """
    along = torch.nan_to_num(along, nan=0.0, posinf=0.0, neginf=0.0)
    shape = (-1, *[1] * (along.dim() - 1))
    largest = along.flatten(1).abs().amax(dim=1)
    along = along / torch.where(largest > 0, largest, 1.0).view(shape)
    return step(images, along, length, norm).clamp(0.0, 1.0)


def standing_anywhere(network: Network, images: Tensor, labels: Tensor, norm: str, draws: PerImageRandom) -> Tensor:
    """Find which images survive gradient ascent on the cross-entropy where every image is allowed: (n,) bool.

    At that radius the ball holds the box, so projecting is clamping.  It costs at most STARTS (STEPS + 1) evaluations
    an image, because images that fall leave.
    """
    length = largest_radius(norm, images[0].numel()) / 10
    standing = torch.ones(len(images), dtype=torch.bool, device=images.device)
    for start in range(STARTS):
        left = standing.nonzero().squeeze(1)
        at = images[left]
        if start > 0:
            beside = 2 * draws.at(left).of("beside", start).uniform(*images.shape[1:]).to(images) - 1
            at = (at + BESIDE * beside).clamp(0.0, 1.0)
        for done in range(STEPS + 1):
            if len(left) == 0:
                return standing
            interrupt.check()
            logits, along, _ = gradient(network, at, labels[left])
            holds = logits.argmax(dim=1) == labels[left]
            standing[left[~holds]] = False
            left, at = left[holds], at[holds]
            if done < STEPS:
                at = _moved(at, along[holds], length, norm)
    return standing


def reaches_zero(network: Network, images: Tensor, labels: Tensor, norm: str, draws: PerImageRandom) -> list[Flag]:
    """Warn where gradient ascent does not break all but a few images although every image is allowed."""
    standing = int(standing_anywhere(network, images, labels, norm, draws).sum())
    if not counts(standing, len(images), STANDING) and standing < len(images):
        return []
    threat = ThreatModel(norm, largest_radius(norm, images[0].numel()))
    text = (
        f"{standing} of {len(images)} images survive {STARTS} runs of {STEPS} gradient steps at {threat}, which allows "
        "every image: gradients do not lead to what fools this network, at smaller radii neither, or it has one answer "
        "for all; attacks without gradients, or made for this network, would do"
    )
    return [Flag("does-not-reach-zero", text)]


def _noise(images: Tensor, radius: float, norm: str, draws: PerImageRandom) -> Tensor:
    """Add noise of this size to images, clamped to the box: (n, C, H, W).

    In linf the noise is uniform in the ball; in l2 and l1 its direction is scaled to the length of a step.
    """
    shape = tuple(images.shape[1:])
    noise = 2 * draws.uniform(*shape).to(images) - 1
    if norm != "linf":
        size = noise.flatten(1).norm(p=2.0 if norm == "l2" else 1.0, dim=1)
        noise = noise / size.clamp_min(torch.finfo(noise.dtype).tiny).view(-1, *[1] * len(shape))
    return (images + radius * noise).clamp(0.0, 1.0)


def against_noise(network: Network, images: Tensor, labels: Tensor, norm: str, draws: PerImageRandom) -> list[Flag]:
    """Warn where one step along the gradient breaks fewer images than noise of its size, by more than chance.

    They are compared at the smallest of `RADII` at which either breaks enough images to tell a difference from chance:
    at longer steps the gradient means nothing at their end.  It costs 2 evaluations an image and radius, and one more.
    """
    _, along, _ = gradient(network, images, labels)
    largest = largest_radius(norm, images[0].numel())
    for share in RADII:
        interrupt.check()
        radius = share * largest
        with torch.no_grad():
            by_step = network(_moved(images, along, radius, norm)).argmax(dim=1) != labels
            by_noise = network(_noise(images, radius, norm, draws.of("noise"))).argmax(dim=1) != labels
        if max(int(by_step.sum()), int(by_noise.sum())) < FEWEST:
            continue
        chance = by_chance(int((by_noise & ~by_step).sum()), int((by_step & ~by_noise).sum()))
        if chance >= CHANCE:
            return []
        text = (
            f"at {ThreatModel(norm, radius)} one step along the gradient breaks {int(by_step.sum())} of {len(images)} "
            f"images and noise of that size {int(by_noise.sum())} (by chance: {chance:.1g}): the gradients do not "
            "point to what fools this network; attacks without gradients would do"
        )
        return [Flag("noise-beats-fgsm", text)]
    return []
