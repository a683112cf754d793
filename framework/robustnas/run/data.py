"""Holds the dataset of a plan to its promises, so that a broken image is found before a training and not after it.

    splits    checks what the dataset declares, and a sample of its images: at every plan and run
    verify    checks every test image that will be evaluated, and up to `READ` training images: before work

Datasets that can tell changed images without reading them (files: by name, size and time of change) are read only
once: `data.json` in the run directory remembers what was found good.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Images
from robustnas.data import promises
from robustnas.data.prefetch import Prefetcher
from robustnas.data.selection import readers, state
from robustnas.data.subset import here
from robustnas.errors import DataError, MissingDataError
from robustnas.plan import Plan
from robustnas.run.directory import RunDirectory
from robustnas.run.evaluated import evaluated_images
from robustnas.runtime import interrupt, terminal

FILE = "data.json"

SAMPLE = 64
"""A plan looks at so many images of each split."""

READ = 20_000
"""At most so many training images are read before work: all of most datasets, in ten seconds to two minutes."""

CHUNK = 64
"""Images read at once."""

AHEAD = 1000
"""From so many images on, the dataset's worker processes pay, although starting them takes two seconds."""


@frozen
class Splits:
    """The images of a plan: its training split and its test split.

    Args:
        train: None where nothing is trained.
        test: the test split, of which some or all images are evaluated.
    """

    train: Images | None
    test: Images

    @property
    def labels(self) -> Tensor:
        """The labels of the training images, (N,) int64; empty where nothing is trained."""
        return torch.zeros(0, dtype=torch.int64) if self.train is None else self.train.labels


def splits(plan: Plan) -> Splits:
    """Return the images of a plan, after a look at a sample of them.

    Raises:
        DataError: data is missing or broken, or not what a dataset promises.
    """
    trains = any(method.network is None for method in plan.methods.values())
    return Splits(_split(plan, "train") if trains else None, _split(plan, "test"))


def splits_here(plan: Plan) -> Splits | None:
    """Return `splits`, or None where data is not on this machine; nothing is downloaded.

    Raises:
        DataError: data is broken, or not what a dataset promises.
    """
    try:
        return splits(attrs.evolve(plan, dataset=here(plan.dataset)))
    except MissingDataError:
        return None


def _split(plan: Plan, name: str) -> Images:
    """Return a split, after checks of its labels and of a sample of its images.

    Raises:
        DataError: they are not what a dataset promises.
    """
    images = plan.dataset.split(name)
    promises.labelled(plan.dataset, name, images.labels, _refuse(plan))
    some = promises.evenly(len(images.labels), SAMPLE)
    taken = images.take(some)
    promises.pictured(plan.dataset, name, taken, some, _refuse(plan))
    promises.in_order(name, images, some, taken, _refuse(plan))
    return images


def _refuse(plan: Plan) -> promises.Require:
    return promises.refused(plan.identity["dataset"]["name"])


def verify(plan: Plan, splits_read: Splits, directory: RunDirectory, *, quiet: bool = True) -> None:
    """Read the images that will be used, unless `data.json` says that they were found good before.

    Args:
        plan: the plan whose images they are.
        splits_read: its splits.
        directory: the run directory.
        quiet: shows no progress.

    Raises:
        DataError: an image cannot be read or is not what a dataset promises, or the test images are training images.
    """
    _, places = evaluated_images(plan, split=splits_read.test)
    parts: list[tuple[str, Images, Tensor]] = [("test", splits_read.test, places)]
    if splits_read.train is not None:
        parts.append(("train", splits_read.train, promises.evenly(len(splits_read.train.labels), READ)))
    states = [state(images, indices) for _, images, indices in parts]
    good = None if None in states else hashlib.sha256(json.dumps(states).encode()).hexdigest()
    if good is not None and not directory.lost(FILE) and _remembered(directory).get("good") == good:
        return
    with terminal.working("reading images once, so that none fails later", quiet):
        prints = {name: list(_prints(plan, name, images, indices)) for name, images, indices in parts}
    notes = [] if splits_read.train is None else _shared(prints, len(splits_read.train.labels))
    directory.write_json(FILE, {"good": good, "notes": notes})


def notes(directory: RunDirectory) -> list[str]:
    """Return what a reader of the table must know of the images, as `verify` found it."""
    return [str(note) for note in _remembered(directory).get("notes", [])]


def _remembered(directory: RunDirectory) -> dict[str, Any]:
    found = directory.read_json(FILE)
    return found if isinstance(found, dict) else {}


def _prints(plan: Plan, name: str, images: Images, indices: Tensor) -> Iterator[bytes]:
    """Read and check the images at `indices` of the split `name`, and yield their fingerprints."""
    order = list(indices.split(CHUNK))
    ahead = readers(images) > 0 and len(indices) >= AHEAD
    with Prefetcher(images, "cpu") as feed:
        taken = (pixels for pixels, _ in feed.batches(order)) if ahead else (images.take(part) for part in order)
        for part, pixels in zip(order, taken, strict=True):
            interrupt.check()
            promises.pictured(plan.dataset, name, pixels, part, _refuse(plan))
            yield from map(promises.fingerprint, pixels.cpu())


def _shared(prints: dict[str, list[bytes]], trained: int) -> list[str]:
    """Make a note where some test images are training images too.

    Args:
        prints: fingerprints of the images of both splits that were read.
        trained: number of training images, of which perhaps not all were read.

    Raises:
        DataError: about half of the test images or more are training images.
    """
    known = set(prints["train"])
    count, tested = sum(name in known for name in prints["test"]), len(prints["test"])
    if count == 0:
        return []
    read = len(prints["train"])
    among = "the training images" if read == trained else f"{read} of {trained} training images"
    text = f"{count} of {tested} test images are among {among}, pixel by pixel"
    if 2 * count * trained >= tested * read:
        raise DataError(f"{text}; splits are disjoint: no image is in two of them, and other test images would do")
    return [f"{text}; that they are right says nothing of other images"]
