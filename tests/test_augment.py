"""Augmentation: each transformation does what it says, image by image, as a function of the generator."""

import pytest
import torch

from robustnas.augment import augment


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES = torch.rand(40, 3, 8, 10, generator=draw(7)) * 0.9 + 0.1  # no pixel is 0: blanked ones can be told


def test_nothing_asked_changes_nothing():
    assert torch.equal(augment(IMAGES, draw()), IMAGES)


def test_everything_at_once_is_a_function_of_the_generator_and_leaves_its_input():
    before = IMAGES.clone()
    first, again = (augment(IMAGES, draw(3), crop=2, flip=True, cutout=4) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(IMAGES, draw(4), crop=2, flip=True, cutout=4))
    assert torch.equal(IMAGES, before)
    assert first.shape == IMAGES.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


def test_a_flip_is_the_image_or_its_mirror_and_both_happen():
    flipped = augment(IMAGES, draw(), flip=True)
    kept = (flipped == IMAGES).flatten(1).all(1)
    mirrored = (flipped == IMAGES.flip(3)).flatten(1).all(1)
    assert bool((kept ^ mirrored).all())
    assert 5 < int(kept.sum()) < 35


def test_a_crop_is_a_shift_of_the_image_over_black():
    crop = 2
    cropped = augment(IMAGES, draw(), crop=crop)
    padded = torch.nn.functional.pad(IMAGES, (crop,) * 4)
    places = set()
    for before, after in zip(padded, cropped, strict=True):
        found = [
            (down, right)
            for down in range(2 * crop + 1)
            for right in range(2 * crop + 1)
            if torch.equal(before[:, down : down + 8, right : right + 10], after)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 12  # of 25, in 40 draws
    assert {0, 2 * crop} <= {down for down, _ in places}
    assert {0, 2 * crop} <= {right for _, right in places}


@pytest.mark.parametrize("side", [1, 3, 4])
def test_cutout_blanks_one_square_cut_at_the_border(side):
    blanked = augment(IMAGES, draw(), cutout=side) == 0
    assert torch.equal(blanked[:, 0], blanked[:, 1])
    sizes = set()
    for one in blanked[:, 0]:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        assert int(one.sum()) == len(rows) * len(columns)
        assert int(rows[-1] - rows[0]) + 1 == len(rows) <= side
        assert int(columns[-1] - columns[0]) + 1 == len(columns) <= side
        assert len(rows) == side or int(rows[0]) == 0 or int(rows[-1]) == 7
        sizes.add(int(one.sum()))
    assert side * side in sizes
    assert (augment(IMAGES, draw(), cutout=side) == IMAGES)[~blanked].all()


def test_cutout_fills_with_the_value_of_each_channel():
    fill = torch.tensor([0.01, 0.02, 0.03])
    plain, filled = (augment(IMAGES, draw(), cutout=3, fill=value) for value in (None, fill))
    where = (plain == 0)[:, 0]
    for channel, value in enumerate(fill):
        assert bool((filled[:, channel][where] == value).all())
    assert torch.equal(filled[(plain != 0)], plain[plain != 0])


def test_a_cutout_larger_than_the_image_is_possible():
    assert float(augment(IMAGES, draw(), cutout=40).max()) == 0.0


def test_images_are_augmented_one_by_one():
    same = IMAGES[:1].expand(40, -1, -1, -1)
    assert len({tuple(one.flatten().tolist()) for one in augment(same, draw(), cutout=3)}) > 20
