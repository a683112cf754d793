"""Draws a genotype from a search space, with the space's own sampler."""

from __future__ import annotations

import torch

from robustnas.contracts import Dataset, Genotype, SearchSpace, sampler
from robustnas.errors import InputError, RunError
from robustnas.runtime import seeding
from robustnas.runtime.strangers import described


def drawn(space: SearchSpace, dataset: Dataset, seed: int) -> Genotype:
    """Draw a genotype uniformly from the space; the seed alone determines it.

    Args:
        dataset: the drawn network is built for its images once, which holds no weights.

    Raises:
        InputError: the space has no sampler.
        RunError: the space cannot build what its sampler drew.
    """
    sample, name = sampler(space), type(space).__name__
    if sample is None:
        raise InputError(f"{name} has no `sample`, so none of its genotypes can be drawn; strategy: bilevel would do")
    genotype = sample(seeding.generator(seed, "search", "draw"))
    try:
        with torch.device("meta"):
            space.network(genotype, dataset.shape, dataset.classes)
    except Exception as fault:  # whatever somebody's space raises
        told = f"{name}.sample drew {genotype!r:.200}, which {name} cannot build: {described(fault)}"
        raise RunError(f"{told}; another space, or strategy: bilevel, would do") from fault
    return genotype
