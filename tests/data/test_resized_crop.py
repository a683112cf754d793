"""Random resized crops: distributed as torchvision's, resized as torchvision resizes, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from robustnas.data.augment.augmentation import Augmentation, apply
from robustnas.data.augment.resized_crop import boxes, resized
from support.draws import draw


@pytest.mark.parametrize(
    ("height", "width", "shares"),
    [(64, 64, (0.08, 1.0)), (20, 60, (0.3, 1.0)), (60, 20, (0.95, 1.0)), (8, 8, (0.1, 1.0))],
)
def test_crops_are_distributed_as_torchvision_s(height, width, shares):
    """Two-sample Kolmogorov-Smirnov of place, size, area and aspect; with fixed seeds it holds always or never."""
    count = 3000
    ours = boxes(count, height, width, shares, draw()).double().numpy()
    torch.manual_seed(1)
    image = torch.zeros(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(shares), [3 / 4, 4 / 3]) for _ in range(count)], float)
    assert ours.shape == theirs.shape
    for name, of in {
        "rows": lambda box: box[:, 2],
        "columns": lambda box: box[:, 3],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "right": lambda box: box[:, 1] + box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect": lambda box: box[:, 3] / box[:, 2],
    }.items():
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-4, name
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


def test_what_never_fits_is_the_largest_from_the_middle():
    assert boxes(2, 30, 100, (1.0, 1.0), draw()).tolist() == [[0, 30, 30, 40]] * 2
    assert boxes(2, 100, 30, (1.0, 1.0), draw()).tolist() == [[30, 0, 40, 30]] * 2
    assert set(map(tuple, boxes(50, 1, 1, (0.01, 0.2), draw()).tolist())) == {(0, 0, 1, 1)}


@pytest.mark.parametrize("size", [(48, 48), (20, 31), (90, 70)])
def test_resizing_is_torchvision_s_smaller_and_larger(size):
    pixels = torch.randint(0, 256, (16, 3, 64, 56), dtype=torch.uint8, generator=draw(2))
    crops = boxes(16, 64, 56, (0.05, 1.0), draw(3))
    ours = resized(pixels.float() / 255, crops, *size)
    assert ours.shape == (16, 3, *size)
    assert ours.dtype == torch.float32
    for mine, image, box in zip(ours, pixels, crops.tolist(), strict=True):
        tensor = reference.resized_crop(image.float() / 255, *box, list(size), antialias=True)
        torch.testing.assert_close(mine, tensor, atol=2e-5, rtol=0)
        # bytes are rounded once for rows and once for columns
        bytes_ = np.asarray(reference.resized_crop(Image.fromarray(image.permute(1, 2, 0).numpy()), *box, list(size)))
        torch.testing.assert_close(
            mine, torch.from_numpy(bytes_.copy()).permute(2, 0, 1) / 255, atol=1.01 / 255, rtol=0
        )


def test_the_whole_image_at_its_own_size_is_the_image():
    images = torch.rand(3, 1, 9, 7, generator=draw())
    whole = torch.tensor([[0, 0, 9, 7]] * 3)
    assert torch.equal(resized(images, whole, 9, 7), images)
    assert torch.equal(resized(torch.ones(3, 2, 9, 7), whole, 20, 5), torch.ones(3, 2, 20, 5))


def test_resized_crops_come_before_all_else():
    images = torch.rand(20, 3, 16, 16, generator=draw(4))
    draws = Augmentation(flip=True, random_resized_crop=[0.2, 1.0]).plan(20, (12, 10), draw(5), read=(16, 16))
    flipped = Augmentation(flip=True).plan(20, (12, 10), draw(5))
    assert torch.equal(apply(images, draws), apply(resized(images, draws.boxes, 12, 10), flipped))


def test_bytes_are_cropped_as_floats_are():
    pixels = torch.randint(0, 256, (6, 3, 9, 9), dtype=torch.uint8, generator=draw())
    draws = Augmentation(random_resized_crop=[0.3, 0.8]).plan(6, (5, 5), draw(), read=(9, 9))
    assert torch.equal(apply(pixels, draws), apply(pixels.float() / 255, draws))
