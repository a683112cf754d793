"""Colour jitter: each change is torchvision's, the amounts and the order are drawn for each image."""

import pytest
import torch
from torchvision.transforms import functional as reference

from robustnas.data.augment import colour_jitter
from robustnas.data.augment.augmentation import Augmentation, apply
from support.draws import draw

CHANGES = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)
STRENGTHS = (0.4, 0.4, 0.4, 0.2)


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_are_torchvision_s_in_the_order_drawn(channels):
    images = torch.rand(40, channels, 6, 7, generator=draw(1))
    images[0], images[1], images[2, :, :3] = 0.5, 0.0, 1.0  # grey, black, and partly white: colours without a hue
    jitter = colour_jitter.draw(40, STRENGTHS, draw(2))
    before = images.clone()
    found = colour_jitter.apply(images, jitter)
    assert torch.equal(images, before)
    assert not torch.equal(found, before)
    for image, order, amounts, mine in zip(images, jitter.order.tolist(), jitter.amounts.tolist(), found, strict=True):
        for change in order:
            image = CHANGES[change](image, amounts[change])
        # torchvision writes grey with 0.2989, 0.587 and 0.114
        torch.testing.assert_close(mine, image, atol=3e-4, rtol=0)


def test_amounts_are_uniform_and_orders_all_alike():
    jitter = colour_jitter.draw(12_000, STRENGTHS, draw(3))
    low, high = torch.tensor([0.6, 0.6, 0.6, -0.2]), torch.tensor([1.4, 1.4, 1.4, 0.2])
    share = (jitter.amounts - low) / (high - low)
    assert -1e-6 <= float(share.min()) <= float(share.max()) <= 1 + 1e-6
    for column in share.T:
        # 10 cells of 1,200 expected: 0.999 of chi-square with 9 degrees of freedom is 27.9
        assert float(((column.histc(10, 0, 1) - 1200) ** 2 / 1200).sum()) < 27.9
    orders, counts = jitter.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert float(((counts - 500.0) ** 2 / 500).sum()) < 49.7  # 23 degrees of freedom
    assert bool((colour_jitter.draw(500, (3.0, 0, 0, 0), draw()).amounts[:, 0] >= 0).all())


def test_no_strength_changes_nothing():
    images = torch.rand(5, 3, 4, 4, generator=draw())
    draws = Augmentation(colour_jitter=(0, 0, 0, 0)).plan(5, (4, 4), draw())
    torch.testing.assert_close(apply(images, draws), images)
