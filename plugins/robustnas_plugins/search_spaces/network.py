"""The discrete network of the DARTS space: a stem, the cells of a genotype, global pooling, a linear layer.

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, the CIFAR and the ImageNet network.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.errors import InputError
from robustnas.genotype import Genotype
from robustnas.nn.cells import DiscreteCell, OpTable
from robustnas_plugins.search_spaces.places import places
from robustnas_plugins.search_spaces.stems import CifarStem, ImageNetStem


class AuxiliaryHead(nn.Module):
    """A second classifier, fed from two thirds of the depth: (N, C, H, W) -> (N, K) logits.

    The published head pools 5x5 windows (stride 3 for CIFAR, 2 for ImageNet) to 2x2.  That is what it does to
    every map for which those windows give 2x2 (8x8 of CIFAR, 7x7 of ImageNet among them); any other map, down
    to one pixel, is averaged to 2x2 adaptively, so that the head has the same weights for every image size.

    Args:
        in_channels: channels of the map it reads.
        classes: number of classes.
        stride: of the pooling windows.
        last_norm: batch norm after the second convolution; the published ImageNet head has none.
    """

    def __init__(self, in_channels: int, classes: int, stride: int, last_norm: bool):
        super().__init__()
        self.stride = stride
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768) if last_norm else nn.Identity(),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        published = all(size >= 5 and (size - 5) // self.stride == 1 for size in x.shape[-2:])
        pooled = F.avg_pool2d(x, 5, self.stride) if published else F.adaptive_avg_pool2d(x, 2)
        logits: Tensor = self.classifier(self.layers(pooled).flatten(1))
        return logits


class DiscreteNetwork(nn.Module):
    """The network of a genotype: (N, C, H, W) -> (N, K) logits.

    `drop_path` is the probability of dropping an operation's output for an image, in training mode only;
    training sets it each epoch.  Identities are not dropped.

    Args:
        genotype: what the cells keep.
        table: the operations.
        in_channels: channels of an image.
        classes: number of classes.
        cells: number of cells.
        channels: channels of the first cell's nodes; a reduction cell doubles them.
        form: `cifar`, or `imagenet` with a stem that divides the size by eight.
        auxiliary: with an auxiliary head.
        affine: whether the batch norms of preprocessing have scale and shift.

    Raises:
        InputError: the genotype has an operation that the table does not know.
    """

    def __init__(
        self,
        genotype: Genotype,
        table: OpTable,
        in_channels: int,
        classes: int,
        cells: int,
        channels: int,
        form: str = "cifar",
        auxiliary: bool = False,
        affine: bool = True,
    ):
        super().__init__()
        self.drop_path = 0.0
        imagenet = form == "imagenet"
        self.stem = (ImageNetStem if imagenet else CifarStem)(in_channels, channels)
        found = places(self.stem, cells, channels, lambda reduction: len(genotype.cell(reduction)[1]))
        self.auxiliary_after = 2 * cells // 3
        self.auxiliary: AuxiliaryHead | None = None
        self.cells = nn.ModuleList()
        for index, place in enumerate(found):
            cell = DiscreteCell(
                table,
                *genotype.cell(place.reduction),
                place.in_channels,
                place.channels,
                reduction=place.reduction,
                halve_first=place.halve_first,
                affine=affine,
                entered=genotype.entered(place.reduction),
            )
            self.cells.append(cell)
            if auxiliary and index == self.auxiliary_after:
                self.auxiliary = AuxiliaryHead(
                    place.out_channels, classes, 2 if imagenet else 3, last_norm=not imagenet
                )
        self.classifier = nn.Linear(found[-1].out_channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images)[0]

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the network and of its auxiliary head, (N, K) both.

        Raises:
            InputError: the network was built without an auxiliary head.
        """
        if self.auxiliary is None:
            raise InputError("this network has no auxiliary head; build it with auxiliary=True")
        logits, middle = self._run(images)
        return logits, self.auxiliary(middle)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the map that the auxiliary head reads."""
        first, second = self.stem(images)
        middle = second
        for index, cell in enumerate(self.cells):
            first, second = second, cell(first, second, self.drop_path)
            if index == self.auxiliary_after:
                middle = second
        return self.classifier(F.adaptive_avg_pool2d(second, 1).flatten(1)), middle
