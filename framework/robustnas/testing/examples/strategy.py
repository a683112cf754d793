"""A strategy: hill climbing over the decisions of a genotype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen

from robustnas.contracts import Estimation, SearchContext, decisions
from robustnas.options import option


@frozen
class Example:
    """Changes one decision, and keeps the change where it is better; name the paper and its arXiv number here."""

    candidates: int = option(8, "genotypes that are judged", at_least=1)

    contract = 1
    needs = ("decisions",)  # of the search space

    @property
    def estimation(self) -> Estimation:
        """How candidates are judged: trained for two epochs, and attacked."""
        return Estimation(("robust",), "trained", epochs=2)

    def search(self, context: SearchContext) -> Mapping[str, Any]:
        """Begin at a random genotype; the framework trains, judges, remembers and goes on after a stop."""
        counts, decide = decisions(context.space)  # type: ignore[misc]

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=context.generator))

        best = [below(count) for count in counts]
        robust = context.estimate(decide(best), self.estimation)["robust"]
        for _ in range(self.candidates - 1):
            place = below(len(counts))
            other = [*best[:place], below(counts[place]), *best[place + 1 :]]
            found = context.estimate(decide(other), self.estimation)["robust"]
            if not robust >= found:  # also where the best so far could not be judged
                best, robust = other, found
        return {"genotype": decide(best), "robust": robust}
