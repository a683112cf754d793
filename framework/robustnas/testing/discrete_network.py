"""The promises of a search space's discrete networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustnas.contracts import Genotype, SearchSpace, Shape
from robustnas.errors import InputError
from robustnas.testing.module import built, check_alone, check_bounds, check_repeatable, logits_of
from robustnas.testing.plain_data import require_plain
from robustnas.testing.promise import Judge, close
from robustnas.threat import NORMS


def check_networks(
    space: SearchSpace,
    genotypes: list[Genotype],
    shape: Shape,
    classes: int,
    images: Tensor,
    verdict: Judge,
    seed: int,
    methods: Sequence[str],
) -> None:
    """The discrete networks of a few genotypes."""
    promise = "network builds from a genotype"
    dropped: list[bool] = []
    for genotype in genotypes:
        build = partial(space.network, genotype, shape, classes)
        network, other = (built(build, seed, promise, verdict) for _ in range(2))
        check_repeatable(network, other, "the network", verdict)
        if isinstance(getattr(network, "drop_path", None), float):
            dropped.append(_drop_path_acts(network, images, verdict))
        check_alone(network, images, classes, "the network", verdict)
        check_bounds(network, images, classes, methods[-1:], NORMS[:1], verdict, "the network")
    verdict.require(
        not dropped or any(dropped),
        "drop_path drops paths in training mode",
        f"logits of {len(dropped)} networks do not vary at drop_path 0.5",
    )
    verdict.refuses(
        "network refuses a genotype that is not of this space with an InputError",
        InputError,
        lambda: space.network({"no-such-key": 1}, shape, classes),
    )


def _drop_path_acts(network: Any, images: Tensor, verdict: Judge) -> bool:
    """Whether logits vary in training mode at drop_path 0.5; in eval mode they must not."""

    def logits(probability: float, seed: int) -> Tensor:
        torch.manual_seed(seed)
        network.drop_path = probability
        with torch.no_grad():
            found: Tensor = network(images)
        return found

    varies = any(not close(logits(0.5, 1), logits(0.5, other), 1e-5) for other in (2, 3, 4))
    network.eval()
    verdict.require(
        close(logits(0.5, 1), logits(0.0, 2), 1e-6),
        "drop_path acts in training mode only",
        "logits in eval mode change with it",
    )
    network.train()
    network.drop_path = 0.0
    return varies


def check_auxiliary(
    space: SearchSpace,
    genotype: Genotype,
    shape: Shape,
    classes: int,
    images: Tensor,
    verdict: Judge,
    seed: int,
    auxiliary: bool | None,
) -> None:
    """With auxiliary=True a network has a head, or the space says with an InputError that it has none."""
    promise = "network(auxiliary=True) has with_auxiliary(images), or raises InputError"
    try:
        torch.manual_seed(seed)
        with verdict.promised(promise, unless=(InputError,)):
            network: Any = space.network(genotype, shape, classes, auxiliary=True)
    except InputError as refusal:
        verdict.require(auxiliary is not True, "has an auxiliary head", f"InputError: {refusal}")
        return
    verdict.require(auxiliary is not False, "refuses an auxiliary head with an InputError", "it builds one")
    for mode in (True, False):
        network.train(mode)
        with verdict.promised(promise):
            pair = network.with_auxiliary(images)
        verdict.require(
            isinstance(pair, tuple) and [tuple(one.shape) for one in pair] == [(len(images), classes)] * 2,
            "with_auxiliary gives two (N, K) logits",
            repr([tuple(one.shape) for one in pair]),
        )
    plain = logits_of(network, images, classes, "a network with an auxiliary head", verdict)
    verdict.require(close(plain, pair[0]), "the first logits of with_auxiliary are the network's own", "they differ")
    verdict.require(
        not close(plain, pair[1], 1e-6), "the auxiliary head's logits are its own", "they are the network's"
    )


def check_published(space: SearchSpace, shape: Shape, classes: int, verdict: Judge) -> None:
    """Published genotypes build; on the meta device, which holds no weights."""
    published = getattr(space, "published", {})
    verdict.require(
        isinstance(published, Mapping),
        "published is a mapping of names to genotypes",
        type(published).__name__,
    )
    for name, genotype in published.items():
        require_plain(genotype, f"the published genotype {name!r}", verdict)
        with verdict.promised(f"the published genotype {name!r} builds"), torch.device("meta"):
            space.network(genotype, shape, classes)
