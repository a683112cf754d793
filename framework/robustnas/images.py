"""Labelled images of one split, in memory or read when asked for, and the order in which they are visited.

    InMemory     a tensor, uint8 (a pixel 255 is 1.0) or float in [0, 1]; may live on the device
    Streamed     a sequence that reads one image at a time, decoded by threads
    First        the first so many of others
    on_device    the same images, handed out on a device

All keep `robustnas.contracts.Images`: `take` gives float32 in [0, 1].  Orders are lists of index tensors,
drawn from a generator, so that an epoch is a function of its seed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from attrs import field, frozen
from torch import Tensor

from robustnas.contracts import Images
from robustnas.errors import DataError


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise DataError(f"labels must be int64 of shape (N,), found {labels.dtype} of {tuple(labels.shape)}")
    if len(labels) != count:
        raise DataError(f"{count} images with {len(labels)} labels: every image needs one label")


def _unit(pixels: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1]: uint8 divided by 255, float as it is."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255.0)
    return pixels.float()


@frozen(eq=False)
class InMemory:
    """All images in one tensor.

    Args:
        pixels: (N, C, H, W), uint8 or float in [0, 1], on any device.
        labels: (N,) int64, on the CPU.

    Raises:
        DataError: shapes or counts do not fit, or a float pixel lies outside [0, 1].
    """

    pixels: Tensor
    labels: Tensor

    def __attrs_post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dim() != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
            raise DataError(
                f"pixels must be uint8 or float of shape (N, C, H, W), found {pixels.dtype} of {tuple(pixels.shape)}"
            )
        _check_labels(self.labels, len(pixels))
        # written so that a NaN fails it
        if pixels.is_floating_point() and not bool(((pixels >= 0) & (pixels <= 1)).all()):
            raise DataError("float pixels must lie in [0, 1]: divide by the largest value of a pixel")

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 -> (n, C, H, W) float32 in [0, 1], where the pixels live."""
        return _unit(self.pixels[indices.to(self.pixels.device)])


class ImageSequence(Protocol):
    """Images that are read one at a time."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Tensor:
        """(C, H, W), uint8 or float in [0, 1]; the same for the same index, and safe to call from threads."""


@frozen(eq=False)
class Streamed:
    """Images read when asked for: memory does not grow with their number.

    Args:
        source: reads one image; all have one shape.
        labels: (N,) int64, on the CPU.
        workers: threads that decode at once (image decoders release the interpreter lock); 0 decodes in the
            caller's own.
    """

    source: ImageSequence
    labels: Tensor
    workers: int = field(default=0)

    def __attrs_post_init__(self) -> None:
        _check_labels(self.labels, len(self.source))

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 -> (n, C, H, W) float32 in [0, 1], on the CPU.

        Raises:
            DataError: an image cannot be read, or its shape differs from the others'.
        """
        wanted = [int(index) for index in indices]
        if not wanted:
            first = _unit(self.source[0])
            return first.new_empty((0, *first.shape))
        if self.workers > 0:
            with ThreadPoolExecutor(self.workers) as pool:
                read = list(pool.map(self.source.__getitem__, wanted))
        else:
            read = [self.source[index] for index in wanted]
        for index, image in zip(wanted, read, strict=True):
            if image.shape != read[0].shape:
                raise DataError(
                    f"image {index} has shape {tuple(image.shape)} where image {wanted[0]} has "
                    f"{tuple(read[0].shape)}: all images of a dataset have one shape"
                )
        return torch.stack([_unit(image) for image in read])


@frozen(eq=False)
class Moved:
    """Images that are moved to a device as they are taken."""

    images: Images
    device: torch.device

    @property
    def labels(self) -> Tensor:
        """(N,) int64, on the CPU."""
        return self.images.labels

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 -> (n, C, H, W) float32 in [0, 1], on the device."""
        return self.images.take(indices).to(self.device)


@frozen(eq=False)
class First:
    """The first `count` images of a split."""

    images: Images
    count: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.count <= len(self.images.labels):
            raise DataError(f"{self.count} images are asked for and there are {len(self.images.labels)}")

    @property
    def labels(self) -> Tensor:
        """(count,) int64, on the CPU."""
        return self.images.labels[: self.count]

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 below `count` -> (n, C, H, W) float32 in [0, 1]."""
        return self.images.take(indices)


def on_device(images: Images, device: torch.device | str) -> Images:
    """The same images, handed out on `device`.

    Images in memory are moved once, as they are stored: uint8 takes a quarter of the room of float32.
    """
    device = torch.device(device)
    if isinstance(images, InMemory):
        return InMemory(images.pixels.to(device), images.labels)
    return Moved(images, device)


def halves(count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` indices in two random parts: the first holds `share` of them, to the nearest image.

    Both (n,) int64 on the CPU, ascending; disjoint, together all, neither empty.

    Raises:
        DataError: fewer than two images.
    """
    if count < 2:
        raise DataError(f"{count} training images cannot be halved: a search needs at least 2")
    first = min(max(round(count * share), 1), count - 1)
    order = torch.randperm(count, generator=generator, device=generator.device).cpu()
    return order[:first].sort().values, order[first:].sort().values


def shuffled(indices: Tensor, batch: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch: every one of `indices` (n,) once, in random order, in batches of `batch`.

    A last batch of one image joins the batch before it: batch norm cannot train on a single image.
    """
    order = torch.randperm(len(indices), generator=generator, device=generator.device).to(indices.device)
    indices = indices[order]
    batches = [indices[first : first + batch] for first in range(0, len(indices), batch)]
    if batch > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def in_order(count: int, batch: int) -> list[Tensor]:
    """The indices 0 to count - 1 in ascending order, in batches of `batch`; the last may be smaller."""
    return [torch.arange(first, min(first + batch, count)) for first in range(0, count, batch)]
