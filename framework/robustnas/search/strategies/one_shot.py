"""One-shot search: the best of many drawn genotypes, judged on weights that all of them share.

    supernet  <- trained path by path, a random genotype a step; adversarially where the method's metric says so
    drawn genotypes -> the share that the metric ranks highest (the filter) -> fine-tuned, judged -> the best

With `metric: adversarial-training`, `epochs: 3` and a filter by `fsp` it is the search of RobNet, whose code was never
released: Guo et al. 2020, arXiv:1911.10695.  Sampling paths uniformly: Guo et al. 2020, arXiv:1904.00420.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from attrs import frozen
from attrs.validators import and_, gt, in_, le

from robustnas.contracts import Estimation, Genotype, SearchContext, sampler
from robustnas.options import option
from robustnas.search.strategies.judging import OneObjective, best


@frozen(kw_only=True)
class OneShot(OneObjective):
    """Keeps the best of many drawn genotypes on weights that all share; trained adversarially, RobNet's search."""

    network: Literal["inherited"] = option("inherited", "network of a candidate that is judged", in_(("inherited",)))
    candidates: int = option(50, "genotypes that are drawn", at_least=1)
    keep: float = option(
        1.0,
        "share of the genotypes that the method's metric ranks highest, which alone are fine-tuned and judged",
        and_(gt(0.0), le(1.0)),
    )

    needs = ("sample", "path")

    @keep.validator
    def _among_several(self, attribute: object, keep: float) -> None:
        if keep < 1 and self.candidates < 2:
            raise ValueError(f"found {keep:g} beside candidates: 1; there is nothing to choose among")

    @property
    def estimation(self) -> Estimation:
        """How those are judged that the filter keeps."""
        return self.judged([self.objective, *(["metric"] if self.keep < 1 and self.objective != "metric" else [])])

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Find the best genotype of those drawn.

        Raises:
            RunError: no candidate could be judged.
        """
        sample = sampler(context.space)
        assert sample is not None
        drawn = [sample(context.generator) for _ in range(self.candidates)]
        kept = self._filtered(drawn, context)
        how = self.judged([self.objective])
        genotype, figure = best(
            self.objective, [(genotype, context.estimate(genotype, how)[self.objective]) for genotype in kept]
        )
        return {"genotype": genotype, self.objective: figure, "filtered_out": len(drawn) - len(kept)}

    def _filtered(self, drawn: list[Genotype], context: SearchContext) -> list[Genotype]:
        """Those that the metric ranks highest on the shared weights as they are, in the order of their draws."""
        if self.keep == 1:
            return drawn
        how = Estimation(("metric",), "inherited", None, self.holdout)
        scores = [context.estimate(genotype, how)["metric"] for genotype in drawn]
        ranked = sorted(range(len(drawn)), key=lambda place: (math.isnan(scores[place]), -scores[place], place))
        return [drawn[place] for place in sorted(ranked[: max(1, round(self.keep * len(drawn)))])]
