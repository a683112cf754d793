"""The training images in two parts: one moves w, the other alpha."""

from __future__ import annotations

import torch
from torch import Tensor

from robustnas.data.batches import check_fit
from robustnas.data.order import shuffled
from robustnas.data.stratified import halves, lacking
from robustnas.errors import DataError
from robustnas.runtime import seeding
from robustnas.runtime.processes import Processes
from robustnas.search.settings import Search


def divided(labels: Tensor, settings: Search, seed: int, processes: Processes) -> tuple[Tensor, Tensor]:
    """Divide the training images into those that move w and those that move alpha: (n,) int64 each, of every class.

    Args:
        labels: (N,) int64, of the training images.
        settings: of the search.
        seed: of the method.
        processes: the processes that share each batch.

    Raises:
        DataError: a part has fewer than two images.
        InputError: the processes cannot share the batches.
    """
    parts = halves(labels, settings.train_share, seeding.generator(seed, "search", "halves"))
    if min(len(part) for part in parts) < 2:
        raise DataError(
            f"search.train_share {settings.train_share:g} splits {len(labels)} training images into "
            f"{len(parts[0])} and {len(parts[1])}: each half needs at least 2"
        )
    for part in parts:
        order = shuffled(part, settings.batch, torch.Generator())
        check_fit(order, settings.batch, settings.accumulate, processes, "search")
    return parts


def notes(labels: Tensor, parts: tuple[Tensor, Tensor]) -> list[str]:
    """Note classes that one of the two levels does not see."""
    return [
        *lacking(labels, parts[0], "the images that move w"),
        *lacking(labels, parts[1], "the images that move alpha"),
    ]
