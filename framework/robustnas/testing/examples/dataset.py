"""A dataset: drawn images, bright in one third."""

from __future__ import annotations

import torch
from attrs import frozen

from robustnas.data.images import InMemory
from robustnas.errors import DataError
from robustnas.options import option


@frozen
class Example:
    """Three classes of (1, 6, 6) images; say here where the images are from."""

    count: int = option(300, "images of each split", at_least=3)

    contract = 1
    shape = (1, 6, 6)
    classes = 3
    mean = (0.48,)
    std = (0.12,)

    def split(self, name: str) -> InMemory:
        """`"train"` or `"test"`: float32 images in [0, 1] and int64 labels, the same every time."""
        seeds = {"train": 0, "test": 1}
        if name not in seeds:
            raise DataError(f"example: no split {name!r}; train and test would do")
        generator = torch.Generator().manual_seed(seeds[name])
        labels = torch.arange(self.count) % self.classes
        images = 0.35 + 0.1 * torch.rand(self.count, *self.shape, generator=generator)
        for third in range(self.classes):
            images[labels == third, :, :, 2 * third : 2 * third + 2] += 0.25
        return InMemory(images, labels)
