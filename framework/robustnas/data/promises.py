"""What a dataset promises, as the conformance kit and a run look at it: the same promises in the same words.

    declared     shape, classes, mean and deviation, contents
    labelled     the labels of a split
    pictured     images that were taken
    in_order     the order in which they are taken
    fingerprint  by which the same image is found in another split

Each is told what to do with a promise and what was found: the kit fails a test, a plan and a run refuse the dataset
(`refused`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robustnas.contracts import Dataset, Images
from robustnas.contracts import contents as contents_of
from robustnas.errors import DataError

Require = Callable[[bool, str, str], bool]
"""Whether a promise is kept, the promise, and what was found -> whether it is kept, or an exception if it is not."""


def refused(name: str) -> Require:
    """What a plan and a run do with a promise: raise a DataError about the dataset `name` where it is broken."""

    def require(kept: bool, promise: str, found: str) -> bool:
        if not kept:
            raise DataError(
                f"dataset {name} breaks a promise of datasets\n  promised: {promise}\n  found:    {found}\n"
                "  what would do: other data; or a plugin that robustnas.testing.check_dataset passes"
            )
        return kept

    return require


def declared(dataset: Dataset, require: Require) -> None:
    """What the dataset says of all its images."""
    shape, classes = dataset.shape, dataset.classes
    shaped = require(
        isinstance(shape, tuple) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape),
        "shape is (channels, rows, columns), positive integers",
        repr(shape),
    )
    require(type(classes) is int and classes >= 2, "classes is an integer of at least 2", repr(classes))
    for name in ("mean", "std") if shaped else ():
        values = getattr(dataset, name)
        if not require(
            len(values) == shape[0] and all(math.isfinite(value) for value in values),
            f"{name} has a finite number for each channel",
            f"{values!r} for {shape[0]} channels",
        ):
            continue
        require(
            all(0 <= value <= 1 for value in values) and (name == "mean" or min(values) > 0),
            f"{name} is in pixel units, a fraction of the pixel range: at most 1",
            repr(values),
        )
    contents = contents_of(dataset)
    known_by = {"train": contents, "test": contents} if isinstance(contents, str) else contents
    require(
        contents is None
        or (
            isinstance(known_by, Mapping)
            and set(known_by) == {"train", "test"}
            and all(isinstance(one, str) for one in known_by.values())
        ),
        "contents is a str, or a mapping of 'train' and 'test' to one each",
        repr(contents),
    )


def labelled(dataset: Dataset, name: str, labels: Tensor, require: Require) -> bool:
    """The labels of the split `name`; whether they are whole numbers with which images can be counted."""
    counted = require(
        isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.dim() == 1,
        "labels are int64 of shape (N,)",
        f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__,
    )
    counted = counted and require(labels.device.type == "cpu", "labels are on the CPU", str(labels.device))
    counted = counted and require(len(labels) > 0, "a split has images", f"split {name!r} is empty")
    if not counted:
        return False
    inside = require(
        int(labels.min()) >= 0 and int(labels.max()) < dataset.classes,
        "labels are 0 to K - 1",
        f"{int(labels.min())} to {int(labels.max())} in split {name!r}, with K = {dataset.classes}",
    )
    if name == "train" and inside:
        missing = (labels.bincount(minlength=dataset.classes) == 0).nonzero().flatten().tolist()
        require(not missing, "every class has a training image", f"none of class {', '.join(map(str, missing[:5]))}")
    return True


def pictured(dataset: Dataset, name: str, taken: Tensor, indices: Tensor, require: Require) -> bool:
    """The images at `indices` (n,) of the split `name`, as they were taken; whether they are of the declared form."""
    shape = tuple(dataset.shape)
    found = f"a {type(taken).__name__}"
    if isinstance(taken, Tensor):
        channels_last = tuple(taken.shape[1:]) == (*shape[1:], shape[0]) != shape
        found = f"{taken.dtype} of shape {tuple(taken.shape)} for n = {len(indices)}"
        found += ": channels come first, permute(0, 3, 1, 2)" if channels_last else ""
    if not require(
        isinstance(taken, Tensor) and taken.dtype == torch.float32 and tuple(taken.shape) == (len(indices), *shape),
        "images are float32 of the declared shape",
        f"{found}, declared (n, {', '.join(map(str, shape))})",
    ):
        return False
    # written so that a NaN fails it
    good = ((taken >= 0) & (taken <= 1)).flatten(1).all(1)
    first = int((~good).nonzero()[0]) if not bool(good.all()) else 0
    require(
        bool(good.all()),
        "images are in [0, 1]",
        f"values from {float(taken[first].min()):.4g} to {float(taken[first].max()):.4g} in image "
        f"{int(indices[first])} of split {name!r}",
    )
    return True


def in_order(name: str, images: Images, indices: Tensor, once: Tensor, require: Require) -> None:
    """The images at `indices` of the split `name`, which were taken `once`, asked for backwards."""
    require(
        torch.equal(images.take(indices.flip(0)).flip(0), once),
        "take gives the images in the order of the indices",
        f"split {name!r} asked backwards gives another order",
    )


def evenly(count: int, most: int) -> Tensor:
    """The indices of at most `most` of `count` images, evenly spaced: (n,) int64."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()


def fingerprint(image: Tensor) -> bytes:
    """Content of an image (C, H, W) on the CPU, to a 255th of the pixel range."""
    return hashlib.sha256((image * 255).round().to(torch.uint8).contiguous().numpy().tobytes()).digest()
