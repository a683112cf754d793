"""A dataset of whose training images only some train: `dataset.train_images` of a recipe, or all but some held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs import field, frozen
from torch import Tensor

from robustnas import contracts
from robustnas.contracts import Images
from robustnas.data.images import InMemory
from robustnas.data.selection import Chosen
from robustnas.data.stratified import balanced
from robustnas.data.view import View
from robustnas.errors import DataError

SEED = 0
"""The draw is the same for all methods and seeds, so that all are trained on the same images."""


@frozen
class Subset(View):
    """A dataset with some of its training images, as many of each class as there can be, and all of its test images.

    Fewer images are the first of more.  Streamed images stay where they are.

    Args:
        count: how many train, at least one of each class.
        at_most: whether all of them train where there are fewer.
    """

    count: int
    at_most: bool = False

    def split(self, name: str) -> Images:
        """The dataset's own split; of `"train"`, the images that train.

        Raises:
            DataError: there are not so many, or too few for one of each class.
        """
        images = self.dataset.split(name)
        return self._some(images) if name == "train" else images

    @property
    def training_images(self) -> Callable[[int], Images] | None:
        """The same images in another size, where the dataset has that member."""
        reads = contracts.training_images(self.dataset)
        return None if reads is None else lambda side: self._some(reads(side))

    def _some(self, images: Images) -> Images:
        there = len(images.labels)
        count = min(self.count, there) if self.at_most else self.count
        if not self.classes <= count <= there:
            raise DataError(
                f"dataset.train_images: found {self.count}, and there are {there} training images of {self.classes} "
                f"classes; {self.classes} to {there} would do, or leaving it out for all"
            )
        return _at(images, balanced(images.labels, count, SEED))


@frozen
class Picked(View):
    """A dataset with the training images at these indices, (n,) int64, and all of its test images."""

    indices: Tensor = field(eq=False)

    def split(self, name: str) -> Images:
        """The dataset's own split; of `"train"`, the images at the indices."""
        images = self.dataset.split(name)
        return _at(images, self.indices) if name == "train" else images


def _at(images: Images, indices: Tensor) -> Images:
    if isinstance(images, InMemory):  # which go to a device once
        return InMemory(images.pixels[indices.to(images.pixels.device)], images.labels[indices])
    return Chosen(images, indices)


def here(dataset: Any) -> Any:
    """The same dataset, which downloads nothing."""
    if isinstance(dataset, Subset):
        return attrs.evolve(dataset, dataset=here(dataset.dataset))
    if attrs.has(type(dataset)) and "download" in attrs.fields_dict(type(dataset)):
        return attrs.evolve(dataset, download=False)
    return dataset
