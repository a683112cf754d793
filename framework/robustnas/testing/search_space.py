"""The promises of a search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.contracts import Genotype, Shape, candidates
from robustnas.runtime.seeding import reseed
from robustnas.testing.discrete_network import check_auxiliary, check_networks, check_published, require_plain
from robustnas.testing.module import Bench
from robustnas.testing.optional_members import (
    check_decisions,
    check_enumeration,
    check_paths,
    check_sampler,
    check_sizes,
)
from robustnas.testing.promise import close, figures, judged, made, own_randomness
from robustnas.threat import NORMS

IMAGES = 3
CHOICES = 3
"""One-hot choices that are made into genotypes and networks."""


def check_search_space(
    plugin: Any,
    *,
    shapes: Sequence[Shape] = ((1, 8, 8), (3, 9, 7)),
    classes: int = 3,
    auxiliary: bool | None = None,
    methods: Sequence[str] = ("ibp", "crown-ibp"),
    seed: int = 0,
) -> tuple[str, ...]:
    """Hold a search space to its contract: supernet, genotypes, discrete networks.

    Give it small options: it builds a supernet and several networks for each shape.

    Args:
        plugin: the space, or its class, which is made with default options.
        shapes: shapes (C, H, W) of the images it is checked for.
        classes: number of classes K it is checked for.
        auxiliary: True if its networks have an auxiliary head, False if not, None if either is right.
        methods: bound methods that must cover its supernet; the last one its networks too.
        seed: of the weights, of the images and of the choices.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
    """
    with judged("search-space", plugin) as verdict, own_randomness(seed), torch.enable_grad():
        space = made(plugin, verdict)
        verdict.require(bool(shapes), "is checked for at least one shape", f"shapes={shapes!r}")
        bounds: tuple[Sequence[str], Sequence[str]] = (methods, NORMS)
        for shape in shapes:
            bench = Bench(space, torch.rand(IMAGES, *shape), classes, seed, verdict)
            with verdict.apart():
                _check_shape(bench, bounds, auxiliary)
            bounds = (methods[-1:], NORMS[:1])  # which rules there are does not depend on the shape
        with verdict.apart():
            check_published(bench)
        with verdict.apart():
            check_decisions(bench)
        drawn: list[Genotype] = []
        with verdict.apart():
            drawn = check_sampler(bench)
        check_enumeration(bench, drawn)
    return tuple(verdict.tried)


def _check_shape(bench: Bench, bounds: tuple[Sequence[str], Sequence[str]], auxiliary: bool | None) -> None:
    """Check supernet, genotypes and networks for images of one shape."""
    verdict, supernet = bench.verdict, _check_supernet(bench)
    for check in (_check_alpha, _check_mixing):
        with verdict.apart():
            check(bench, supernet)
    with verdict.apart():
        bench.check_bounds(supernet, "the supernet", *bounds)
    genotypes = _check_genotypes(bench, supernet)
    check_networks(bench, genotypes, bounds[0])
    with verdict.apart():
        check_auxiliary(bench, genotypes[0], auxiliary)
    with verdict.apart():
        check_sizes(bench, genotypes[0])
    check_paths(bench, genotypes, supernet, partial(_OneHot, supernet))


def _check_supernet(bench: Bench) -> Any:
    """Return a supernet; require that it is the same for one seed, of float32, and treats each image alone."""
    supernet = bench.built(
        lambda: bench.space.supernet(bench.shape, bench.classes),
        "the supernet",
        "the supernet builds for images of every shape",
    )
    odd = [name for name, one in supernet.named_parameters() if one.dtype != torch.float32]
    bench.verdict.expect(not odd, "the supernet's parameters are float32", f"{odd[:3]} are not")
    bench.logits(supernet, bench.images, "the supernet")
    bench.check_alone(supernet, "the supernet")
    return supernet


def _check_alpha(bench: Bench, supernet: Any) -> None:
    """Require that alpha is made of the module's own parameters, and that each edge of it reaches the logits."""
    verdict, promise = bench.verdict, "alpha is a mapping of names to (E, O) parameters"
    with verdict.promised(promise):
        alpha = dict(supernet.alpha.items())  # an nn.ParameterDict is a mapping too, though not by its type
    verdict.require(bool(alpha), promise, "it is empty")
    own = {id(one): name for name, one in supernet.named_parameters()}
    state = supernet.state_dict()
    for name, one in alpha.items():
        verdict.require(
            isinstance(one, nn.Parameter) and id(one) in own and own[id(one)] in state,
            "alpha is made of parameters of the supernet, so that its state_dict holds them",
            f"alpha[{name!r}] is a {type(one).__name__} that is not among the supernet's parameters",
        )
        verdict.require(one.dim() == 2 and one.requires_grad, promise, f"alpha[{name!r}] is {tuple(one.shape)}")
    reseed(0)
    supernet.train()  # as in a search
    total = (supernet(bench.images) * torch.randn(IMAGES, 1)).sin().sum()
    slopes = torch.autograd.grad(total, list(alpha.values()), allow_unused=True) if total.requires_grad else ()
    for name, slope in zip(alpha, slopes or [None] * len(alpha), strict=True):
        still = None if slope is None else (slope.abs().sum(dim=1) == 0).nonzero().flatten().tolist()
        if slope is not None and slope.shape[1] == 1:
            still = []  # one candidate: its weight is 1 whatever alpha is
        where = "every row" if still is None else f"rows {still}"
        verdict.expect(still == [], "alpha reaches the logits", f"the gradient in {where} of {name!r} is zero")


def _check_mixing(bench: Bench, supernet: Any) -> None:
    """Require that `mixing()` is softmax(alpha), and that the argument `mixing` stands in for it."""
    with bench.verdict.promised("mixing() gives the weights of the candidates"):
        mixing = supernet.mixing()
    shapes = {name: tuple(one.shape) for name, one in mixing.items()}
    bench.verdict.require(
        shapes == {name: tuple(one.shape) for name, one in supernet.alpha.items()},
        "mixing() has the names and shapes of alpha",
        str(shapes),
    )
    for name, ops in candidates(bench.space).items():
        bench.verdict.expect(
            name in shapes and len(ops) == shapes[name][1],
            "candidates names the operations of tables of alpha, one a column",
            f"{len(ops)} operations for {name!r}; alpha is {shapes}",
        )
    for name, one in mixing.items():
        bench.verdict.expect(
            bool(((one.sum(dim=1) - 1).abs() < 1e-5).all() and (one >= 0).all()),
            "rows of mixing() are not negative and sum to 1",
            f"{name!r} has rows that sum to {figures(one.sum(dim=1))}",
        )
    promise = "the argument mixing stands in for softmax(alpha)"
    supernet.eval()
    with torch.no_grad(), bench.verdict.promised(promise):
        plain, same = supernet(bench.images), supernet(bench.images, mixing=supernet.mixing())
        other = supernet(bench.images, mixing=_one_hot(supernet, 1))
    bench.verdict.expect(close(plain, same), promise, "mixing=mixing() gives other logits than no argument")
    bench.verdict.expect(not close(plain, other, 1e-5), promise, "one-hot mixing gives the logits of no argument")


def _one_hot(supernet: Any, seed: int) -> dict[str, Tensor]:
    """Choose one candidate an edge at random."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.eye(one.shape[1])[torch.randint(one.shape[1], (one.shape[0],), generator=draw)]
        for name, one in supernet.alpha.items()
    }


class _OneHot(nn.Module):
    """Wraps a supernet with one-hot mixing weights; alpha and `mixing()` are all that the contract names."""

    def __init__(self, supernet: Any, mixing: dict[str, Tensor]):
        super().__init__()
        self.supernet, self.weights = supernet, mixing

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        alpha: Mapping[str, nn.Parameter] = self.supernet.alpha
        return alpha

    def mixing(self) -> dict[str, Tensor]:
        return dict(self.weights)

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        logits: Tensor = self.supernet(images, self.weights if mixing is None else mixing)
        return logits


def _check_genotypes(bench: Bench, supernet: Any) -> list[Genotype]:
    """Return genotypes of one-hot choices; require plain data that depends on `mixing()` and on nothing else."""
    verdict, genotypes = bench.verdict, list[Genotype]()
    for choice in range(CHOICES):
        stand_in: Any = _OneHot(supernet, _one_hot(supernet, choice))
        with verdict.promised("one-hot mixing gives a genotype"):
            genotype, again = bench.space.genotype(stand_in), bench.space.genotype(stand_in)
        require_plain(genotype, "a genotype", verdict)
        verdict.expect(genotype == again, "a genotype is a function of mixing()", "two calls give two genotypes")
        genotypes.append(genotype)
    some = any(one.shape[1] > 1 for one in supernet.alpha.values())
    verdict.expect(
        not some or any(one != genotypes[0] for one in genotypes),
        "a genotype is what mixing() stands for",
        f"{CHOICES} one-hot choices at random all give {str(genotypes[0])[:80]}",
    )
    with verdict.promised("softmax(alpha) gives a genotype"):
        require_plain(bench.space.genotype(supernet), "a genotype", verdict)
    return genotypes
