"""The promises of what a search space may have beside its networks: sampler, decisions, genotypes, sizes, paths."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustnas.contracts import Genotype, Resizable, decisions, enumeration, path_of, sampler
from robustnas.nn.cells import SinglePath
from robustnas.testing.discrete_network import require_plain
from robustnas.testing.module import Bench
from robustnas.testing.promise import close
from robustnas.train.capacity import count

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
        with verdict.promised("sample draws a genotype"):
            return [sample(generator) for _ in range(DRAWS)]

    before = _global_generators()
    found = drawn(bench.seed)
    verdict.expect(
        _global_generators() == before,
        "sample leaves the global generators of torch, NumPy and Python alone",
        "one of them has moved",
    )
    _require_built(bench, found, "sample draws a genotype that")
    torch.rand(1)
    verdict.expect(found == drawn(bench.seed), "sample draws what the generator alone decides", "one seed, two draws")
    several = enumeration(bench.space) is None or len(_all(bench)) > 1
    verdict.expect(
        not several or any(found != drawn(bench.seed + other) for other in (1, 2, 3)),
        "sample draws with the generator",
        f"four seeds all give {str(found[0])[:80]}",
    )
    return found


def check_decisions(bench: Bench) -> None:
    """Require that options, whichever, make genotypes that build, and that each decision counts for something."""
    found, verdict = decisions(bench.space), bench.verdict
    if found is None:
        return
    counts, decide = found
    promise = "decisions holds the number of options of each decision"
    with verdict.promised(promise):
        counts = [int(several) for several in counts]
    verdict.require(bool(counts) and min(counts, default=0) >= 1, promise, f"found {counts}")
    generator = torch.Generator().manual_seed(bench.seed)

    def made(options: list[int]) -> Genotype:
        with verdict.promised("decide makes a genotype of one option a decision"):
            return decide(tuple(options))

    ends = [[0] * len(counts), [several - 1 for several in counts]]
    drawn = [[int(torch.randint(several, (), generator=generator)) for several in counts] for _ in range(DRAWS)]
    _require_built(bench, [made(options) for options in (*ends, *drawn)], "decide makes a genotype that")
    options = drawn[0]
    verdict.expect(made(options) == made(options), "decide depends on the options alone", "two calls, two genotypes")
    for place, several in enumerate(counts):
        other = [*options]
        other[place] = (options[place] + 1) % several
        verdict.expect(
            several == 1 or made(other) != made(options),
            "decide makes another genotype of another option",
            f"decision {place} of {len(counts)} does not, at the options {options}",
        )


def check_enumeration(bench: Bench, drawn: Iterable[Genotype]) -> None:
    """Require that `genotypes()` lists each genotype once, in one order, and all that were drawn; some are built."""
    if enumeration(bench.space) is None:
        return
    verdict, listed = bench.verdict, _all(bench)
    verdict.require(bool(listed), "genotypes lists the genotypes of the space", "it lists none")
    verdict.require(len(listed) <= MOST, "genotypes lists so many that one can go through them", f"over {MOST:,}")
    texts = [json.dumps(genotype, sort_keys=True) for genotype in listed]
    verdict.expect(len({*texts}) == len(texts), "genotypes lists each genotype once", "some are there twice")
    verdict.expect(_all(bench) == listed, "genotypes lists them in one order", "two calls, two orders")
    with verdict.apart():
        _require_built(bench, listed[:: -(-len(listed) // LISTED)], "genotypes lists a genotype that")
    missing = [genotype for genotype in drawn if json.dumps(genotype, sort_keys=True) not in {*texts}]
    verdict.expect(not missing, "genotypes lists what sample draws", f"{str(missing[:1])[:80]} is not there")


def check_sizes(bench: Bench, genotype: Genotype) -> None:
    """Require that `sized` gives the space with networks of that size, whose weights rise with channels."""
    space, verdict = bench.space, bench.verdict
    if not isinstance(space, Resizable):
        return
    with verdict.promised("size is the channels and the cells of the discrete networks"):
        channels, cells = space.size
    counts = []
    for wanted in (channels, channels + 1, 2 * channels + 1):
        with verdict.promised("sized is the space with networks of that size", f"sized({wanted}, {cells})"):
            other: Any = space.sized(wanted, cells)
            found = tuple(other.size)
            with torch.device("meta"):
                counts.append(count(other.network(genotype, bench.shape, bench.classes)))
        asked = f"{found} for sized({wanted}, {cells})"
        verdict.expect(found == (wanted, cells), "sized gives the size that is asked for", asked)
    verdict.expect(counts == sorted({*counts}), "size is such that weights rise with channels", f"{counts}")
    with torch.device("meta"):
        own = count(space.network(genotype, bench.shape, bench.classes))
    verdict.expect(counts[0] == own, "size is that of the space's own networks", f"{own} weights and {counts[0]}")
    verdict.refuses("sized refuses 0 channels with a ValueError", ValueError, lambda: space.sized(0, cells))


def check_paths(
    bench: Bench, genotypes: Iterable[Genotype], supernet: Any, mixed: Callable[[dict[str, Tensor]], Any]
) -> None:
    """Require paths of one-hot rows that the supernet mixes with, and whose genotype is the one that they are of.

    Args:
        genotypes: as searches end with them: the space's rule gives each back.
        mixed: makes a supernet with these mixing weights.
    """
    path, verdict = path_of(bench.space), bench.verdict
    if path is None:
        return
    promise = "path gives one-hot rows by the names and shapes of alpha"
    supernet.eval()
    for genotype in genotypes:
        with verdict.promised(promise):
            before = _global_generators()
            found, again = path(genotype), path(genotype)
            shapes = {name: tuple(rows.shape) for name, rows in found.items()}
        expected = {name: tuple(table.shape) for name, table in supernet.alpha.items()}
        verdict.require(shapes == expected, promise, f"{shapes}, where alpha has {expected}")
        one_hot = all(_one_hot(rows) for rows in found.values())
        verdict.require(one_hot, promise, f"{str(genotype)[:80]} has rows that are not")
        verdict.require(
            _global_generators() == before and all(torch.equal(rows, again[name]) for name, rows in found.items()),
            "path depends on its genotype alone",
            "two calls give two paths, or draw random numbers",
        )
        back = bench.space.genotype(mixed(found))
        verdict.expect(
            back == genotype, "path stands for its genotype", f"{str(genotype)[:80]} came back as {str(back)[:80]}"
        )
        told = "path serves the supernet as columns as it does as weights"
        with torch.no_grad(), verdict.promised(told):
            plain, single = (supernet(bench.images, mixing=weights) for weights in (found, SinglePath(found)))
        verdict.expect(close(plain, single), told, "the columns give other logits than the weights")


def _one_hot(rows: Tensor) -> bool:
    """Whether every row has a single 1 and zeros beside it."""
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(dim=1) == 1).all())


def _global_generators() -> tuple[bytes, ...]:
    """The states of the generators that draws must not come from."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), pickle.dumps(random.getstate())


def _all(bench: Bench) -> list[Genotype]:
    """Everything that `genotypes()` lists, up to one more than it may."""
    listing: Callable[[], Iterable[Genotype]] | None = enumeration(bench.space)
    assert listing is not None
    with bench.verdict.promised("genotypes lists the genotypes of the space"):
        return list(islice(listing(), MOST + 1))


def _require_built(bench: Bench, genotypes: Iterable[Genotype], what: str) -> None:
    """Require plain data that networks are built from, on the meta device, which holds no weights."""
    for genotype in genotypes:
        require_plain(genotype, what, bench.verdict)
        with bench.verdict.promised(f"{what} builds"), torch.device("meta"):
            bench.space.network(genotype, bench.shape, bench.classes)
