"""Augmentation: each transformation does what it says, image by image, as a function of the generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustnas.data.augment.augmentation import Augmentation, apply
from support.draws import draw


def augment(images, generator, **options):
    """Drawn for a whole batch, and applied at once."""
    return apply(images, Augmentation(**options).plan(len(images), images.shape[2:], generator))


IMAGES = torch.rand(40, 3, 8, 10, generator=draw(7)) * 0.9 + 0.1  # no pixel is 0: blanked ones can be told


def test_everything_is_a_function_of_the_generator_and_leaves_its_input():
    before = IMAGES.clone()
    first, again = (augment(IMAGES, draw(3), crop=2, flip=True, cutout=4) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(IMAGES, draw(4), crop=2, flip=True, cutout=4))
    assert torch.equal(augment(IMAGES, draw()), IMAGES)
    assert torch.equal(IMAGES, before)


def test_every_place_a_crop_and_a_square_can_have_is_drawn_and_both_sides_of_a_mirror():
    table = Augmentation(crop=2, flip=True, cutout=3).plan(600, (8, 10), draw()).table
    assert [set(column.tolist()) for column in table.unbind(1)] == [set(range(n)) for n in (5, 5, 2, 8, 10)]
    assert 240 < int(table[:, 2].sum()) < 360


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


MOVED = {"crop": 2, "flip": True, "cutout": 4}


@pytest.mark.parametrize(
    "options",
    [
        MOVED,
        {"cutout": 4, "colour_jitter": (0.4, 0.4, 0.4, 0.2)},
        {"flip": True, "cutout": 4, "random_resized_crop": [0.2, 1.0]},
    ],
    ids=lambda options: list(options)[-1],
)
def test_parts_of_a_batch_get_their_part_of_the_draws(options):
    plan = Augmentation(**options).plan(40, (8, 10), draw(3), read=(8, 10))
    whole = apply(IMAGES, plan)
    parts = [apply(IMAGES[part], plan[part]) for part in (slice(0, 13), slice(13, 26), slice(26, 40))]
    torch.testing.assert_close(torch.cat(parts), whole)
    some = torch.tensor([31, 2, 2])
    torch.testing.assert_close(apply(IMAGES[some], plan[some]), whole[some])
    assert len(plan[some]) == 3
    assert bool((whole == 0).flatten(1).any(1).all()), "squares are blanked last"
    # what was drawn before colours and resized crops were known comes first
    known = {name: value for name, value in options.items() if name in MOVED}
    assert torch.equal(Augmentation(**known).plan(40, (8, 10), draw(3)).table, plan.table)


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
