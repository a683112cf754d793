"""The order in which images are visited, as lists of index tensors; a random one is a function of its generator."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled(indices: Tensor, batch: int, generator: torch.Generator) -> list[Tensor]:
    """One epoch: every one of `indices` (n,) once, in random order, in batches of `batch`.

    A last batch of one image joins the batch before it: batch norm cannot train on a single image.
    """
    order = torch.randperm(len(indices), generator=generator, device=generator.device).to(indices.device)
    indices = indices[order]
    batches = [indices[start : start + batch] for start in range(0, len(indices), batch)]
    if batch > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def batch_count(count: int, batch: int) -> int:
    """How many batches `shuffled` makes of `count` indices."""
    left_alone = count > batch > 1 and count % batch == 1
    return -(-count // batch) - left_alone


def in_order(count: int, batch: int) -> list[Tensor]:
    """The indices 0 to count - 1 in ascending order, in batches of `batch`; the last may be smaller."""
    return [torch.arange(start, min(start + batch, count)) for start in range(0, count, batch)]
