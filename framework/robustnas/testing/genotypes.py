"""The promises of the genotypes that a search space draws and lists, where it does."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import torch

from robustnas.contracts import Genotype, enumeration, sampler
from robustnas.testing.discrete_network import require_plain
from robustnas.testing.module import Bench

DRAWS = 8
"""Genotypes that are drawn from a seed."""

LISTED = 16
"""Genotypes of a list that are built, evenly spaced over it."""

MOST = 1_000_000
"""A list of more genotypes is none that anybody goes through."""


def check_sampler(bench: Bench) -> list[Genotype]:
    """Return some draws of `sample`; require that they build and that the generator alone decides them."""
    sample, verdict = sampler(bench.space), bench.verdict
    if sample is None:
        return []

    def drawn(seed: int) -> list[Genotype]:
        generator = torch.Generator().manual_seed(seed)
        with verdict.promised("sample(generator) draws a genotype"):
            return [sample(generator) for _ in range(DRAWS)]

    before = _global_generators()
    found = drawn(bench.seed)
    verdict.require(
        _global_generators() == before,
        "sample leaves the global generators of torch, NumPy and Python alone",
        "one of them has moved",
    )
    _require_built(bench, found, "a drawn genotype")
    torch.rand(1)
    verdict.require(found == drawn(bench.seed), "the generator alone decides what sample draws", "one seed, two draws")
    several = enumeration(bench.space) is None or len(_all(bench)) > 1
    verdict.require(
        not several or any(found != drawn(bench.seed + other) for other in (1, 2, 3)),
        "sample draws with the generator",
        f"four seeds all give {str(found[0])[:80]}",
    )
    return found


def check_enumeration(bench: Bench, drawn: Iterable[Genotype]) -> None:
    """Require that `genotypes()` lists each genotype once, in one order, and all that were drawn; some are built."""
    if enumeration(bench.space) is None:
        return
    verdict, listed = bench.verdict, _all(bench)
    verdict.require(bool(listed), "genotypes() lists the genotypes of the space", "it lists none")
    verdict.require(len(listed) <= MOST, f"genotypes() lists at most {MOST:,} genotypes", "it goes on")
    texts = [json.dumps(genotype, sort_keys=True) for genotype in listed]
    verdict.require(len({*texts}) == len(texts), "genotypes() lists each genotype once", "some are there twice")
    verdict.require(_all(bench) == listed, "genotypes() lists them in one order", "two calls, two orders")
    _require_built(bench, listed[:: -(-len(listed) // LISTED)], "a listed genotype")
    missing = [genotype for genotype in drawn if json.dumps(genotype, sort_keys=True) not in {*texts}]
    verdict.require(not missing, "genotypes() lists what sample draws", f"{str(missing[:1])[:80]} is not there")


def _global_generators() -> tuple[bytes, ...]:
    """The states of the generators that draws must not come from."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), pickle.dumps(random.getstate())


def _all(bench: Bench) -> list[Genotype]:
    """Everything that `genotypes()` lists, up to one more than it may."""
    listing: Callable[[], Iterable[Genotype]] | None = enumeration(bench.space)
    assert listing is not None
    with bench.verdict.promised("genotypes() lists the genotypes of the space"):
        return list(islice(listing(), MOST + 1))


def _require_built(bench: Bench, genotypes: Iterable[Genotype], what: str) -> None:
    """Require plain data that networks are built from, on the meta device, which holds no weights."""
    for genotype in genotypes:
        require_plain(genotype, what, bench.verdict)
        with bench.verdict.promised(f"{what} builds"), torch.device("meta"):
            bench.space.network(genotype, bench.shape, bench.classes)
