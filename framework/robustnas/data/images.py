"""Labelled images of one split, in memory or read when asked for, and the order in which they are visited.

    InMemory     a tensor, uint8 (a pixel 255 is 1.0) or float in [0, 1]; may live on the device
    Streamed     a sequence that reads one image at a time, when it is asked for
    First        the first so many of others
    Chosen       those at given places of others
    on_device    the same images, handed out on a device

All keep `robustnas.contracts.Images`: `take` gives float32 in [0, 1].  Orders are lists of index tensors,
drawn from a generator, so that an epoch is a function of its seed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from robustnas.contracts import Images
from robustnas.data.pixels import sent, unit
from robustnas.errors import DataError


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    """An array of NumPy as a tensor, which shares its memory where it can; a tensor as it is.

    Raises:
        DataError: it is neither, or holds what torch has no type for.
    """
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray):
        raise DataError(f"found {type(values).__name__}; a tensor, or an array of NumPy, would do")
    if values.dtype.kind not in "buif" or values.dtype.itemsize > 8:
        raise DataError(
            f"found an array of {values.dtype}; one of numbers would do: pixels uint8 or float, labels int64"
        )
    # torch takes no foreign byte order and no negative strides, and warns of memory it may not write to
    return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))


def _label_tensor(labels: Tensor | np.ndarray) -> Tensor:
    """Labels as a tensor; whole numbers of NumPy, of whatever size, as int64.

    Raises:
        DataError: as `_tensor`.
    """
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "ui":
        labels = labels.astype(np.int64)
    return _tensor(labels)


def check_labels(labels: Tensor, count: int) -> None:
    """Whether labels are (N,) int64, one for each of `count` images.

    Raises:
        DataError: they are not.
    """
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise DataError(f"labels must be int64 of shape (N,), found {labels.dtype} of {tuple(labels.shape)}")
    if len(labels) != count:
        raise DataError(f"{count} images with {len(labels)} labels: every image needs one label")


@frozen(eq=False)
class InMemory:
    """All images in one tensor.

    Args:
        pixels: (N, C, H, W), uint8 or float in [0, 1], on any device; or such an array of NumPy.
        labels: (N,) int64, on the CPU; or an array of NumPy, of any whole numbers.

    Raises:
        DataError: shapes or counts do not fit, or a float pixel lies outside [0, 1].
    """

    pixels: Tensor = field(converter=_tensor)
    labels: Tensor = field(converter=_label_tensor)

    def __attrs_post_init__(self) -> None:
        pixels = self.pixels
        if pixels.dim() != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
            raise DataError(
                f"pixels must be uint8 or float of shape (N, C, H, W), found {pixels.dtype} of {tuple(pixels.shape)}"
                f"{'' if pixels.dim() == 4 else '; grey images have one channel, (N, 1, H, W)'}"
            )
        check_labels(self.labels, len(pixels))
        # written so that a NaN fails it
        if pixels.is_floating_point() and not bool(((pixels >= 0) & (pixels <= 1)).all()):
            raise DataError("float pixels must lie in [0, 1]: divide by the largest value of a pixel")

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 -> (n, C, H, W) float32 in [0, 1], where the pixels live."""
        # index_select copies whole images: 16 times as fast on the CPU as pixels[indices] for 32x32x3
        return unit(self.pixels.index_select(0, sent(indices, self.pixels.device)))


class ImageSequence(Protocol):
    """Images that are read one at a time."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Tensor:
        """(C, H, W), uint8 or float in [0, 1]; the same for the same index, and safe to call from threads."""

    # It may have `state(indices) -> str`, which tells these images from changed ones without reading them: what was
    # found good is then not read again at the next run.


@frozen(eq=False)
class Streamed:
    """Images read when asked for: memory does not grow with their number.

    Args:
        source: reads one image; all have one shape.
        labels: (N,) int64, on the CPU.
        workers: threads in which `take` decodes, and processes in which `robustnas.data.prefetch` reads ahead (then
            the source can be pickled); 0 reads in the caller's own.
    """

    source: ImageSequence
    labels: Tensor
    workers: int = field(default=0)

    def __attrs_post_init__(self) -> None:
        check_labels(self.labels, len(self.source))

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (n,) int64 -> (n, C, H, W) float32 in [0, 1], on the CPU.

        Raises:
            DataError: an image cannot be read, or its shape differs from the others'.
        """
        wanted = indices.tolist()
        if self.workers > 0 and len(wanted) > 1:
            with ThreadPoolExecutor(self.workers) as pool:
                return unit(self._batch(wanted, list(pool.map(self.source.__getitem__, wanted))))
        return unit(self.read(indices))

    def read(self, indices: Tensor) -> Tensor:
        """The same as the source has it, uint8 or float in [0, 1], read in the caller's thread.

        Raises:
            DataError: an image cannot be read, or its shape differs from the others'.
        """
        wanted = indices.tolist()
        return self._batch(wanted, [self.source[index] for index in wanted])

    def _batch(self, wanted: list[int], found: list[Tensor]) -> Tensor:
        """One tensor of the images found at the indices wanted."""
        if not found:
            first = self.source[0]
            return first.new_empty((0, *first.shape))
        for index, image in zip(wanted, found, strict=True):
            if image.shape != found[0].shape:
                raise DataError(
                    f"image {index} has shape {tuple(image.shape)} where image {wanted[0]} has "
                    f"{tuple(found[0].shape)}: all images of a dataset have one shape"
                )
        # a stack of bytes and floats would be floats of two scales
        mixed = any(image.dtype != found[0].dtype for image in found)
        return torch.stack([unit(image) for image in found] if mixed else found)


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
        return sent(self.images.take(indices), self.device)


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


@frozen(eq=False)
class Chosen:
    """The images of a split at some of its indices, in the order of these.

    Args:
        indices: (n,) int64 on the CPU, into `images`.

    Raises:
        DataError: the indices are of another type, or there are no such images.
    """

    images: Images
    indices: Tensor

    def __attrs_post_init__(self) -> None:
        count = len(self.images.labels)
        if self.indices.dtype != torch.int64 or self.indices.dim() != 1:
            raise DataError(
                f"indices must be int64 of shape (n,), found {self.indices.dtype} of {tuple(self.indices.shape)}"
            )
        outside = self.indices[(self.indices < 0) | (self.indices >= count)]
        if len(outside) > 0:
            raise DataError(f"image {int(outside[0])} is asked for and there are {count}, counted from 0")

    @property
    def labels(self) -> Tensor:
        """(n,) int64, on the CPU."""
        return self.images.labels[self.indices]

    def take(self, indices: Tensor) -> Tensor:
        """The images at `indices` (m,) int64 of the chosen -> (m, C, H, W) float32 in [0, 1]."""
        return self.images.take(self.places(indices))

    def places(self, indices: Tensor) -> Tensor:
        """Indices (m,) of the chosen as indices (m,) of the split."""
        return self.indices[indices.to(self.indices.device)]


def on_device(images: Images, device: torch.device | str) -> Images:
    """The same images, handed out on `device`.

    Images in memory are moved once, as they are stored: uint8 takes a quarter of the room of float32.
    """
    device = torch.device(device)
    if isinstance(images, InMemory):
        return InMemory(images.pixels.to(device), images.labels)
    return Moved(images, device)


def stored(images: Images, indices: Tensor) -> Tensor:
    """The images at `indices` (n,) int64 as they are read, (n, C, H, W), uint8 or float in [0, 1].

    On the way to a device or from another process, bytes take a quarter of the room.
    """
    if isinstance(images, First):
        return stored(images.images, indices)
    if isinstance(images, Chosen):
        return stored(images.images, images.places(indices))
    return images.read(indices) if isinstance(images, Streamed) else images.take(indices)


def state(images: Images, indices: Tensor) -> str | None:
    """What tells the images at `indices` (n,) int64 from changed ones without reading them; None where nothing does."""
    of_source = getattr(images.source, "state", None) if isinstance(images, Streamed) else None
    return None if of_source is None else str(of_source(indices))


def readers(images: Images) -> int:
    """How many processes their dataset wants to read images ahead; 0 where there is nothing to read."""
    if isinstance(images, First | Chosen):
        return readers(images.images)
    return images.workers if isinstance(images, Streamed) else 0


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


def batches(count: int, batch: int) -> int:
    """How many batches `shuffled` makes of `count` indices."""
    left_alone = count > batch > 1 and count % batch == 1
    return -(-count // batch) - left_alone


def in_order(count: int, batch: int) -> list[Tensor]:
    """The indices 0 to count - 1 in ascending order, in batches of `batch`; the last may be smaller."""
    return [torch.arange(first, min(first + batch, count)) for first in range(0, count, batch)]
