"""Augmentation: each transformation does what it says, image by image, as a function of the generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustnas.data.augment.augmentation import Augmentation, apply


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def augment(images, generator, **options):
    """Drawn for a whole batch, and applied at once."""
    return apply(images, Augmentation(**options).plan(len(images), images.shape[2:], generator))


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
    plain, filled = (augment(IMAGES, draw(), cutout=3, fill=value) for value in ((), fill.tolist()))
    where = (plain == 0)[:, 0]
    for channel, value in enumerate(fill):
        assert bool((filled[:, channel][where] == value).all())
    assert torch.equal(filled[(plain != 0)], plain[plain != 0])


def test_a_cutout_larger_than_the_image_is_possible():
    assert float(augment(IMAGES, draw(), cutout=40).max()) == 0.0


def test_images_are_augmented_one_by_one():
    same = IMAGES[:1].expand(40, -1, -1, -1)
    assert len({tuple(one.flatten().tolist()) for one in augment(same, draw(), cutout=3)}) > 20


def one_by_one(images, draws, fill):
    """What the draws say, image by image, in floats."""
    made = []
    for image, (down, right, mirrored, row, column) in zip(images.float(), draws.table.tolist(), strict=True):
        height, width = image.shape[1:]
        padded = torch.nn.functional.pad(image, (draws.augmentation.crop,) * 4)
        image = padded[:, down : down + height, right : right + width].clone()
        if mirrored:
            image = image.flip(2)
        if side := draws.augmentation.cutout:
            top, left = row - side // 2, column - side // 2
            image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = (
                0 if fill is None else fill[:, None, None]
            )
        made.append(image)
    return torch.stack(made)


SIZES = st.integers(1, 9)


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4), SIZES, SIZES),
    crop=st.integers(0, 4),
    flip=st.booleans(),
    cutout=st.integers(0, 12),
    filled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_drawn_is_done_to_bytes_and_floats_alike(shape, crop, flip, cutout, filled, seed):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw(seed))
    images = pixels.float() / 255
    fill = torch.rand(shape[1], generator=draw(seed)) if filled else None
    options = {"crop": crop, "flip": flip, "cutout": cutout, "fill": fill.tolist() if filled else ()}
    draws = Augmentation(**options).plan(shape[0], shape[2:], draw(seed))
    expected = one_by_one(images, draws, fill)
    assert torch.equal(apply(images, draws), expected)
    assert torch.equal(apply(images.contiguous(memory_format=torch.channels_last), draws), expected)
    assert torch.equal(augment(images, draw(seed), **options), expected)
    of_bytes = apply(pixels, draws)
    assert of_bytes.dtype == (torch.float32 if cutout else torch.uint8)
    assert torch.equal(of_bytes if cutout else of_bytes.float() / 255, expected)


def test_parts_of_a_batch_get_their_part_of_the_draws():
    draws = Augmentation(crop=2, flip=True, cutout=4).plan(40, (8, 10), draw(3))
    whole = apply(IMAGES, draws)
    parts = [apply(IMAGES[part], draws[part]) for part in (slice(0, 13), slice(13, 26), slice(26, 40))]
    assert torch.equal(torch.cat(parts), whole)
    some = torch.tensor([31, 2, 2])
    assert torch.equal(apply(IMAGES[some], draws[some]), whole[some])
    assert len(draws[some]) == 3


def test_draws_are_one_sequence_of_the_generator():
    """First rows and columns of the crop, then flips, then rows and columns of the blanked squares."""
    generator = draw(5)
    expected = [torch.randint(below, (6,), generator=generator) for below in (5, 5, 2, 8, 10)]
    table = Augmentation(crop=2, flip=True, cutout=3).plan(6, (8, 10), draw(5)).table
    assert torch.equal(table, torch.stack(expected, dim=1))


@pytest.mark.parametrize("images", [IMAGES[:39], IMAGES[:, :, :7], IMAGES[..., :9]])
def test_draws_for_other_images_are_refused(images):
    with pytest.raises(ValueError, match="draws for 40 images of 8x10 do not fit"):
        apply(images, Augmentation(flip=True).plan(40, (8, 10), draw()))
