"""The promises of a search space."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.bounds import margins
from robustnas.contracts import Genotype, SearchSpace, Shape
from robustnas.errors import InputError
from robustnas.testing.networks import settle
from robustnas.testing.promise import Judge, close, figures, judge, made, own_randomness
from robustnas.threat import NORMS, ThreatModel

IMAGES = 3
CHOICES = 4
"""One-hot choices that are made into genotypes and networks."""


def check_search_space(
    plugin: Any,
    *,
    shapes: Sequence[Shape] = ((1, 8, 8), (3, 9, 7)),
    classes: int = 3,
    auxiliary: bool | None = None,
    methods: Sequence[str] = ("ibp", "crown-ibp"),
    seed: int = 0,
) -> None:
    """Hold a search space to its contract: supernet, genotypes, discrete networks.

    Give it small options: it builds a supernet and several networks for each shape.

    Args:
        plugin: the space, or its class, which is made with default options.
        shapes: shapes (C, H, W) of the images it is checked for.
        classes: number of classes K it is checked for.
        auxiliary: True if its networks have an auxiliary head, False if not, None if either is right.
        methods: bound methods that must cover its supernet and its networks.
        seed: of the weights, of the images and of the choices.

    Raises:
        ConformanceError: a broken promise.
    """
    space, verdict = made(plugin), judge(plugin)
    verdict.require(bool(shapes), "is checked for at least one shape", f"shapes={shapes!r}")
    with own_randomness(seed), torch.enable_grad():
        for shape in shapes:
            images = torch.rand(IMAGES, *shape)
            supernet = _check_supernet(space, shape, classes, images, verdict, seed)
            _check_alpha(supernet, images, verdict)
            _check_mixing(supernet, images, verdict)
            _check_bounds(supernet, images, classes, methods, verdict, "the supernet")
            genotypes = _check_genotypes(space, supernet, verdict)
            _check_networks(space, genotypes, shape, classes, images, verdict, seed, methods)
            _check_auxiliary(space, genotypes[0], shape, classes, images, verdict, seed, auxiliary)
        _check_published(space, shapes[-1], classes, verdict)


def _built(build: Any, seed: int, promise: str, verdict: Judge) -> nn.Module:
    torch.manual_seed(seed)
    with verdict.promised(promise):
        module = build()
    verdict.require(isinstance(module, nn.Module), f"{promise}, as an nn.Module", type(module).__name__)
    module = module.train()
    assert isinstance(module, nn.Module)
    return module


def _logits(module: nn.Module, images: Tensor, classes: int, what: str, verdict: Judge, **more: Any) -> Tensor:
    """What a supernet or a network gives, after a look at its shape."""
    promise = f"{what} maps images (N, C, H, W) to logits (N, K)"
    with verdict.promised(promise):
        logits = module(images, **more)
    shape = (len(images), classes)
    verdict.require(
        isinstance(logits, Tensor) and logits.shape == shape,
        promise,
        f"{tuple(logits.shape)} instead of {shape} for images {tuple(images.shape)}"
        if isinstance(logits, Tensor)
        else type(logits).__name__,
    )
    verdict.require(
        logits.dtype == torch.float32 and bool(logits.isfinite().all()),
        f"{what} gives finite float32 logits",
        f"{logits.dtype}, {figures(logits)}",
    )
    return logits


def _check_repeatable(one: nn.Module, other: nn.Module, what: str, verdict: Judge) -> None:
    """Two builds from one seed hold the same tensors."""
    first, second = one.state_dict(), other.state_dict()
    verdict.require(
        first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first),
        f"{what} is the same when torch's seed is the same",
        "two builds from one seed have other tensors",
    )


def _check_alone(module: nn.Module, images: Tensor, classes: int, what: str, verdict: Judge) -> None:
    """In eval mode, batch norm's statistics measured, an image's logits depend on that image alone."""
    torch.manual_seed(0)
    settle(module, images)
    module.eval()
    with torch.no_grad():
        together = _logits(module, images, classes, what, verdict)
        for index in range(IMAGES):
            alone = _logits(module, images[index : index + 1], classes, what, verdict)[0]
            verdict.require(
                close(alone, together[index]),
                f"in eval mode {what} treats each image alone",
                f"{figures(together[index])} in a batch, {figures(alone)} alone",
            )


def _check_supernet(
    space: SearchSpace, shape: Shape, classes: int, images: Tensor, verdict: Judge, seed: int
) -> Any:
    promise = f"supernet builds for images {shape} and {classes} classes"
    supernet = _built(lambda: space.supernet(shape, classes), seed, promise, verdict)
    other = _built(lambda: space.supernet(shape, classes), seed, promise, verdict)
    _check_repeatable(supernet, other, "the supernet", verdict)
    odd = [name for name, one in supernet.named_parameters() if one.dtype != torch.float32]
    verdict.require(not odd, "the supernet's parameters are float32", f"{odd[:3]} are not")
    _logits(supernet, images, classes, "the supernet", verdict)
    _check_alone(supernet, images, classes, "the supernet", verdict)
    return supernet


def _check_alpha(supernet: Any, images: Tensor, verdict: Judge) -> None:
    """Alpha is made of the module's own parameters, and each edge of it reaches the logits."""
    promise = "alpha is a mapping of names to (E, O) parameters"
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
    torch.manual_seed(0)
    supernet.train()  # as in a search
    total = (supernet(images) * torch.randn(IMAGES, 1)).sin().sum()
    slopes = torch.autograd.grad(total, list(alpha.values()), allow_unused=True) if total.requires_grad else ()
    for name, slope in zip(alpha, slopes or [None] * len(alpha), strict=True):
        still = None if slope is None else (slope.abs().sum(dim=1) == 0).nonzero().flatten().tolist()
        if slope is not None and slope.shape[1] == 1:
            still = []  # one candidate: its weight is 1 whatever alpha is
        verdict.require(still == [], "alpha reaches the logits", f"the gradient in rows {still} of {name!r} is zero")


def _check_mixing(supernet: Any, images: Tensor, verdict: Judge) -> None:
    """`mixing()` is softmax(alpha); the argument `mixing` stands in for it."""
    with verdict.promised("mixing() gives the weights of the candidates"):
        mixing = supernet.mixing()
    verdict.require(
        set(mixing) == set(supernet.alpha.keys())
        and all(mixing[name].shape == one.shape for name, one in supernet.alpha.items()),
        "mixing() has the names and shapes of alpha",
        f"{ {name: tuple(one.shape) for name, one in mixing.items()} }",
    )
    for name, one in mixing.items():
        verdict.require(
            bool(((one.sum(dim=1) - 1).abs() < 1e-5).all() and (one >= 0).all()),
            "rows of mixing() are not negative and sum to 1",
            f"{name!r} has rows that sum to {figures(one.sum(dim=1))}",
        )
    promise = "the argument mixing stands in for softmax(alpha)"
    supernet.eval()
    with torch.no_grad(), verdict.promised(promise):
        plain, same = supernet(images), supernet(images, mixing=supernet.mixing())
        other = supernet(images, mixing=_one_hot(supernet, 1))
    verdict.require(close(plain, same), promise, "mixing=mixing() gives other logits than no argument")
    verdict.require(not close(plain, other, 1e-5), promise, "one-hot mixing gives the logits of no argument")


def _one_hot(supernet: Any, seed: int) -> dict[str, Tensor]:
    """One candidate an edge, at random."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.eye(one.shape[1])[torch.randint(one.shape[1], (one.shape[0],), generator=draw)]
        for name, one in supernet.alpha.items()
    }


class _OneHot(nn.Module):
    """A supernet whose mixing weights are one-hot; it has alpha and `mixing()`, which is all the contract names."""

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


def _check_genotypes(space: SearchSpace, supernet: Any, verdict: Judge) -> list[Genotype]:
    promise = "one-hot mixing gives a genotype"
    genotypes: list[Genotype] = []
    for choice in range(CHOICES):
        stand_in: Any = _OneHot(supernet, _one_hot(supernet, choice))
        with verdict.promised(promise, "read alpha and mixing() alone: the supernet may be wrapped"):
            genotype, again = space.genotype(stand_in), space.genotype(stand_in)
        _require_plain(genotype, "a genotype", verdict)
        verdict.require(genotype == again, "a genotype is a function of mixing()", "two calls give two genotypes")
        genotypes.append(genotype)
    some = any(one.shape[1] > 1 for one in supernet.alpha.values())
    verdict.require(
        not some or any(one != genotypes[0] for one in genotypes),
        "a genotype is what mixing() stands for",
        f"{CHOICES} one-hot choices at random all give {str(genotypes[0])[:80]}",
    )
    with verdict.promised("softmax(alpha) gives a genotype"):
        _require_plain(space.genotype(supernet), "a genotype", verdict)
    return genotypes


def _require_plain(genotype: Any, what: str, verdict: Judge) -> None:
    """Plain data: what comes back from JSON is what went in, so no tuples, tensors or integer keys."""
    promise = f"{what} is plain data that JSON keeps as it is"
    with verdict.promised(promise):
        back = json.loads(json.dumps(genotype, allow_nan=False))
    verdict.require(isinstance(genotype, dict), promise, type(genotype).__name__)
    verdict.require(
        _identical(back, genotype), promise, f"{str(genotype)[:80]} comes back as {str(back)[:80]}"
    )


def _identical(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_identical(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_identical, one, other))
    return bool(one == other)


def _check_networks(
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
        network = _built(lambda g=genotype: space.network(g, shape, classes), seed, promise, verdict)
        other = _built(lambda g=genotype: space.network(g, shape, classes), seed, promise, verdict)
        _check_repeatable(network, other, "the network", verdict)
        if isinstance(getattr(network, "drop_path", None), float):
            dropped.append(_drop_path_acts(network, images, verdict))
        _check_alone(network, images, classes, "the network", verdict)
        _check_bounds(network, images, classes, methods, verdict, "the network")
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


def _check_auxiliary(
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
            isinstance(pair, tuple) and [tuple(one.shape) for one in pair] == [(IMAGES, classes)] * 2,
            "with_auxiliary gives two (N, K) logits",
            repr([tuple(one.shape) for one in pair]),
        )
    plain = _logits(network, images, classes, "a network with an auxiliary head", verdict)
    verdict.require(close(plain, pair[0]), "the first logits of with_auxiliary are the network's own", "they differ")
    verdict.require(not close(plain, pair[1], 1e-6), "the auxiliary head's logits are its own", "they are the network's")


def _check_bounds(
    module: nn.Module, images: Tensor, classes: int, methods: Sequence[str], verdict: Judge, what: str
) -> None:
    """Every operation of a module in eval mode has a bound rule."""
    module.eval()
    labels = torch.arange(IMAGES) % classes
    for method in methods:
        for norm in NORMS:
            with verdict.promised(f"bounds cover every operation of {what} ({method}, {norm})"), torch.no_grad():
                lower = margins(module, images, labels, ThreatModel(norm, 1e-6), method=method)
            verdict.require(
                lower.shape == (IMAGES, classes - 1) and bool(lower.isfinite().all()),
                f"bounds of {what} are finite ({method}, {norm}, epsilon 1e-6)",
                figures(lower),
            )


def _check_published(space: SearchSpace, shape: Shape, classes: int, verdict: Judge) -> None:
    """Published genotypes build; on the meta device, which holds no weights."""
    published = getattr(space, "published", {})
    verdict.require(
        isinstance(published, Mapping), "published is a mapping of names to genotypes", type(published).__name__
    )
    for name, genotype in published.items():
        _require_plain(genotype, f"the published genotype {name!r}", verdict)
        with verdict.promised(f"the published genotype {name!r} builds"), torch.device("meta"):
            space.network(genotype, shape, classes)
