"""Which images of a split are taken, so that every class has its share of them.

    balanced     so many images, as many of each class as there can be
    halves       all images in two parts, each class divided as all are
    lacking      what to say of classes that a part has no image of

Both draw from a seed alone: the same labels give the same choice in every process.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.data.images import check_labels
from robustnas.errors import DataError
from robustnas.runtime import seeding

NAMED = 5
"""How many classes a note names."""


def balanced(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the images of a split, as many of each class as there can be: a function of the seed.

    Every class has count / K of them, rounded down or up; one that has fewer images gives all, and the others share
    what is missing.  Fewer images with the same seed are the first of them.

    Args:
        labels: (N,) int64, of the split.

    Returns:
        (count,) int64 on the CPU, in turn of each class: the first so many of them are what a smaller count gives.

    Raises:
        DataError: there are fewer images, or the labels are of another type.
    """
    check_labels(labels, len(labels))
    if not 0 <= count <= len(labels):
        raise DataError(f"{count} images are asked for and there are {len(labels)}; a count from 0 to that would do")
    draws = seeding.generator(seed, "subset")
    order = torch.randperm(len(labels), generator=draws)
    own, rank, sizes = _ranked(labels.cpu()[order])
    turn = torch.randperm(len(sizes), generator=draws)
    # the first of every class, then the second of every class that has one, and so on
    rounds = (rank * len(sizes) + turn[own]).argsort()
    return order[rounds[:count]]


def first_half(count: int, share: float) -> int:
    """How many of `count` images are `share` of them: to the nearest image, and at least one on either side."""
    return min(max(round(count * share), 1), count - 1)


def halves(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The indices of a split in two random parts: the first holds `share` of them, and of every class.

    Of each class, its share of images, rounded down or up; at least one on either side, as long as the class has two
    and the part has room for one of each class.  A class of one image is in the first part.

    Args:
        labels: (N,) int64, of the split.
        share: of the first part, in (0, 1).
        generator: source of every draw.

    Returns:
        Both (n,) int64 on the CPU, ascending; disjoint, together all, neither empty.

    Raises:
        DataError: fewer than two images.
    """
    count = len(labels)
    if count < 2:
        raise DataError(f"{count} training images cannot be halved: a search needs at least 2")
    order = torch.randperm(count, generator=generator, device=generator.device).cpu()
    own, rank, sizes = _ranked(labels.cpu()[order])
    turn = torch.randperm(len(sizes), generator=generator, device=generator.device).cpu()
    chosen = rank < _allotted(sizes, first_half(count, share), turn)[own]
    return order[chosen].sort().values, order[~chosen].sort().values


def _allotted(sizes: Tensor, first: int, turn: Tensor) -> Tensor:
    """How many images of each class are among the `first`: (K,) int64, in proportion, by largest remainders.

    Args:
        sizes: of the classes, (K,) int64, none of them 0.
        first: images of all classes that are wanted.
        turn: (K,), the order in which classes with equal remainders are given one more.
    """
    least, most = sizes.clamp(max=1), sizes - (sizes > 1).long()
    if int(least.sum()) > first:  # not one of each class: no class has two then
        least, most = torch.zeros_like(sizes), least
    elif int(most.sum()) < first:  # not one of each class in the other part
        least, most = most, sizes
    # the share of every class at which all together are `first`, but for the classes at their bounds
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        enough = float((middle * sizes.double()).clamp(least, most).sum()) >= first
        low, high = (low, middle) if enough else (middle, high)
    quota = (high * sizes.double()).clamp(least, most)
    given = (quota + 1e-9).floor().long()
    # whole quotas have a remainder of rounding errors, which the order must not follow
    owed = ((quota - given) * 1e6).round()[turn]
    more = turn[owed.argsort(descending=True, stable=True)[: first - int(given.sum())]]
    given[more] += 1
    return given


def lacking(labels: Tensor, part: Tensor, what: str) -> list[str]:
    """A note on the classes of which a part of a split has no image; none where it has all.

    Args:
        labels: (N,) int64, of the split.
        part: (n,) int64, indices into them.
        what: the part is, as in "none of the images that move alpha".
    """
    sizes = labels.bincount()
    absent = ((sizes > 0) & (labels[part].bincount(minlength=len(sizes)) == 0)).nonzero().flatten()
    if len(absent) == 0:
        return []
    few, many = int(sizes[absent].min()), int(sizes[absent].max())
    named = ", ".join(str(label) for label in absent[:NAMED].tolist())
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    which, have = ("class", "has") if len(absent) == 1 else ("classes", "have")
    some = str(few) if few == many else f"{few} to {many}"
    return [f"none of {what} is of {which} {named}{more}, which {have} {some} of {len(labels)} training images"]


def _ranked(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of labels (N,) int64: the class of each as a place among the classes there are, which image of its class it is,
    counted from 0, and how many each class has: (N,), (N,), (K,), int64.
    """
    _, own, sizes = labels.unique(return_inverse=True, return_counts=True)
    by_class = own.argsort(stable=True)
    rank = torch.empty_like(own)
    rank[by_class] = torch.arange(len(own)) - (sizes.cumsum(0) - sizes)[own[by_class]]
    return own, rank, sizes
