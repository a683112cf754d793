"""Some of the images of a split, and what is known of images without taking them.

Chosen       the images at given indices
first        the first so many
stored       images as they are stored, before they are float32
state        what tells images from changed ones
readers      how many processes read them ahead
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Images
from robustnas.data.images import Streamed
from robustnas.errors import DataError


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


def first(images: Images, count: int) -> Chosen:
    """The first `count` images of a split.

    Raises:
        DataError: there are fewer.
    """
    if not 0 <= count <= len(images.labels):
        raise DataError(f"{count} images are asked for and there are {len(images.labels)}")
    return Chosen(images, torch.arange(count))


def stored(images: Images, indices: Tensor) -> Tensor:
    """The images at `indices` (n,) int64 as they are read, (n, C, H, W), uint8 or float in [0, 1].

    On the way to a device or from another process, bytes take a quarter of the room.
    """
    if isinstance(images, Chosen):
        return stored(images.images, images.places(indices))
    return images.read(indices) if isinstance(images, Streamed) else images.take(indices)


def state(images: Images, indices: Tensor) -> str | None:
    """What tells the images at `indices` (n,) int64 from changed ones without reading them; None where nothing does."""
    if isinstance(images, Chosen):
        return state(images.images, images.places(indices))
    of_source = getattr(images.source, "state", None) if isinstance(images, Streamed) else None
    return None if of_source is None else str(of_source(indices))


def readers(images: Images) -> int:
    """How many processes their dataset wants to read images ahead; 0 where there is nothing to read."""
    if isinstance(images, Chosen):
        return readers(images.images)
    return images.workers if isinstance(images, Streamed) else 0
