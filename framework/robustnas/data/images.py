"""Labelled images of one split, in memory or read when they are asked for.

    InMemory     a tensor, uint8 (a pixel 255 is 1.0) or float in [0, 1]; may live on the device
    Streamed     a sequence that reads one image at a time, when it is asked for
    on_device    the same images, handed out on a device

All keep `robustnas.contracts.Images`: `take` gives float32 in [0, 1].
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
    """An array of NumPy as a tensor, which shares its memory where it can; a tensor as it is."""
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
    """Labels as a tensor; whole numbers of NumPy, of whatever size, as int64."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "ui":
        labels = labels.astype(np.int64)
    return _tensor(labels)


def check_labels(labels: Tensor, count: int) -> None:
    """Refuse labels that are not (N,) int64, one for each of `count` images.

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
        if self.workers == 0 or len(indices) < 2:
            return unit(self.read(indices))
        wanted = indices.tolist()
        with ThreadPoolExecutor(self.workers) as pool:
            return unit(self._stacked(wanted, list(pool.map(self.source.__getitem__, wanted))))

    def read(self, indices: Tensor) -> Tensor:
        """The same as the source has it, uint8 or float in [0, 1], read in the caller's thread.

        Raises:
            DataError: an image cannot be read, or its shape differs from the others'.
        """
        wanted = indices.tolist()
        return self._stacked(wanted, [self.source[index] for index in wanted])

    def _stacked(self, indices: list[int], images: list[Tensor]) -> Tensor:
        """One tensor of the images that were read at the indices."""
        if not images:
            first = self.source[0]
            return first.new_empty((0, *first.shape))
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"image {index} has shape {tuple(image.shape)} where image {indices[0]} has "
                    f"{tuple(images[0].shape)}: all images of a dataset have one shape"
                )
        # a stack of bytes and floats would be floats of two scales
        mixed = any(image.dtype != images[0].dtype for image in images)
        return torch.stack([unit(image) for image in images] if mixed else images)


@frozen(eq=False)
class _Moved:
    """Images that are moved to a device as they are taken."""

    images: Images
    device: torch.device

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def take(self, indices: Tensor) -> Tensor:
        return sent(self.images.take(indices), self.device)


def on_device(images: Images, device: torch.device | str) -> Images:
    """The same images, handed out on `device`.

    Images in memory are moved once, as they are stored: uint8 takes a quarter of the room of float32.
    """
    device = torch.device(device)
    if isinstance(images, InMemory):
        return InMemory(images.pixels.to(device), images.labels)
    return _Moved(images, device)
