"""Settings of certification: sections `certify` and `smoothing` of a recipe."""

from __future__ import annotations

import math
from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, in_, lt, optional

from robustnas.attack.settings import ascending_radii
from robustnas.options import option
from robustnas.threat import NORMS


def too_few(samples: int, alpha: float) -> str | None:
    """Say why so many samples certify nothing, where even unanimous ones leave a probability of 1/2 possible."""
    if alpha ** (1 / max(samples, 1)) > 0.5:
        return None
    least = math.floor(math.log2(1 / alpha)) + 1
    return (
        f"can certify no image at alpha {alpha:g}, not even if all are of one class; at least {least} would do, and "
        "hundreds or more for radii of use"
    )


@frozen
class Certify:
    """Section `certify`: certified margins at the recipe's threat, and certified radii."""

    method: Literal["ibp", "crown-ibp", "crown", "alpha-crown", "bab"] = option(
        "crown-ibp",
        "bound method: each tighter and dearer; crown and alpha-crown for small networks, bab to prove or refute",
    )
    norms: list[str] = field(
        factory=lambda: ["linf", "l2"],
        metadata={"help": "norms of the certified radius, of linf, l2 and l1, or [] for none"},
    )
    radius_method: Literal["ibp", "crown-ibp", "crown", "alpha-crown"] | None = option(
        None, "bound method of the radii, which take about ten bounds an image; default method, alpha-crown for bab"
    )
    seconds: float | None = option(None, "what bab may take of an image in seconds; default 30", optional(gt(0.0)))
    parts: int | None = option(
        None, "parts of an image's region that bab bounds at most; default 100000", optional(ge(1))
    )

    @radius_method.validator
    def _has_radii(self, attribute: object, radius_method: str | None) -> None:
        if radius_method is not None and not self.norms:
            raise ValueError(f"found {radius_method}, but norms: [] asks for no radius; norms: [linf] would do")

    @seconds.validator
    @parts.validator
    def _has_budget(self, attribute: object, found: float | None) -> None:
        if found is not None and self.method != "bab":
            raise ValueError(f"found {found:g}, but method {self.method} has no budget; method: bab would do")

    @property
    def of_radii(self) -> str:
        """The bound method of the radii."""
        return self.radius_method or ("alpha-crown" if self.method == "bab" else self.method)

    @property
    def budget(self) -> dict[str, float]:
        """What `bab` may spend on an image; nothing for the other methods."""
        if self.method != "bab":
            return {}
        return {"seconds": self.seconds or 30.0, "parts": self.parts or 100_000}

    images: int | None = option(
        None, "test images to certify, the first of those evaluated; default all", optional(ge(1))
    )
    batch: int = option(64, "images bounded at once", ge(1))
    epsilons: list[float] = field(
        factory=list,
        metadata={"help": "further radii, in the threat's norm, at which certified accuracy is shown; one bound each"},
    )

    @epsilons.validator
    def _not_negative(self, attribute: object, epsilons: list[float]) -> None:
        ascending_radii(epsilons, "radii in pixel units")

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

    sigma: float = option(0.25, "standard deviation of the noise, in pixel units", gt(0.0))
    selection: int = option(100, "noisy copies of an image that choose the class", ge(1))
    samples: int = option(10_000, "further copies that bound how often the class is given", ge(1))

    @samples.validator
    def _enough(self, attribute: object, samples: int) -> None:
        if 0 < self.alpha < 1 and (why := too_few(samples, self.alpha)):
            raise ValueError(f"found {samples}, which {why}")

    alpha: float = option(0.001, "probability that a certificate is wrong", gt(0.0), lt(1.0))
    radii: list[float] = field(
        factory=lambda: [0.25, 0.5],
        metadata={
            "help": "l2 radii at which the certified accuracy of the smoothed classifier is shown",
            "identity": False,
        },
    )
    images: int | None = option(
        None, "test images to certify, the first of those evaluated; default all", optional(ge(1))
    )
    batch: int = option(1000, "noisy copies at once", ge(1))

    @radii.validator
    def _not_negative(self, attribute: object, radii: list[float]) -> None:
        ascending_radii(radii, "l2 radii")
