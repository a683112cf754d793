"""Finds the size of a discrete network that comes closest to a capacity: so many weights, or so many multiply-adds.

Weights rise with channels, so their number is bracketed.  Networks are built and run on the meta device, which holds
no weights and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count as count_from
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustnas.contracts import Dataset, Genotype, Resizable, SearchSpace, Shape
from robustnas.errors import InputError, OptionError
from robustnas.nn import fast
from robustnas.nn.cells import FactorizedReduce
from robustnas.train.settings import Match

FAR = 0.5
"""A network whose capacity is farther from the target than this share of it is no match."""

MOST_CHANNELS = 1 << 16
"""No network has more."""

GUESSES = 4
"""So often a number of channels is guessed from the capacity of the last one."""

_RELU = torch.ops.aten.relu.default
_NORMS = (torch.ops.aten.native_batch_norm.default, torch.ops.aten._native_batch_norm_legit_no_training.default)
"""What torch computes on the meta device in Python, operation by operation, which is most of the time of a pass."""


def count(network: nn.Module) -> int:
    """Count the trainable weights of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def parameters(space: SearchSpace, genotype: Genotype, dataset: Dataset) -> int:
    """Count the trainable weights of the network without its auxiliary head; allocates nothing."""
    with torch.device("meta"):
        network = space.network(genotype, dataset.shape, dataset.classes, auxiliary=False)
    return count(network)


class _Counting(TorchDispatchMode):
    """Adds up the multiply-adds of what is computed inside, by the formulas of torch's own counter."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from torch.utils.flop_counter import flop_registry

        kwargs = kwargs or {}
        if func is _RELU:
            return torch.empty_like(args[0])
        if func in _NORMS:
            return torch.empty_like(args[0]), args[3], args[4]
        computed = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.found += int(formula(*args, **kwargs, out_val=computed)) // 2
        return computed


def multiply_adds(network: nn.Module, shape: Shape) -> int:
    """Count the multiply-adds of a network on the meta device for one image: those of convolutions and matrix products.

    Padding counts as pixels do, as in the literature of the DARTS family; batch norm, poolings and sums do not count,
    nor do the row and column that a `FactorizedReduce` computes and cuts off.
    """
    cut_off: list[int] = []

    def cut(layer: nn.Module, given: tuple[Tensor, ...], computed: Tensor) -> None:
        rows, columns = computed.shape[2:]
        cut_off.append((rows + columns - 1) * given[0].shape[1] * computed.shape[1])

    network.eval()
    counting = _Counting()
    hooks = [part.odd.register_forward_hook(cut) for part in network.modules() if isinstance(part, FactorizedReduce)]
    try:
        with torch.no_grad(), fast.plain(), counting:
            network(torch.empty(1, *shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return counting.found - sum(cut_off)


@frozen
class Matched:
    """A search space with its discrete networks in the size that comes closest to a capacity.

    Args:
        space: in that size.
        kind: what is matched, `parameters` or `multiply_adds`.
        target: how many of them are wanted.
        found: how many the network of the genotype has.
    """

    space: SearchSpace
    kind: str
    target: int
    found: int

    @property
    def size(self) -> tuple[int, int]:
        """Channels and cells."""
        assert isinstance(self.space, Resizable)
        return self.space.size

    def record(self) -> dict[str, Any]:
        """The size and what was matched, as plain data: what the result of a training holds."""
        channels, cells = self.size
        match = {"kind": self.kind, "target": self.target, "found": self.found}
        return {"size": {"channels": channels, "cells": cells}, "match": match}


def matched(space: SearchSpace, genotype: Genotype, dataset: Dataset, match: Match) -> Matched:
    """Find the size, as `closest` does, and refuse one whose capacity is far from the target.

    Raises:
        InputError: as `closest`; or the closest network's capacity is more than `FAR` of the target away.
    """
    found = closest(space, genotype, dataset, match)
    if abs(found.found - found.target) > FAR * found.target:
        kind, (channels, cells) = found.kind, found.size
        raise InputError(
            f"train.match: {found.target:,} {kind} are out of reach: the closest network of this genotype, "
            f"{channels} channels and {cells} cells, has {found.found:,}; {kind}: {found.found}, or other cells "
            "(match.cells), would do"
        )
    return found


def closest(space: SearchSpace, genotype: Genotype, dataset: Dataset, match: Match) -> Matched:
    """Find the channels, and the cells among those of `match`, with which a genotype's network comes closest.

    Among equals the earlier number of cells wins, and fewer channels.

    Raises:
        InputError: networks of the space have one size, or none with so many cells.
    """
    if not isinstance(space, Resizable):
        raise InputError(
            f"train.match: networks of {type(space).__name__} have one size (it has no `sized`); match left out would "
            "do, or a space that has it"
        )
    kind, target = match.target
    refusals: list[Exception] = []

    def capacity(sized: SearchSpace) -> int:
        if kind == "parameters":
            return parameters(sized, genotype, dataset)
        with torch.device("meta"):
            network = sized.network(genotype, dataset.shape, dataset.classes)
        return multiply_adds(network, dataset.shape)

    start, own = space.size
    found: list[Matched] = []
    for cells in match.cells or [own]:

        @cache
        def at(channels: int, cells: int = cells) -> Matched | None:
            """The space with so many channels; None where it has no such networks."""
            try:
                sized = space.sized(channels, cells)
            except (ValueError, OptionError) as refusal:
                refusals.append(refusal)
                return None
            return Matched(sized, kind, target, capacity(sized))

        found += [one for channels in _bracket(at, start, target) if (one := at(channels)) is not None]
    if not found:
        raise InputError(f"train.match: {refusals[0]}") from refusals[0]
    return min(found, key=lambda one: abs(one.found - target))


def _bracket(at: Callable[[int], Matched | None], start: int, target: int) -> tuple[int, ...]:
    """The numbers of channels on both sides of the target, next to each other.

    Capacities rise about with the square of the channels, which tells where to look first; where that misses, the rest
    is doubled or halved.

    Args:
        start: channels that there are networks of: fewer may be too few, more too many.
    """

    def reaches(channels: int) -> bool:
        found = at(channels) if channels <= MOST_CHANNELS else None
        return channels > start if found is None else found.found >= target

    low, high, tried = 0, 0, start
    for look in count_from(0):
        if reaches(tried):
            high = tried
        else:
            low = tried
        if high - low == 1:
            break
        found = at(tried) if tried <= MOST_CHANNELS else None
        guess = 0 if found is None or found.found < 1 else round(tried * (target / found.found) ** 0.5)
        if guess == tried:
            guess = tried - 1 if high == tried else tried + 1
        if look >= GUESSES or guess <= low or 0 < high <= guess:
            guess = (low + high) // 2 if high else 2 * low
        tried = guess
    return tuple(channels for channels in (low, high) if 0 < channels <= MOST_CHANNELS)
