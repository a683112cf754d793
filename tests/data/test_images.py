"""Images of a split and the orders they are visited in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustnas.data.images import InMemory, Streamed, on_device
from robustnas.data.order import in_order, shuffled
from robustnas.data.selection import Chosen, first, readers, stored
from robustnas.errors import DataError
from support.draws import draw


def some(count=5):
    pixels = torch.randint(0, 256, (count, 3, 4, 6), dtype=torch.uint8, generator=draw())
    return pixels, torch.arange(count) % 3


def test_bytes_become_shares_of_the_pixel_range():
    pixels, labels = some()
    pixels[0, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    taken = InMemory(pixels, labels).take(torch.tensor([0, 3]))
    assert taken.dtype == torch.float32
    assert taken.shape == (2, 3, 4, 6)
    assert taken[0, 0, 0, :2].tolist() == [0.0, 1.0]
    torch.testing.assert_close(taken[1], pixels[3] / 255)


@pytest.mark.parametrize("workers", [0, 3])
def test_streamed_images_are_those_in_memory(workers):
    pixels, labels = some(9)
    indices = torch.tensor([8, 0, 0, 5])
    streamed = Streamed(list(pixels), labels, workers)
    assert torch.equal(streamed.take(indices), InMemory(pixels, labels).take(indices))
    assert streamed.take(indices[:0]).shape == (0, 3, 4, 6)


def test_images_as_they_are_stored_and_who_reads_them():
    pixels, labels = some(9)
    indices = torch.tensor([8, 0, 5])
    streamed = Streamed(list(pixels), labels, 3)
    for images, workers in ((streamed, 3), (first(streamed, 9), 3), (Streamed(list(pixels), labels), 0)):
        found = stored(images, indices)
        assert found.dtype == torch.uint8
        assert torch.equal(found, pixels[indices])
        assert readers(images) == workers
    held = InMemory(pixels, labels)
    assert torch.equal(stored(held, indices), held.take(indices))
    assert readers(held) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_and_floats_in_one_batch_have_one_scale(workers):
    pixels, labels = some(4)
    mixed = Streamed([pixels[0], pixels[1].float() / 255, pixels[2], pixels[3]], labels, workers)
    everything = torch.arange(4)
    assert torch.equal(mixed.take(everything), InMemory(pixels, labels).take(everything))


def test_taking_does_not_hand_out_the_memory_itself():
    images = InMemory(torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    before = images.pixels.clone()
    images.take(torch.arange(3)).zero_()
    assert torch.equal(images.pixels, before)


def test_a_streamed_image_of_another_size_is_named():
    source = [torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), torch.zeros(1, 5, 4)]
    images = Streamed(source, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match=r"image 2 has shape \(1, 5, 4\) where image 0 has \(1, 4, 4\)"):
        images.take(torch.arange(3))


def test_arrays_of_numpy_are_images_too():
    pixels, labels = some()
    expected = InMemory(pixels, labels).take(torch.arange(5))
    array = pixels.numpy()
    read_only = array.copy()
    read_only.setflags(write=False)
    for held in (array, array[::-1][::-1], read_only, (array / 255).astype(">f4"), np.asfortranarray(array)):
        for kind in ("int64", "uint8", ">i4", "uint16"):
            images = InMemory(held, labels.numpy().astype(kind))
            assert torch.equal(images.labels, labels)
            assert images.labels.dtype == torch.int64
            torch.testing.assert_close(images.take(torch.arange(5)), expected)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2, dtype=torch.int64), r"shape \(N, C, H, W\)"),
        (torch.zeros(2, 1, 3, 3).int(), torch.zeros(2, dtype=torch.int64), "uint8 or float"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(3, dtype=torch.int64), "2 images with 3 labels"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2), "int64"),
        (
            np.zeros((2, 3, 3), dtype=np.uint8),
            np.zeros(2, dtype=int),
            r"found torch.uint8 of \(2, 3, 3\); grey images have",
        ),
        (np.zeros((2, 1, 3, 3)), np.zeros(2), "labels must be int64"),
        (np.zeros((2, 1, 3, 3), dtype=int), np.zeros(2, dtype=int), "pixels must be uint8 or float"),
        (np.zeros((2, 1, 3, 3)), np.array(["a", "b"]), "found an array of <U1; one of numbers would do"),
        ([[[[0.0]]]], torch.zeros(1, dtype=torch.int64), "found list; a tensor, or an array of NumPy, would do"),
        (torch.full((2, 1, 3, 3), 1.5), torch.zeros(2, dtype=torch.int64), r"\[0, 1\]"),
        (torch.full((2, 1, 3, 3), float("nan")), torch.zeros(2, dtype=torch.int64), r"\[0, 1\]"),
    ],
)
def test_what_is_not_labelled_images_is_refused(pixels, labels, message):
    with pytest.raises(DataError, match=message):
        InMemory(pixels, labels)


def test_on_device_keeps_bytes_as_bytes_and_the_images_as_they_are():
    pixels, labels = some()
    moved = on_device(InMemory(pixels, labels), "cpu")
    assert isinstance(moved, InMemory)
    assert moved.pixels.dtype == torch.uint8
    streamed = on_device(Streamed(list(pixels), labels), "cpu")
    everything = torch.arange(5)
    assert torch.equal(moved.take(everything), streamed.take(everything))
    assert torch.equal(moved.labels, labels)
    assert torch.equal(streamed.labels, labels)


@settings(deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(2, 20), seed=st.integers(0, 9))
def test_an_epoch_visits_everything_once_and_no_image_alone_as_its_seed_says(count, batch, seed):
    indices = torch.arange(count) * 3 + 1
    batches = shuffled(indices, batch, draw(seed))
    assert all(map(torch.equal, batches, shuffled(indices, batch, draw(seed))))
    assert count < 20 or not torch.equal(torch.cat(batches), torch.cat(shuffled(indices, batch, draw(seed + 1))))
    assert sorted(torch.cat(batches).tolist()) == indices.tolist()
    assert all(len(one) >= 2 for one in batches) or count == 1
    assert all(len(one) == batch for one in batches[:-1])
    assert len(batches[-1]) <= batch + 1


@pytest.mark.parametrize(("count", "batch", "sizes"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (0, 5, [])])
def test_in_order_counts_up(count, batch, sizes):
    batches = in_order(count, batch)
    assert [len(one) for one in batches] == sizes
    assert [index for one in batches for index in one.tolist()] == list(range(count))


def test_chosen_images_of_a_split():
    pixels, labels = some(9)
    places = torch.tensor([7, 2, 2, 8])
    streamed = Streamed(list(pixels), labels, 3)
    for images in (InMemory(pixels, labels), streamed, first(streamed, 9), Chosen(streamed, torch.arange(9))):
        chosen = Chosen(images, places)
        assert torch.equal(chosen.labels, labels[places])
        assert torch.equal(on_device(chosen, "cpu").take(torch.tensor([3, 0])), pixels[[8, 7]] / 255)
        assert torch.equal(first(chosen, 2).take(torch.tensor([1])), pixels[[2]] / 255)
        assert readers(chosen) == readers(images)
        assert torch.equal(stored(chosen, torch.tensor([3, 1])), stored(images, torch.tensor([8, 2])))
    assert stored(Chosen(streamed, places), torch.tensor([0])).dtype == torch.uint8
    assert readers(Chosen(streamed, places)) == 3
    with pytest.raises(DataError, match="10 images are asked for and there are 9"):
        first(streamed, 10)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.tensor([0, 9]), "image 9 is asked for and there are 9"),
        (torch.tensor([-1]), "image -1 is asked for"),
        (torch.tensor([0.0]), "indices must be int64"),
        (torch.zeros(9, dtype=torch.bool), "indices must be int64"),
        (torch.tensor([[1]]), "indices must be int64"),
    ],
)
def test_images_that_are_not_there_cannot_be_chosen(indices, message):
    with pytest.raises(DataError, match=message):
        Chosen(InMemory(*some(9)), indices)
