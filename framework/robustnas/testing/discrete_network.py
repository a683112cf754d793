"""The promises of a search space's genotypes and of its discrete networks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustnas.contracts import Genotype
from robustnas.contracts import published as published_by
from robustnas.contracts import references as references_of
from robustnas.errors import InputError
from robustnas.genotype.reference import Reference
from robustnas.runtime.seeding import reseed
from robustnas.testing.module import Bench
from robustnas.testing.promise import Judge, close
from robustnas.threat import NORMS


def check_networks(bench: Bench, genotypes: list[Genotype], methods: Sequence[str]) -> None:
    """Require that networks of a few genotypes build, treat each image alone, drop paths and have bounds."""
    dropped: list[bool] = []
    for genotype in genotypes:
        make = partial(bench.space.network, genotype, bench.shape, bench.classes)
        with bench.verdict.apart():
            network = bench.built(make, "the network", "the network builds from a genotype")
            bench.check_alone(network, "the network")
            if isinstance(getattr(network, "drop_path", None), float):
                dropped.append(_drop_path_acts(network, bench.images, bench.verdict))
            bench.check_bounds(network, "the network", methods[-1:], NORMS[:1])
    if dropped:
        bench.verdict.expect(
            any(dropped),
            "drop_path drops paths in training mode",
            f"logits of {len(dropped)} networks do not vary at drop_path 0.5",
        )
    bench.verdict.refuses(
        "network refuses a genotype that is not of this space with an InputError",
        InputError,
        lambda: bench.space.network({"no-such-key": 1}, bench.shape, bench.classes),
    )


def _drop_path_acts(network: Any, images: Tensor, verdict: Judge) -> bool:
    """Whether logits vary in training mode at drop_path 0.5; in eval mode they must not."""

    def logits(probability: float, seed: int) -> Tensor:
        reseed(seed)
        network.drop_path = probability
        with torch.no_grad():
            found: Tensor = network(images)
        return found

    network.train()
    varies = any(not close(logits(0.5, 1), logits(0.5, other), 1e-5) for other in (2, 3, 4))
    network.eval()
    verdict.expect(
        close(logits(0.5, 1), logits(0.0, 2), 1e-6),
        "drop_path acts in training mode only",
        "logits in eval mode change with it",
    )
    network.train()
    network.drop_path = 0.0
    return varies


def check_auxiliary(bench: Bench, genotype: Genotype, wanted: bool | None) -> None:
    """Require that auxiliary=True makes a head, or is refused with an InputError where there is none."""
    verdict, images = bench.verdict, bench.images
    promise = "network(auxiliary=True) has with_auxiliary(images), or raises InputError"
    try:
        reseed(bench.seed)
        with verdict.promised(promise, unless=(InputError,)):
            network: Any = bench.space.network(genotype, bench.shape, bench.classes, auxiliary=True)
    except InputError as refusal:
        verdict.expect(wanted is not True, "has an auxiliary head", f"InputError: {refusal}")
        return
    verdict.expect(wanted is not False, "refuses an auxiliary head with an InputError", "it builds one")
    for mode in (True, False):
        network.train(mode)
        with verdict.promised(promise):
            pair = network.with_auxiliary(images)
        verdict.require(
            isinstance(pair, tuple) and [tuple(one.shape) for one in pair] == [(len(images), bench.classes)] * 2,
            "with_auxiliary gives two (N, K) logits",
            repr([tuple(one.shape) for one in pair]),
        )
    plain = bench.logits(network, images, "the network")
    verdict.expect(close(plain, pair[0]), "the first logits of with_auxiliary are the network's own", "they differ")
    verdict.expect(not close(plain, pair[1], 1e-6), "the auxiliary head's logits are its own", "they are the network's")


def check_published(bench: Bench) -> None:
    """Require that published genotypes build, on the meta device, which holds no weights."""
    published = published_by(bench.space)
    bench.verdict.require(
        isinstance(published, Mapping), "published is a mapping of names to genotypes", type(published).__name__
    )
    for name, genotype in published.items():
        with bench.verdict.apart():
            require_plain(genotype, "published holds a genotype that", bench.verdict, name)
            with bench.verdict.promised("published holds a genotype that builds", name), torch.device("meta"):
                bench.space.network(genotype, bench.shape, bench.classes)
    references = references_of(bench.space)
    bench.verdict.require(
        isinstance(references, Mapping) and all(isinstance(one, Reference) for one in references.values()),
        "references is a mapping of names to References",
        repr(references)[:80],
    )
    unknown = sorted(set(references) - set(published))
    bench.verdict.expect(not unknown, "references are of published genotypes", ", ".join(unknown))


def require_plain(genotype: Any, what: str, verdict: Judge, name: str = "") -> None:
    """Require plain data: what comes back from JSON is what went in, so no tuples, tensors or integer keys."""
    promise = f"{what} is plain data that JSON keeps as it is"
    with verdict.promised(promise, name):
        back = json.loads(json.dumps(genotype, allow_nan=False))
    verdict.require(isinstance(genotype, dict), promise, type(genotype).__name__)
    verdict.require(_identical(back, genotype), promise, f"{str(genotype)[:80]} comes back as {str(back)[:80]}")


def _identical(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_identical(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_identical, one, other))
    return bool(one == other)
