"""Sections `evaluate`, `certify` and `smoothing` of a recipe: what is measured on which test images."""

from __future__ import annotations

import math
from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, in_, lt, optional

from robustnas.recipe.key import key
from robustnas.threat import NORMS

MOST_RADII = 100
"""Each is a column of the table."""


@frozen
class Certify:
    """Section `certify`: certified margins at the recipe's threat, and certified radii."""

    method: Literal["ibp", "crown-ibp", "crown", "alpha-crown"] = key(
        "crown-ibp", "bound method: each tighter and dearer; the last two for small networks"
    )
    norms: list[str] = field(
        factory=lambda: ["linf", "l2"],
        metadata={"help": "norms of the certified radius, of linf, l2 and l1, or [] for none"},
    )
    radius_method: Literal["ibp", "crown-ibp", "crown", "alpha-crown"] | None = key(
        None, "bound method of the radii, which take about ten bounds an image; default method"
    )

    @radius_method.validator
    def _has_radii(self, attribute: object, radius_method: str | None) -> None:
        if radius_method is not None and not self.norms:
            raise ValueError(f"found {radius_method}, but norms: [] asks for no radius; norms: [linf] would do")

    images: int | None = key(None, "test images to certify, the first of those evaluated; default all", optional(ge(1)))
    batch: int = key(64, "images bounded at once", ge(1))

    @norms.validator
    def _known(self, attribute: object, norms: list[str]) -> None:
        for norm in norms:
            in_(NORMS)(self, attribute, norm)  # type: ignore[arg-type]
        if len(set(norms)) < len(norms):
            raise ValueError(f"found {len(norms)} norms, some of them twice; each once would do")


@frozen
class Smoothing:
    """Section `smoothing`: randomised smoothing as a second certificate (Cohen et al. 2019, arXiv:1902.02918).

    It certifies the smoothed classifier, which answers with the class the network gives most often under noise.
    """

    sigma: float = key(0.25, "standard deviation of the noise, in pixel units", gt(0.0))
    selection: int = key(100, "noisy copies of an image that choose the class", ge(1))
    samples: int = key(10_000, "further copies that bound how often the class is given", ge(1))

    @samples.validator
    def _enough(self, attribute: object, samples: int) -> None:
        if 0 < self.alpha < 1 and self.alpha ** (1 / max(samples, 1)) <= 0.5:
            least = math.floor(math.log2(1 / self.alpha)) + 1
            raise ValueError(
                f"found {samples}, which can certify no image at alpha {self.alpha:g}, not even if all are of one "
                f"class; at least {least} would do, and hundreds or more for radii of use"
            )

    alpha: float = key(0.001, "probability that a certificate is wrong", gt(0.0), lt(1.0))
    radii: list[float] = field(
        factory=lambda: [0.25, 0.5],
        metadata={
            "help": "l2 radii at which the certified accuracy of the smoothed classifier is shown",
            "identity": False,
        },
    )
    images: int | None = key(None, "test images to certify, the first of those evaluated; default all", optional(ge(1)))
    batch: int = key(1000, "noisy copies at once", ge(1))

    @radii.validator
    def _not_negative(self, attribute: object, radii: list[float]) -> None:
        _ascending(radii, "l2 radii")


@frozen
class Evaluate:
    """Section `evaluate`: which test images, how many at once, and which of them each attack is given."""

    images: int | None = key(None, "test images used; default all", optional(ge(1)))
    subset: Literal["balanced", "first"] = key(
        "balanced", "which, where not all: drawn with as many of each class as there can be, or the first of the split"
    )
    subset_seed: int = key(0, "seed of the draw; 100 images are among the 1000 of the same seed", ge(0))

    @subset_seed.validator
    def _drawn(self, attribute: object, subset_seed: int) -> None:
        if subset_seed and (self.images is None or self.subset == "first"):
            raise ValueError(
                f"found {subset_seed}, but nothing is drawn; images: 1000 beside it, with subset: balanced, would do"
            )

    batch: int = key(256, "images attacked at once", ge(1))
    attacked: Literal["survivors", "all"] = key(
        "survivors",
        "each attack is given the images that the attacks before it, from cheap to expensive, left standing; or all",
    )
    epsilons: list[float] = field(
        factory=list,
        metadata={"help": "further radii of a curve, in the threat's norm: attacks of the recipe's threat run at each"},
    )

    @epsilons.validator
    def _not_negative(self, attribute: object, epsilons: list[float]) -> None:
        _ascending(epsilons, "radii in pixel units")


def _ascending(radii: list[float], what: str) -> None:
    """Refuse radii that are not ascending or not above 0."""
    if len(radii) > MOST_RADII:
        raise ValueError(f"found {len(radii)} radii; at most {MOST_RADII} would do")
    if any(not radius > 0 for radius in radii) or sorted(set(radii)) != list(radii):
        raise ValueError(f"found {radii}; {what} above 0, from small to large, would do")
