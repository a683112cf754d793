"""Randomised smoothing: certificates of the network that answers as the vote of noisy copies of an image does.

The smoothed classifier answers the class that the network gives most often under noise N(0, sigma^2) on every pixel
value.  If that class has probability p > 1/2, no perturbation shorter than sigma * Phi^-1(p) in l_2 changes the answer.
p is known from samples only, so a radius holds with confidence 1 - alpha for each image.

Source: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918: theorem 1, and figure 1 for CERTIFY.

The certificate is the smoothed classifier's, never the network's own, and holds for perturbed images outside [0, 1]
too.  The noise is not clipped to [0, 1]: the theorem needs noise whose distribution moves with the image, and clipped
noise does not.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.attack.network import as_images, device_of, own_batches, take
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.certify.settings import too_few
from robustnas.contracts import Images
from robustnas.data.images import on_device
from robustnas.errors import DataError, InputError, RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import interrupt
from robustnas.runtime.precision import full_precision
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent

ABSTAINS = -1
"""The prediction of an image whose class the samples leave open."""

MOST = 2**31
"""One image has at most so many samples: its index and a sample's number are packed into one 64-bit integer."""


@frozen(eq=False)
class Smoothed:
    """What the samples say of the smoothed classifier; tensors are on the CPU, N images in the order given.

    Args:
        labels: (N,) int64.
        prediction: (N,) int64, class of the smoothed classifier; -1 where it abstains.
        radius: (N,) float32, the l_2 radius in pixel units within which the prediction, right or wrong, is certified
            not to change; 0 where it abstains.
        count: (N,) int64, how many of `samples` were of the class that the selection chose.
        samples: noisy copies by which a class's probability was bounded.
        evaluations: noisy images that went through the network.
    """

    labels: Tensor
    prediction: Tensor
    radius: Tensor
    count: Tensor
    samples: int
    evaluations: int

    @property
    def right(self) -> Tensor:
        """(N,) bool, whether the smoothed classifier answers, and rightly."""
        return self.prediction == self.labels

    @property
    def certified(self) -> Tensor:
        """(N,) float32, the radius within which it is certainly right: 0 where it abstains or is wrong."""
        return torch.where(self.right, self.radius, 0.0)


def certify(
    network: nn.Module,
    images: Images | Tensor,
    labels: Tensor,
    *,
    sigma: float,
    samples: int,
    selection: int,
    alpha: float,
    batch: int,
    device: torch.device,
    seed: int,
    indices: Tensor | None = None,
    report: Report = silent,
    processes: Processes = ALONE,
) -> Smoothed:
    """Certify every image: CERTIFY of Cohen et al. 2019.

    `selection` noisy copies choose a class, `samples` others bound its probability from below (Clopper and Pearson
    1934); the bound p gives the radius sigma * Phi^-1(p) if it is above 1/2, else the smoothed classifier abstains.

    Args:
        network: (N, C, H, W) pixels -> (N, K) logits; looked at in eval mode and left as it was.
        images: at least N of them; the first N are used.  A tensor is (N, C, H, W), uint8 or float in [0, 1].
        labels: (N,) int64.
        sigma: standard deviation of the noise, in pixel units.
        alpha: probability, for each image, with which its certificate may be wrong.
        batch: noisy images at once; the memory needed grows with it alone.
        device: where the network lives.
        seed: of the noise.
        indices: (N,) int64, numbers by which the images draw their noise, such as their places in the dataset that
            these are a part of; None counts from 0.  With the seed they fix the noise: batch, order and processes do
            not matter to it.
        report: told after every few images, with the share that is `certified` to be right so far.
        processes: the processes that share the images; each returns all.

    Raises:
        InputError: a number makes no sense.
        DataError: images, labels or indices are not as above.
        DeviceError: the network lives elsewhere.
        RunError: logits that are not finite.
    """
    _check(sigma, alpha, batch, samples=samples, selection=selection)
    if why := too_few(samples, alpha):
        raise InputError(f"{samples} samples {why}")
    device = device_of(network, device)
    source = on_device(as_images(as_images(images, None), labels), device)
    numbers, labels = _numbers(indices, len(labels)), labels.cpu()
    vote = _Vote(network, sigma, batch, device, seed)
    classes, count = torch.zeros_like(labels), torch.zeros_like(labels)
    together = max(1, min(batch // selection, math.ceil(len(labels) / processes.size)))

    def own() -> list[tuple[Tensor, Tensor, Tensor]]:
        """For this process's images: their places, the chosen classes, and how many samples were of these classes."""
        parts, done, right = [], 0, 0
        with read_only(network), full_precision(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            for at in own_batches(len(labels), together, processes):
                clean, names = take(source, at, numbers), numbers[at]
                chosen = vote.counts(clean, names, "select", selection).argmax(dim=1)
                counts = vote.counts(clean, names, "certify", samples).gather(1, chosen[:, None]).squeeze(1)
                parts.append((at, chosen, counts))
                sure = torch.from_numpy(lower_bound(counts.numpy(), samples, alpha) > 0.5)
                done, right = done + len(at), right + int((sure & (chosen == labels[at])).sum())
                report(min(done * processes.size, len(labels)), len(labels), "image", certified=right / done)
        return parts

    for parts in processes.run_together(own):
        for at, chosen, counts in parts:
            classes[at], count[at] = chosen, counts
    probability = lower_bound(count.numpy(), samples, alpha)
    return Smoothed(
        labels=labels,
        prediction=torch.where(torch.from_numpy(probability > 0.5), classes, ABSTAINS),
        radius=torch.from_numpy(_radius(probability, sigma)),
        count=count,
        samples=samples,
        evaluations=len(labels) * (selection + samples),
    )


def lower_bound(count: np.ndarray, samples: int, alpha: float) -> np.ndarray:
    """Bound a success probability from below, given how many of `samples` trials succeeded.

    The one-sided bound of Clopper and Pearson 1934 is wrong with probability alpha at most, whatever the success
    probability.  It is alpha^(1/n) if all n samples are successes, 0 if none is.

    Args:
        count: (N,) integers, successes.

    Returns:
        (N,) float64.
    """
    from scipy.special import betaincinv  # here: most of what imports this module never certifies

    least: np.ndarray = betaincinv(np.maximum(count, 1), samples - np.maximum(count, 1) + 1.0, alpha)
    return np.where(count > 0, least, 0.0)


def _radius(probability: np.ndarray, sigma: float) -> np.ndarray:
    """Compute sigma * Phi^-1(p) as float32, never rounded up; 0 where p is at most 1/2."""
    from scipy.special import ndtri

    exact = np.where(probability > 0.5, sigma * ndtri(np.maximum(probability, 0.5)), 0.0)
    rounded = exact.astype(np.float32)
    least: np.ndarray = np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)
    return least


@frozen(eq=False)
class _Vote:
    """Classifies noisy copies of images and counts the votes."""

    network: nn.Module
    sigma: float
    batch: int
    device: torch.device
    seed: int

    def counts(self, clean: Tensor, numbers: Tensor, purpose: str, samples: int) -> Tensor:
        """Count how many noisy copies of each image the network puts into each class.

        Args:
            clean: (n, C, H, W), on the device.
            numbers: (n,) the images' numbers, which seed their noise and name them in messages.
            purpose: samples of different purposes are independent.

        Returns:
            (n, K) int64, on the CPU.

        Raises:
            RunError: logits are not finite.
        """
        counts: Tensor | None = None
        for first in range(0, len(clean) * samples, self.batch):
            interrupt.check()
            pairs = torch.arange(first, min(first + self.batch, len(clean) * samples))
            image, sample = pairs // samples, pairs % samples
            # every noisy copy has a seed of its own: which of them share a batch does not matter
            draws = PerImageRandom.of_images(
                self.seed, f"smoothing {purpose}", numbers[image] * MOST + sample, self.device
            )
            noise = draws.normal(*clean.shape[1:])
            logits: Tensor = self.network(clean[image.to(self.device)].add_(noise, alpha=self.sigma))
            broken = ~logits.isfinite().all(dim=1).cpu()
            if bool(broken.any()):
                first_broken = int(numbers[image[broken][0]])
                raise RunError(
                    f"the network's logits for image {first_broken} under noise of sigma {self.sigma:g} "
                    "are not finite: it may overflow outside [0, 1], or its training has diverged"
                )
            if counts is None:
                counts = torch.zeros(len(clean), logits.shape[1], dtype=torch.int64)
            counts.index_put_((image, logits.argmax(dim=1).cpu()), torch.ones_like(image), accumulate=True)
        assert counts is not None
        return counts


def _check(sigma: float, alpha: float, batch: int, **counts: int) -> None:
    """Refuse numbers that make no sense.

    Raises:
        InputError: one of them.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise InputError(
            f"sigma {sigma} is no standard deviation of noise; a number above 0 would do, such as 0.25 (pixel units)"
        )
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} is not between 0 and 1; 0.001 is the paper's")
    if batch < 1:
        raise InputError(f"batch {batch} is not a number of images; use at least 1")
    for name, count in counts.items():
        if not 1 <= count < MOST:
            raise InputError(f"{name} {count} is not a number of noisy images; 1 to 2**31 - 1 would do")


def _numbers(indices: Tensor | None, count: int) -> Tensor:
    """The numbers by which the images draw, (N,).

    Raises:
        DataError: there are no images, or indices are not what `certify` says.
    """
    if count == 0:
        raise DataError("0 labels: there is nothing to certify")
    if indices is None:
        return torch.arange(count)
    if indices.dtype != torch.int64 or indices.shape != (count,) or not bool((indices >= 0).all()):
        raise DataError(
            f"indices must be int64 of shape ({count},), none below 0; found {indices.dtype} of {tuple(indices.shape)}"
        )
    return indices.cpu()
