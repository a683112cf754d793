"""Supernet and discrete network of every space of ours, as small as they come, for images of one channel and three."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from robustnas.contracts import Shape
from robustnas.nn.normalize import PixelNetwork, PixelSupernet
from robustnas.registry import SEARCH_SPACES

SMALL = {
    "darts": {"cells": 1, "channels": 4, "network_cells": 1, "network_channels": 4},
    "pc-darts": {"cells": 1, "channels": 4, "network_cells": 1, "network_channels": 4},
    "nas-bench-201": {"cells": 1, "channels": 2, "network_cells": 1, "network_channels": 2},
    "chain": {"blocks": 2, "channels": 2, "network_channels": 2},
}
SLOWER = {
    "darts-s1": {"cells": 1, "channels": 4, "network_cells": 1, "network_channels": 4},
    "robnet": {"cells": 3, "channels": 4, "network_cells": 3, "network_channels": 4},
}

EVERY_SPACE = [
    pytest.param(name, shape, marks=[pytest.mark.slow] * (name in SLOWER or shape != (1, 8, 8)))
    for name in (*SMALL, *SLOWER)
    for shape in ((1, 8, 8), (3, 9, 7))
]
"""Names of spaces, each with shapes of images."""


def small_networks(name: str, shape: Shape) -> Iterator[nn.Module]:
    """The supernet of a space, and the network of a genotype drawn from it, both of pixels, for three classes."""
    space, moments = SEARCH_SPACES.load(name)(**(SMALL | SLOWER)[name]), ((0.4,) * shape[0], (0.25,) * shape[0])
    genotype = space.sample(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    yield PixelSupernet(space.supernet(shape, 3), *moments)
    yield PixelNetwork(space.network(genotype, shape, 3), *moments)
