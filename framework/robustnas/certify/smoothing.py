"""Randomised smoothing: certificates of the network that answers as the vote of noisy copies of an image does.

The smoothed classifier answers the class that the network gives most often under noise N(0, sigma^2) on every pixel
value.  If that class has probability p > 1/2, no perturbation shorter than sigma * Phi^-1(p) in l_2 changes the answer.
p is known from samples only, so a radius holds with confidence 1 - alpha for each image.

    certify    class, and a radius around the image within which the smoothed classifier keeps to it
    predict    class alone, for fewer samples

Source: Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918: theorem 1, and figure 1 for CERTIFY and PREDICT.

What is certified is the smoothed classifier, never the network itself, and not against pixels that stay in [0, 1] but
against all.  The noise is not clipped to [0, 1]: the theorem is about noise whose distribution moves with the image,
and clipped noise does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.contracts import Images
from robustnas.data.images import InMemory, on_device
from robustnas.errors import DataError, DeviceError, InputError, RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import interrupt
from robustnas.runtime.precision import full_precision
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent

ABSTAINS = -1
"""The prediction of an image whose class the samples leave open."""

ROUNDING = 1e-5
"""Pixel units by which rounding may have carried a clean pixel out of [0, 1]."""

MOST = 2**31
"""Samples of one image, at most: an image's index and a sample's are one 64-bit number."""


@frozen(eq=False)
class Smoothed:
    """What the samples say of the smoothed classifier; tensors are on the CPU, N images in the order given.

    Args:
        labels: (N,) int64.
        prediction: (N,) int64, class of the smoothed classifier; -1 where it abstains.
        radius: (N,) float32, certified l_2 radius in pixel units around the image, of the class predicted whether it
            is the right one or not; 0 where it abstains.
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
        """(N,) bool, the smoothed classifier answers, and rightly."""
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
    """CERTIFY of Cohen et al. 2019 for every image.

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
        InputError: a number makes no sense; images, labels or indices are not as above.
        DeviceError: the network lives elsewhere.
        RunError: logits that are not finite.
    """
    _check(sigma, alpha, batch, samples=samples, selection=selection)
    if alpha ** (1 / samples) <= 0.5:
        raise InputError(
            f"{samples} samples can certify no image at alpha {alpha:g}, not even if all are of one class; "
            f"at least {math.floor(math.log2(1 / alpha)) + 1} would do, and hundreds or more for radii of use"
        )
    source, numbers = _images(images, labels, indices, device)
    labels, vote = labels.cpu(), _vote(network, sigma, batch, device, seed)

    def chosen(clean: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Classes and how many of the samples were of them, (n,) int64 both."""
        classes = vote.counts(clean, own, "select", selection).argmax(dim=1)
        counts = vote.counts(clean, own, "certify", samples)
        return classes, counts.gather(1, classes[:, None]).squeeze(1)

    def right(at: Tensor, found: tuple[Tensor, Tensor]) -> Tensor:
        sure = torch.from_numpy(lower_bound(found[1].numpy(), samples, alpha) > 0.5)
        return sure & (found[0] == labels[at])

    classes, count = _over_images(source, numbers, max(1, batch // selection), vote, chosen, right, report, processes)
    probability = lower_bound(count.numpy(), samples, alpha)
    return Smoothed(
        labels=labels,
        prediction=torch.where(torch.from_numpy(probability > 0.5), classes, ABSTAINS),
        radius=torch.from_numpy(_radius(probability, sigma)),
        count=count,
        samples=samples,
        evaluations=len(labels) * (selection + samples),
    )


def predict(
    network: nn.Module,
    images: Images | Tensor,
    *,
    sigma: float,
    samples: int,
    alpha: float,
    batch: int,
    device: torch.device,
    seed: int,
    indices: Tensor | None = None,
    report: Report = silent,
    processes: Processes = ALONE,
) -> Tensor:
    """PREDICT of Cohen et al. 2019: the class of the smoothed classifier, (N,) int64 on the CPU; -1 where it abstains.

    It answers the class of most samples if a fair coin would give so uneven a split of the two commonest classes with
    probability alpha at most; so an answer is not the smoothed classifier's with probability alpha at most.

    All images are predicted; arguments and errors are those of `certify`.
    """
    _check(sigma, alpha, batch, samples=samples)
    source, numbers = _images(images, None, indices, device)
    vote = _vote(network, sigma, batch, device, seed)

    def answered(clean: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        counts = vote.counts(clean, own, "predict", samples)
        first = counts.argmax(dim=1)
        most = counts.gather(1, first[:, None]).squeeze(1)
        second = counts.scatter(1, first[:, None], -1).amax(dim=1).clamp_min(0)
        clear = torch.from_numpy(_coin(most.numpy(), second.numpy()) <= alpha)
        return torch.where(clear, first, ABSTAINS), most

    return _over_images(source, numbers, max(1, batch // samples), vote, answered, None, report, processes)[0]


def lower_bound(count: np.ndarray, samples: int, alpha: float) -> np.ndarray:
    """The least success probability that so many successes leave possible.

    One-sided bound of Clopper and Pearson 1934: with probability 1 - alpha at least, the success probability is no
    smaller, whatever it is.  alpha^(1/n) if all n samples are successes, 0 if none is.

    Args:
        count: (N,) integers, successes.

    Returns:
        (N,) float64.
    """
    from scipy.special import betaincinv  # here: most of what imports this module never certifies

    least: np.ndarray = betaincinv(np.maximum(count, 1), samples - np.maximum(count, 1) + 1.0, alpha)
    return np.where(count > 0, least, 0.0)


def _coin(most: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) float64, the p-value of a fair coin that shows one side `most` times and the other `second` times.

    Two-sided: twice P(X >= most), which is a regularised incomplete beta function of 1/2.
    """
    from scipy.special import betainc

    p_value: np.ndarray = np.minimum(1.0, 2 * betainc(most, second + 1.0, 0.5))
    return p_value


def _radius(probability: np.ndarray, sigma: float) -> np.ndarray:
    """sigma * Phi^-1(p) as float32, never rounded up; 0 where p is at most 1/2."""
    from scipy.special import ndtri

    exact = np.where(probability > 0.5, sigma * ndtri(np.maximum(probability, 0.5)), 0.0)
    rounded = exact.astype(np.float32)
    least: np.ndarray = np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)
    return least


@frozen(eq=False)
class _Vote:
    """The network under noise."""

    network: nn.Module
    sigma: float
    batch: int
    device: torch.device
    seed: int

    def counts(self, clean: Tensor, numbers: Tensor, purpose: str, samples: int) -> Tensor:
        """How many noisy copies of each image are of each class.

        Args:
            clean: (n, C, H, W), on the device.
            numbers: (n,) by which they draw, and by which messages name them.
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


def _vote(network: nn.Module, sigma: float, batch: int, device: torch.device, seed: int) -> _Vote:
    """The network under noise, on the device where it lives.

    Raises:
        DeviceError: it lives elsewhere.
    """
    home = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), device)
    if home.type != device.type or device.index not in (None, home.index):
        raise DeviceError(f"the network is on {home} and the images are wanted on {device}; move the network first")
    return _Vote(network, sigma, batch, home, seed)


def _over_images(
    images: Images,
    numbers: Tensor,
    together: int,
    vote: _Vote,
    one: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    right: Callable[[Tensor, tuple[Tensor, Tensor]], Tensor] | None,
    report: Report,
    processes: Processes,
) -> tuple[Tensor, Tensor]:
    """Two int64 figures an image, (N,) both, of the first N images, by all processes together.

    Args:
        numbers: (N,) by which they draw.
        together: images at once.
        one: clean images (n, C, H, W) and their numbers (n,) -> their two figures, (n,) each.
        right: places and figures -> (n,) bool, certified right, for the report.
    """
    count = len(numbers)

    def own() -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
        found: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []
        done = standing = 0
        share = torch.arange(count)[processes.share(count)]
        with (
            read_only(vote.network),
            full_precision(),
            torch.no_grad(),
            torch.autocast(vote.device.type, enabled=False),
        ):
            # nothing splits into one part of nothing
            for at in share.split(together) if len(share) else ():
                found.append((at, one(_take(images, at, numbers[at]), numbers[at])))
                done += len(at)
                figures = {}
                if right is not None:
                    standing += int(right(*found[-1]).sum())
                    figures["certified"] = standing / done
                report(min(done * processes.size, count), count, "image", **figures)
        return found

    first, second = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    for some in processes.run_together(own):
        for at, figures in some:
            first[at], second[at] = figures
    return first, second


def _take(images: Images, at: Tensor, numbers: Tensor) -> Tensor:
    """Clean images, (n, C, H, W) float32.

    Raises:
        DataError: a pixel lies outside [0, 1], or is not a number; the message names the image by its number.
    """
    clean = images.take(at).float()
    outside = ~((clean >= -ROUNDING) & (clean <= 1 + ROUNDING)).flatten(1).all(dim=1)
    if bool(outside.any()):
        raise DataError(
            f"image {int(numbers[outside.cpu()][0])} has pixels outside [0, 1]: divide by the largest value of a "
            "pixel; normalisation belongs into the network"
        )
    return clean.clamp(0.0, 1.0)


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


def _images(
    images: Images | Tensor, labels: Tensor | None, indices: Tensor | None, device: torch.device
) -> tuple[Images, Tensor]:
    """The images on the device, and the numbers by which they draw, (N,).

    Raises:
        DataError: images, labels or indices are not what `certify` says.
    """
    if isinstance(images, Tensor):
        images = InMemory(images.detach(), torch.zeros(len(images), dtype=torch.int64))
    labels = images.labels if labels is None else labels
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise DataError(f"labels must be int64 of shape (N,), found {labels.dtype} of {tuple(labels.shape)}")
    if not 0 < len(labels) <= len(images.labels):
        raise DataError(f"{len(labels)} labels for {len(images.labels)} images: one for each of the first would do")
    if indices is None:
        return on_device(images, device), torch.arange(len(labels))
    if indices.dtype != torch.int64 or indices.shape != labels.shape or not bool((indices >= 0).all()):
        raise DataError(
            f"indices must be int64 of shape ({len(labels)},), none below 0; "
            f"found {indices.dtype} of {tuple(indices.shape)}"
        )
    return on_device(images, device), indices.cpu()
