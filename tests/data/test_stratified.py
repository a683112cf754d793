"""Which images of a split are taken, with every class's share of them."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robustnas.data.stratified import balanced, halves, lacking
from robustnas.errors import DataError
from support.draws import draw

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@settings(deadline=None)
@given(sizes=SIZES, share=st.floats(0.001, 0.999), seed=st.integers(0, 9))
@example(sizes=[60, 60, 2], share=0.5, seed=0)
@example(sizes=[1] * 8, share=0.5, seed=0)
@example(sizes=[2] * 40 + [400], share=0.1, seed=0)
def test_halves_share_nothing_leave_nothing_out_and_divide_every_class_alike(sizes, share, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)) * 3, torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=draw(seed))]
    count = len(labels)
    if count < 2:
        return
    first, second = halves(labels, share, draw(seed))
    assert len(first) > 0
    assert len(second) > 0
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(count))
    assert first.tolist() == sorted(first.tolist())
    assert abs(len(first) - count * share) <= 1
    assert all(torch.equal(*pair) for pair in zip((first, second), halves(labels, share, draw(seed)), strict=True))
    found = [int((labels[first] == 3 * label).sum()) for label in range(len(sizes))]
    several = [size for size in sizes if size > 1]
    roomy = len(first) >= len(sizes) and len(second) >= len(several)
    if len(first) >= len(sizes):
        assert min(found) >= 1, "every class is in the first part"
    if len(second) >= len(several):
        assert all(there < size or size == 1 for there, size in zip(found, sizes, strict=True))
    exact = [size * len(first) / count for size in sizes]
    if roomy and all(1 <= there <= size - 1 for there, size in zip(exact, sizes, strict=True)):
        assert all(abs(there - ought) < 1 for there, ought in zip(found, exact, strict=True)), "rounded down or up"


def test_classes_of_equal_remainders_take_turns():
    """Ten classes of five images in halves: which five of them have three in the first part is drawn."""
    labels = torch.arange(50) % 10
    found = [tuple(labels[halves(labels, 0.5, draw(seed))[0]].bincount().tolist()) for seed in range(5)]
    assert all(sorted(one) == [2] * 5 + [3] * 5 for one in found)
    assert len(set(found)) > 1


def test_one_image_cannot_be_halved():
    with pytest.raises(DataError, match="at least 2"):
        halves(torch.zeros(1, dtype=torch.int64), 0.5, draw())


def test_a_class_that_a_part_lacks_is_named_with_how_many_images_it_has():
    labels = torch.tensor([0] * 9 + [2] + [3, 3] + list(range(4, 10)))
    first, second = halves(labels, 0.5, draw())
    assert lacking(labels, first, "the images that move w") == []
    assert lacking(labels, second, "the images that move alpha") == [
        "none of the images that move alpha is of classes 2, 4, 5, 6, 7 and 2 more, which have 1 of 18 training images"
    ]
    assert lacking(labels, torch.arange(8), "some") == [
        "none of some is of classes 2, 3, 4, 5, 6 and 3 more, which have 1 to 2 of 18 training images"
    ]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6), share=st.floats(0, 1), seed=st.integers(0, 5))
def test_a_balanced_choice_has_as_many_of_each_class_as_there_can_be(sizes, share, seed):
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    labels = labels[torch.randperm(len(labels), generator=draw(seed))]
    count = round(share * len(labels))
    chosen = balanced(labels, count, seed)
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == count
    assert len(chosen) == count
    found = [int((labels[chosen] == label).sum()) for label in range(len(sizes))]
    most = max(found)
    for have, size in zip(found, sizes, strict=True):
        assert have <= size
        assert have == size or have >= most - 1, "a class with images left has fewer than others"
    fewer = balanced(labels, count // 2, seed)
    assert torch.equal(fewer, chosen[: count // 2])
    assert torch.equal(chosen, balanced(labels, count, seed))


def test_a_balanced_choice_is_drawn():
    labels = torch.arange(1000) % 10
    first, second = balanced(labels, 100, 0), balanced(labels, 100, 1)
    assert not torch.equal(first, second)
    # a choice of the first images would have a mean near 50
    assert 400 < float(first.double().mean()) < 600
    # which classes have one more is drawn too
    assert len({tuple(labels[balanced(labels, 13, seed)].bincount(minlength=10).tolist()) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        (torch.arange(4), 5, "5 images are asked for and there are 4"),
        (torch.arange(4), -1, "-1 images are asked for"),
        (torch.arange(4.0), 2, "labels must be int64"),
    ],
)
def test_a_balanced_choice_that_cannot_be_is_refused(labels, count, message):
    with pytest.raises(DataError, match=message):
        balanced(labels, count, 0)
