"""Datasets that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import pytest
import torch

from robustnas.testing import ConformanceError, check_dataset
from support.kept_promises import Held, Stripes


class LabelK(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images, held.labels + 1)


class Bytes(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images * 255, held.labels)


class Overlapping(Stripes):
    def split(self, name):
        held = super().split(name)
        if name == "test":
            held.images[7] = super().split("train").images[3]
        return held


class OtherShape(Stripes):
    shape = (3, 6, 6)
    mean = (0.5, 0.5, 0.5)
    std = (0.2, 0.2, 0.2)

    def split(self, name):
        held = super().split(name)
        return Held(held.images[:, :1], held.labels)


class MeanInBytes(Stripes):
    mean = (127.5,)


class OneStd(Stripes):
    std = (0.2, 0.2, 0.2)


class NeverTheSame(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(torch.rand_like(held.images), held.labels)


class AnySplit(Stripes):
    def split(self, name):
        return super().split("train" if name != "test" else name)


class Doubles(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images.double(), held.labels)


class FloatLabels(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images, held.labels.float())


class Unordered(Stripes):
    def split(self, name):
        held = super().split(name)

        class Sorted(Held):
            def take(self, indices):
                return super().take(indices.sort().values)

        return Sorted(held.images, held.labels)


class MissingClass(Stripes):
    classes = 4


class NumberedContents(Stripes):
    contents = 7


class OneSize(Stripes):
    def training_images(self, side):
        return self.split("train")


class OtherOrder(Stripes):
    def training_images(self, side):
        held = self.split("train")
        return Held(torch.nn.functional.interpolate(held.images, (side, side)), held.labels.roll(1))


class Empty(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images[:0], held.labels[:0])


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (LabelK, "labels are 0 to K - 1"),
        (Bytes, r"images are in \[0, 1\]"),
        (Overlapping, "splits are disjoint"),
        (OtherShape, "declared shape"),
        (MeanInBytes, "mean is in pixel units"),
        (OneStd, "std has a finite number for each"),
        (NeverTheSame, "same order every time"),
        (AnySplit, "refuses an unknown split"),
        (Doubles, "images are float32"),
        (FloatLabels, "labels are int64"),
        (Unordered, "order of the indices"),
        (MissingClass, "every class has a training image"),
        (Empty, "has images"),
        (NumberedContents, "contents is a str"),
        (OneSize, r"training_images\(7\) have shape \(n, 1, 7, 7\)"),
        (OtherOrder, r"training_images are those of split\('train'\) in the same order"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_dataset_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_dataset(plugin)


def test_a_dataset_known_to_have_duplicates_says_so():
    check_dataset(Overlapping(), duplicates=True)
