"""Datasets that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustnas.testing import ConformanceError, check_dataset
from support.kept_promises import Held, Stripes, wrong


def becoming(change, **parts):
    """A dataset whose images and labels become others."""

    def split(self, name):
        held = Stripes.split(self, name)
        return Held(*change(held.images, held.labels))

    return wrong(Stripes, split=split, **parts)


class Overlapping(Stripes):
    def split(self, name):
        held = super().split(name)
        if name == "test":
            held.images[7] = super().split("train").images[3]
        return held


class AnySplit(Stripes):
    def split(self, name):
        return super().split("train" if name != "test" else name)


class Sorted(Held):
    def take(self, indices):
        return super().take(indices.sort().values)


class Unordered(Stripes):
    def split(self, name):
        held = super().split(name)
        return Sorted(held.images, held.labels)


class OtherOrder(Stripes):
    def training_images(self, side):
        held = self.split("train")
        return Held(F.interpolate(held.images, (side, side)), held.labels.roll(1))


NeverTheSame = becoming(lambda images, labels: (torch.rand_like(images), labels))
COLOURS = {"shape": (3, 6, 6), "mean": (0.5,) * 3, "std": (0.2,) * 3}
WRONG = {
    "labels to K": (becoming(lambda images, labels: (images, labels + 1)), "labels are 0 to K - 1"),
    "bytes": (becoming(lambda images, labels: (images * 255, labels)), r"images are in \[0, 1\]"),
    "overlapping": (Overlapping, "splits are disjoint"),
    "other shape": (becoming(lambda images, labels: (images[:, :1], labels), **COLOURS), "declared shape"),
    "mean in bytes": (wrong(Stripes, mean=(127.5,)), "mean is in pixel units"),
    "std of three": (wrong(Stripes, std=(0.2,) * 3), "std has a finite number for each"),
    "never the same": (NeverTheSame, "same order every time"),
    "any split": (AnySplit, "refuses an unknown split"),
    "doubles": (becoming(lambda images, labels: (images.double(), labels)), "images are float32"),
    "float labels": (becoming(lambda images, labels: (images, labels.float())), "labels are int64"),
    "unordered": (Unordered, "order of the indices"),
    "missing class": (wrong(Stripes, classes=4), "every class has a training image"),
    "empty": (becoming(lambda images, labels: (images[:0], labels[:0])), "has images"),
    "numbered contents": (wrong(Stripes, contents=7), "contents is a str"),
    "one size": (
        wrong(Stripes, training_images=lambda self, side: self.split("train")),
        r"training_images have the size that is asked for(.|\n)*for training_images\(7\)",
    ),
    "other order": (OtherOrder, r"training_images are those of split\('train'\) in the same order"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_dataset_is_caught(what):
    plugin, promise = WRONG[what]
    with pytest.raises(ConformanceError, match=promise):
        check_dataset(plugin)


def test_a_dataset_known_to_have_duplicates_says_so():
    check_dataset(Overlapping(), duplicates=True)
