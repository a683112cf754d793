"""The generator that tests of data draw from."""

import torch


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
