"""Settings of evaluation: section `evaluate` of a recipe, which test images attacks are given, and at which radii."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, optional

from robustnas.options import option

MOST_RADII = 100
"""A recipe has at most so many further radii, because each becomes a column of the table."""


@frozen
class Evaluate:
    """Section `evaluate`: which test images, how many at once, and which of them each attack is given."""

    images: int | None = option(None, "test images used; default all", optional(ge(1)))
    subset: Literal["balanced", "first"] = option(
        "balanced", "which, where not all: drawn with as many of each class as there can be, or the first of the split"
    )
    subset_seed: int = option(0, "seed of the draw; 100 images are among the 1000 of the same seed", ge(0))

    @subset_seed.validator
    def _drawn(self, attribute: object, subset_seed: int) -> None:
        if subset_seed and (self.images is None or self.subset == "first"):
            raise ValueError(
                f"found {subset_seed}, but nothing is drawn; images: 1000 beside it, with subset: balanced, would do"
            )

    batch: int = option(256, "images attacked at once", ge(1))
    attacked: Literal["survivors", "all"] = option(
        "survivors",
        "each attack is given the images that the attacks before it, from cheap to expensive, left standing; or all",
    )
    epsilons: list[float] = field(
        factory=list,
        metadata={"help": "further radii of a curve, in the threat's norm: attacks of the recipe's threat run at each"},
    )

    @epsilons.validator
    def _not_negative(self, attribute: object, epsilons: list[float]) -> None:
        ascending_radii(epsilons, "radii in pixel units")


def ascending_radii(radii: list[float], what: str) -> None:
    """Refuse radii that are not ascending or not above 0."""
    if len(radii) > MOST_RADII:
        raise ValueError(f"found {len(radii)} radii; at most {MOST_RADII} would do")
    if any(not radius > 0 for radius in radii) or sorted(set(radii)) != list(radii):
        raise ValueError(f"found {radii}; {what} above 0, from small to large, would do")
