"""The codes that RobNet published, and the size of the network that each was published in.

The codes are those of github.com/gmh14/RobNets, `architecture_code.py`, commit 0fbcb03.  Sizes are counted with this
code; a test counts them again, and finds the published 5.440, 6.843 and 33.33 million weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen

from robustnas.genotype import gate_codes
from robustnas.genotype.reference import Reference

LARGE = ("11 11 11 11 11 01 11 01 10 11 01 01 01 11",)

FREE = (
    "11 10 11 11 10 11 01 01 10 11 11 00 11 01",
    "11 00 01 10 01 00 10 10 00 01 11 10 11 00",
    "11 11 11 01 01 11 01 00 10 00 10 10 00 11",
    "10 11 10 01 01 10 10 01 10 11 00 00 01 10",
    "11 11 01 00 10 10 10 01 10 01 00 10 01 11",
    "11 10 11 11 11 01 10 11 00 10 01 11 01 11",
    "11 11 11 10 10 01 11 10 01 10 10 10 01 10",
    "01 11 11 11 01 11 11 11 01 11 01 11 10 00",
    "11 11 11 11 11 01 01 11 10 01 00 10 01 11",
    "10 11 01 00 11 11 10 11 01 11 11 11 11 00",
    "11 10 11 00 00 00 11 00 01 10 00 01 10 11",
    "01 11 01 11 11 10 10 11 10 11 01 11 10 00",
    "11 11 10 10 01 00 10 11 11 01 10 10 00 01",
    "01 11 11 11 01 01 11 01 01 11 11 01 10 10",
    "01 11 11 11 11 01 00 01 10 10 11 10 10 11",
    "11 11 00 11 11 01 00 01 10 00 11 01 11 11",
    "11 11 01 11 11 10 11 10 10 10 10 10 11 11",
    "10 11 01 11 11 01 11 00 11 11 00 10 00 01",
    "11 10 11 11 11 11 11 10 11 00 11 01 11 11",
    "11 11 01 01 11 11 01 00 00 10 00 01 01 11",
)


@frozen
class Published:
    """Holds a code with its size: channels of the first cell, cells, weights, multiply-adds of an image of 32x32."""

    name: str
    cells: tuple[str, ...]
    channels: int
    depth: int
    parameters: int
    multiply_adds: int
    notes: str = ""

    @property
    def genotype(self) -> dict[str, Any]:
        """As plain data."""
        return gate_codes.write([codes.split() for codes in self.cells])

    @property
    def reference(self) -> Reference:
        """Where it comes from."""
        variable = self.name.lower().replace("-", "_")
        return Reference(
            paper="Guo et al. CVPR 2020 (arXiv 1911.10695)",
            code=f"github.com/gmh14/RobNets, architecture_code.py, {variable}, commit 0fbcb03",
            sought="robustness, in RobNet, on CIFAR-10",
            size=f"{self.channels} channels, {self.depth} cells, 3x32x32 pixels, 10 classes",
            parameters=self.parameters,
            multiply_adds=self.multiply_adds,
            notes=self.notes,
        )


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        one.name: one
        for one in (
            Published("RobNet-free", FREE, 36, 20, 5_439_790, 780_177_024, "cell-free: every cell has its own code"),
            Published("RobNet-large-v1", LARGE, 36, 20, 6_842_710, 1_030_336_128),
            Published(
                "RobNet-large-v2",
                LARGE,
                64,
                33,
                33_326_666,
                5_094_615_040,
                "the code of RobNet-large-v1 in a larger network",
            ),
        )
    }
)
"""By the names of the repository."""
