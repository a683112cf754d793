"""A batch as the parts in which it is computed: one process's share of it, cut again where it does not fit at once.

    gradient of a batch = sum over processes, sum over parts of  share * gradient of the part's mean loss

where `share` is the part's images over the images of the whole batch.  So data parallel and gradient accumulation are
one sum, and the result does not depend on who computed what; except that batch norm sees one part at a time (over all
processes: `robustnas.nn.synchronised`).

Augmentation is drawn for the whole batch, by every process alike, and applied to the images at hand: the same seed
gives the same images however a batch is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from attrs import field, frozen
from torch import Tensor

from robustnas.data.augment.augmentation import Augmentation, apply
from robustnas.data.prefetch import Prefetcher
from robustnas.errors import InputError
from robustnas.runtime.processes import ALONE, Processes


@frozen(eq=False)
class Part:
    """Some images of a batch.

    Args:
        images: (n, C, H, W) float32 in [0, 1], on the device, channels last.
        labels: (n,) int64, on the device.
        share: n over the images of the whole batch, over all processes.
    """

    images: Tensor
    labels: Tensor
    share: float


Batch = tuple[Part, ...]


@frozen(eq=False)
class Batches:
    """Makes batches of a split's images, augmented.

    Args:
        feed: of the split's images.
        size: rows and columns of an image, augmented.
        augmentation: what may happen to an image.
        accumulate: parts that each process computes its share of a batch in.
        processes: the processes that share a batch.
    """

    feed: Prefetcher
    size: tuple[int, int]
    augmentation: Augmentation = field(factory=Augmentation)
    accumulate: int = 1
    processes: Processes = ALONE

    def of(self, order: Sequence[Tensor], generator: torch.Generator) -> Iterator[Batch]:
        """The batches whose images are at each of `order`'s indices (n,); draws once a batch, as it is asked for."""
        shares = [self._shares(len(indices)) for indices in order]
        own = [torch.cat([indices[share] for share in some]) for indices, some in zip(order, shares, strict=True)]
        for indices, some, found in zip(order, shares, self.feed.batches(own), strict=True):
            yield self._batch(*found, len(indices), some, generator)

    def _shares(self, count: int) -> list[slice]:
        """This process's images of each part.  Parts are cut first: they are the same for any number of processes."""
        shares = []
        for part in parts(count, self.accumulate):
            own = self.processes.share(part.stop - part.start)
            shares.append(slice(part.start + own.start, part.start + own.stop))
        return shares

    def _batch(
        self, images: Tensor, labels: Tensor, count: int, shares: list[slice], generator: torch.Generator
    ) -> Batch:
        plan = self.augmentation.plan(count, self.size, generator, read=(images.shape[2], images.shape[3]))
        own = torch.cat([torch.arange(share.start, share.stop) for share in shares])
        images = apply(images, plan[own])
        images = images.contiguous(memory_format=torch.channels_last)
        sizes = [share.stop - share.start for share in shares]
        return tuple(
            Part(some, truth, len(truth) / count)
            for some, truth in zip(images.split(sizes), labels.split(sizes), strict=True)
        )


def parts(count: int, accumulate: int) -> list[slice]:
    """`count` images in `accumulate` parts, fewer where a part would have less than the two that batch norm needs."""
    pieces = max(min(accumulate, count // 2), 1)
    return [slice(count * piece // pieces, count * (piece + 1) // pieces) for piece in range(pieces)]


def check_fit(order: Sequence[Tensor], batch: int, accumulate: int, processes: Processes, section: str) -> None:
    """Whether every process gets its share of every batch, and batch norm at least two images at a time.

    Args:
        order: the batches of an epoch.
        batch: the recipe's key, for the message.
        accumulate: likewise.
        processes: the processes.
        section: of the recipe, for the message.

    Raises:
        InputError: a batch that cannot be shared.
    """
    if batch % processes.size:
        near = max(batch // processes.size, 1) * processes.size
        raise InputError(
            f"{section}.batch {batch} cannot be shared equally by {processes.size} processes; "
            f"{section}.batch {near} would do, or another --nproc-per-node"
        )
    if batch < 2 * accumulate * processes.size:
        raise InputError(
            f"{section}.batch {batch} in {accumulate} parts on {processes.size} process(es) leaves fewer than 2 images "
            f"a part, and batch norm needs 2; a larger {section}.batch or a smaller {section}.accumulate would do"
        )
    least = min(
        (part.stop - part.start for indices in order for part in parts(len(indices), accumulate)), default=batch
    )
    if least < processes.size:
        raise InputError(
            f"the last batch of an epoch, or a part of it, has {least} image(s) for {processes.size} processes; "
            f"another {section}.batch than {batch} would do"
        )
