"""Draws a genotype from a search space, with the space's own sampler."""

from __future__ import annotations

from robustnas.contracts import Genotype, SearchSpace, sampler
from robustnas.errors import InputError
from robustnas.runtime import seeding


def drawn(space: SearchSpace, seed: int) -> Genotype:
    """Draw a genotype uniformly from the space; the seed alone determines it.

    Raises:
        InputError: the space has no sampler.
    """
    sample = sampler(space)
    if sample is None:
        raise InputError(
            f"{type(space).__name__} has no `sample`, so none of its genotypes can be drawn; strategy: bilevel would do"
        )
    return sample(seeding.generator(seed, "search", "draw"))
