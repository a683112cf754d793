"""The training images: which of them train, which choose the checkpoint, and how they come in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from attrs import frozen
from torch import Tensor

from robustnas.contracts import Dataset, Images, training_images
from robustnas.data.augment.augmentation import Augmentation
from robustnas.data.batches import Batches, check_fit
from robustnas.data.order import shuffled
from robustnas.data.prefetch import Prefetcher
from robustnas.data.stratified import halves, lacking
from robustnas.errors import InputError
from robustnas.runtime import seeding
from robustnas.runtime.processes import Processes
from robustnas.train.settings import Train


@frozen(eq=False)
class TrainingData:
    """The training images and their batches; leaving a `with` block ends the processes that read ahead.

    Args:
        train: (n,) int64, the images that train.
        held_out: (m,) int64, those that choose the checkpoint, none of which trains.
        notes: lines on the division, for readers of the table.
        batches: makes batches of augmented images.
        plain: makes batches of images as the network is evaluated on them.
    """

    train: Tensor
    held_out: Tensor
    notes: list[str]
    batches: Batches
    plain: Batches

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.batches.feed.close()
        self.plain.feed.close()


def check_augmentation(dataset: Dataset, settings: Train) -> None:
    """Refuse an augmentation that the dataset's images do not suit.

    Raises:
        InputError: the images cannot be read in the size, or changed in the colours, that it needs.
    """
    channels, rows, columns = dataset.shape
    if settings.colour_jitter is not None and channels not in (1, 3):
        raise InputError(
            f"found train.colour_jitter and images of {channels} channels; it changes grey images and RGB ones, and "
            "leaving it out would do"
        )
    if settings.read_size is not None and settings.read_size < max(rows, columns):
        raise InputError(
            f"found train.read_size: {settings.read_size}, and the network sees {rows}x{columns} pixels; "
            f"{max(rows, columns)} or more would do"
        )
    if settings.read_size is not None and training_images(dataset) is None:
        raise InputError(
            f"found train.read_size: {settings.read_size}, and the dataset, with these options, reads its images in "
            "one size; leaving it out would do, or an option that cuts squares (size of image-folder)"
        )


def divided(labels: Tensor, settings: Train, seed: int, processes: Processes) -> tuple[Tensor, Tensor]:
    """Divide the training images into those that train and those that choose the checkpoint: (n,), (m,) int64.

    All train, unless some of every class are held out to choose the checkpoint.

    Args:
        labels: (N,) int64, of the training images.
        settings: of the training.
        seed: of the method.
        processes: the processes that share each batch.

    Raises:
        InputError: the processes cannot share the batches.
    """
    if settings.checkpoint == "best":
        train, held_out = halves(labels, 1 - settings.held_out, seeding.generator(seed, "train", "held out"))
    else:
        train, held_out = torch.arange(len(labels)), torch.arange(0)
    order = shuffled(train, settings.batch, torch.Generator())
    check_fit(order, settings.batch, settings.accumulate, processes, "train")
    return train, held_out


def notes(labels: Tensor, parts: tuple[Tensor, Tensor]) -> list[str]:
    """Note classes that do not train, or that have no part in the choice of the checkpoint."""
    train, held_out = parts
    return [
        *lacking(labels, train, "the images that train"),
        *(lacking(labels, held_out, "the images that choose the checkpoint") if len(held_out) > 0 else []),
    ]


def training_data(
    dataset: Dataset, settings: Train, seed: int, device: torch.device, processes: Processes
) -> TrainingData:
    """Divide the images as `divided` does, and make their batches.

    Raises:
        InputError: as `check_augmentation` and `divided`.
    """
    check_augmentation(dataset, settings)
    if settings.read_size is None:
        images = dataset.split("train")
    else:
        reads: Callable[[int], Images] = dataset.training_images  # type: ignore[attr-defined]
        images = reads(settings.read_size)
    parts = train, held_out = divided(images.labels, settings, seed, processes)
    feed = Prefetcher(images, device)
    as_evaluated = feed
    if settings.read_size is not None and len(held_out) > 0:
        as_evaluated = Prefetcher(dataset.split("train"), device)
    augmentation = Augmentation(
        settings.crop,
        settings.flip,
        settings.blanked(dataset.shape),
        dataset.mean,
        settings.random_resized_crop,
        settings.colour_jitter,
    )
    batches = Batches(feed, dataset.shape[1:], augmentation, settings.accumulate, processes)
    as_they_are = Batches(as_evaluated, dataset.shape[1:], processes=processes)
    return TrainingData(train, held_out, notes(images.labels, parts), batches, as_they_are)
