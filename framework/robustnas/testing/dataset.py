"""The promises of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustnas.contracts import Dataset, Images, training_images
from robustnas.data import promises
from robustnas.errors import DataError, InputError
from robustnas.runtime.seeding import reseed
from robustnas.testing.promise import Judge, judged, made, own_randomness

CHUNK = 256


def check_dataset(
    plugin: Any,
    splits: Sequence[str] = ("train", "test"),
    *,
    limit: int = 20_000,
    duplicates: bool = False,
    seed: int = 0,
) -> tuple[str, ...]:
    """Hold a dataset to its contract.  Reads its images: they must be where its options say.

    Args:
        plugin: the dataset, or its class, which is made with default options.
        splits: the splits to read.
        limit: images read of each split, evenly spaced; a split of fewer is read whole.
        duplicates: the data itself is known to have images that are in two splits; do not look for them.
        seed: of torch's global generator while the plugin runs; another one at the second reading.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
    """
    with judged("dataset", plugin) as verdict, own_randomness(seed):
        dataset = made(plugin, verdict)
        verdict.require(bool(splits), "is checked for at least one split", f"splits={splits!r}")
        with verdict.promised("has shape, classes, mean and std"):
            promises.declared(dataset, verdict.expect)
        verdict.refuses(
            "refuses an unknown split with an InputError (DataError, say)",
            InputError,
            lambda: dataset.split("no-such-split"),
        )
        seen: dict[bytes, str] = {}
        for name in splits:
            with verdict.apart():
                for print_, where in _check_split(dataset, name, verdict, limit).items():
                    verdict.expect(
                        duplicates or print_ not in seen,
                        "splits are disjoint: no image is in two of them",
                        f"{where} is also {seen.get(print_)}",
                    )
                    seen[print_] = where
        _check_optional(dataset, splits, verdict)
    return tuple(verdict.tried)


def _check_optional(dataset: Dataset, splits: Sequence[str], verdict: Judge) -> None:
    """Check `training_images`, which reads the training images as squares, where the dataset has it."""
    reads = training_images(dataset)
    if reads is None or "train" not in splits:
        return
    side = max(dataset.shape[1:]) + 1
    try:
        larger = reads(side)
    except DataError:
        return  # not with these options
    verdict.expect(
        torch.equal(larger.labels, dataset.split("train").labels),
        "training_images are those of split('train') in the same order",
        "they have other labels",
    )
    shape = tuple(larger.take(torch.tensor([0])).shape)
    verdict.expect(
        shape == (1, dataset.shape[0], side, side),
        "training_images have the size that is asked for",
        f"{shape} for training_images({side})",
    )


def _check_split(dataset: Dataset, name: str, verdict: Judge, limit: int) -> dict[bytes, str]:
    """Check one split; returns a print of each image read, with the image's name in a message."""
    with verdict.promised("has the splits it is checked for", f"split({name!r})"):
        images = dataset.split(name)
        labels = images.labels
    if not promises.labelled(dataset, name, labels, verdict.expect):
        return {}
    count = len(labels)
    chosen = promises.evenly(count, limit)
    prints: dict[bytes, str] = {}
    for part in (chosen[first : first + CHUNK] for first in range(0, len(chosen), CHUNK)):
        taken = _taken(images, part, dataset, name, verdict)
        for index, image in zip(part.tolist(), taken.cpu(), strict=True):
            prints.setdefault(promises.fingerprint(image), f"image {index} of {name!r}")
    _check_order(dataset, images, chosen, name, verdict)
    return prints


def _taken(images: Images, indices: Tensor, dataset: Dataset, name: str, verdict: Judge) -> Tensor:
    with verdict.promised("take gives the images it is asked for", f"split {name!r}"):
        taken = images.take(indices)
    formed = promises.pictured(dataset, name, taken, indices, verdict.expect)
    verdict.require(formed, "images are float32 of the declared shape", "others")  # already noted, in more words
    return taken


def _check_order(dataset: Dataset, images: Images, chosen: Tensor, name: str, verdict: Judge) -> None:
    """Require the same images in the same order at every call, and in the order they are asked for."""
    some = chosen[torch.linspace(0, len(chosen) - 1, min(len(chosen), 16)).long()]
    once = _taken(images, some, dataset, name, verdict)
    reseed(torch.initial_seed() + 1)
    again = dataset.split(name)
    verdict.expect(
        torch.equal(again.labels, images.labels) and torch.equal(_taken(again, some, dataset, name, verdict), once),
        "a split is the same images in the same order every time",
        f"the second call of split({name!r}) gives others",
    )
    promises.in_order(name, images, some, once, verdict.expect)
