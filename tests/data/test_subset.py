"""`dataset.train_images`: some of the training images, the same whoever asks for them."""

from __future__ import annotations

import attrs
import pytest
import torch
from attrs import frozen
from torch import Tensor

from robustnas.data.images import InMemory, Streamed
from robustnas.data.selection import readers, state
from robustnas.data.stratified import balanced
from robustnas.data.subset import Subset, here
from robustnas.errors import DataError

LABELS = torch.tensor([0] * 6 + [1] * 30 + [2] * 4)


class Source:
    """Images whose pixels are their places, and which note when they are read."""

    def __init__(self):
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, index: int, /) -> Tensor:
        self.read.append(index)
        return torch.full((1, 2, 2), index, dtype=torch.uint8)

    def state(self, indices: Tensor) -> str:
        return repr(indices.tolist())


@frozen
class Ours:
    """A third party's dataset, streamed or in memory."""

    source: Source | None = None
    download: bool = True
    shape = (1, 2, 2)
    classes = 3
    mean = (0.1,)
    std = (0.2,)

    def split(self, name: str):
        if self.source is not None:
            return Streamed(self.source, LABELS, 3)
        return InMemory(torch.arange(len(LABELS), dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2), LABELS)

    def training_images(self, side: int):
        pixels = torch.arange(len(LABELS), dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, side, side)
        return InMemory(pixels, LABELS)


def places(images) -> list[int]:
    """The places of images in the dataset, which their pixels say."""
    return (images.take(torch.arange(len(images.labels)))[:, 0, 0, 0] * 255).round().long().tolist()


@pytest.mark.parametrize("source", [None, Source()], ids=["in memory", "streamed"])
def test_every_class_has_its_share_and_fewer_are_the_first_of_more(source):
    whole = Ours(source)
    few, more = (Subset(whole, count).split("train") for count in (9, 15))
    assert few.labels.bincount().tolist() == [3, 3, 3]
    assert more.labels.bincount().tolist() == [6, 5, 4] or more.labels.bincount().tolist() == [5, 6, 4]
    assert places(more)[:9] == places(few) == balanced(LABELS, 9, 0).tolist()
    assert few.labels.tolist() == LABELS[places(few)].tolist()
    assert len(Subset(whole, 9).split("test").labels) == len(LABELS)
    assert all(getattr(Subset(whole, 9), name) == getattr(whole, name) for name in ("shape", "classes", "mean", "std"))


def test_streamed_images_are_read_when_they_are_asked_for_and_known_without():
    source = Source()
    few = Subset(Ours(source), 9).split("train")
    assert readers(few) == 3
    assert state(few, torch.tensor([0, 2])) == repr(balanced(LABELS, 9, 0)[[0, 2]].tolist())
    assert source.read == []
    few.take(torch.tensor([4]))
    assert source.read == [int(balanced(LABELS, 9, 0)[4])]


def test_larger_training_images_are_those_of_the_same_places():
    subset = Subset(Ours(), 9)
    larger = subset.training_images(5)
    assert larger.take(torch.arange(9)).shape == (9, 1, 5, 5)
    assert places(larger) == places(subset.split("train"))
    no_sizes = attrs.make_class("NoSizes", [], frozen=True)()
    assert Subset(no_sizes, 9).training_images is None


def test_what_stays_here_downloads_nothing():
    assert here(Subset(Ours(), 9)) == Subset(Ours(download=False), 9)
    assert here("another") == "another"


@pytest.mark.parametrize("count", [2, 41])
def test_more_images_than_there_are_or_fewer_than_classes_are_refused(count):
    with pytest.raises(DataError, match=rf"dataset.train_images: found {count}, and there are 40 .* 3 to 40 would do"):
        Subset(Ours(), count).split("train")
