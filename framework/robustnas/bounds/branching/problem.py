"""The images that are verified, the intervals of their values, and parts of their regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import define, field, frozen
from torch import Tensor

from robustnas.bounds.propagation import Network
from robustnas.bounds.region import Region
from robustnas.bounds.settled import Interval


@frozen
class Split:
    """An entry whose sign a part of the region fixes.

    Args:
        place: of the value among those in front of nonlinearities (`robustnas.bounds.settled`).
        entry: of the value, counted through its dimensions.
        positive: whether the entry is at least 0 in the part, or at most 0.
    """

    place: int
    entry: int
    positive: bool

    @property
    def sign(self) -> float:
        """The s of s * z <= 0."""
        return -1.0 if self.positive else 1.0


@define(eq=False)
class Part:
    """A part of one image's region, for one margin.

    Args:
        image: its number.
        column: of the margin, among the classes without the true one.
        splits: what the part fixes.
        multipliers: b of each split, relative to what `bounding.py` measures them by.
        slopes: by rectifier, the slopes (1, ...) of the lower lines that its parent found best.
        bound: the largest lower bound of the margin that is known in it.
        choice: where to split it: place and entry; None where no rectifier is left.
        tries: how often it was bounded.
    """

    image: int
    column: int
    splits: tuple[Split, ...] = ()
    multipliers: tuple[float, ...] = ()
    slopes: dict[int, Tensor] = field(factory=dict)
    bound: float = -float("inf")
    choice: tuple[int, int] | None = None
    tries: int = 0

    def halves(self) -> tuple[Part, Part]:
        """Split it at its choice."""
        assert self.choice is not None
        return tuple(  # type: ignore[return-value]
            Part(
                self.image,
                self.column,
                (*self.splits, Split(*self.choice, positive)),
                (*self.multipliers, 0.0),
                self.slopes,
                self.bound,
            )
            for positive in (True, False)
        )


@frozen(eq=False)
class Problem:
    """What is to be proved.

    Args:
        network: (N, ...) images -> (N, K) logits.
        images: (N, ...) in [0, 1].
        norm: of the threat.
        epsilon: (N,) radii, pixel units.
        functions: (N, K - 1, K) the margins as linear functions of the logits.
        settled: the intervals in front of nonlinearities over the whole region, (N, ...) by place.
    """

    network: Network
    images: Tensor
    norm: str
    epsilon: Tensor
    functions: Tensor
    settled: Sequence[Interval]

    def intervals(self, parts: Sequence[Part]) -> list[Interval]:
        """The intervals over parts of the regions, (D, ...) by place: those of the region, cut at 0 where split."""
        images = self.numbers(parts)
        cut = [(lower[images], upper[images]) for lower, upper in self.settled]
        for row, part in enumerate(parts):
            for split in part.splits:
                lower, upper = (end.view(len(parts), -1) for end in cut[split.place])
                if split.positive:
                    lower[row, split.entry].clamp_(min=0.0)
                    upper[row, split.entry].clamp_(min=0.0)
                else:
                    upper[row, split.entry].clamp_(max=0.0)
                    lower[row, split.entry].clamp_(max=0.0)
        return cut

    def region(self, parts: Sequence[Part]) -> Region:
        """The whole region of each part's image."""
        images = self.numbers(parts)
        return Region(self.images[images], self.norm, self.epsilon[images])

    def numbers(self, parts: Sequence[Part]) -> Tensor:
        """The number of each part's image, (D,)."""
        return torch.tensor([part.image for part in parts], device=self.images.device)

    def margins(self, parts: Sequence[Part]) -> Tensor:
        """The linear function of the logits that each part bounds, (D, 1, K)."""
        columns = torch.tensor([part.column for part in parts], device=self.images.device)
        return self.functions[self.numbers(parts), columns][:, None]
