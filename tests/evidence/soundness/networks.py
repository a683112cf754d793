"""Random small networks that between them use every rule of the bounds, and small networks of every search space.

Weights and images are float32 numbers and constants are short binary fractions, so that a network and its float64
copy are the same function.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas import bounds
from robustnas.bounds import RULES, Value
from robustnas.bounds.branching import search
from robustnas.bounds.value import function_name
from robustnas.registry import SEARCH_SPACES
from robustnas.threat import ThreatModel

CLASSES = 3
SIZE = (5, 6)
Block = Callable[[Random, int], nn.Module]


def some_images(seed: int, count: int = 2, shape: tuple[int, int, int] = (2, *SIZE)) -> tuple[Tensor, Tensor]:
    """Float32 images of which about every third pixel is 0 or 1, and labels."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *shape, generator=draw)
    images = torch.where(torch.rand(images.shape, generator=draw) < 0.3, images.round(), images)
    return images, torch.randint(0, CLASSES, (count,), generator=draw)


class Apply(nn.Module):
    """A function of the images without weights, or with `factor`, one number a channel."""

    def __init__(self, function: Callable[..., Tensor], channels: int = 0):
        super().__init__()
        self.function = function
        self.register_buffer("factor", torch.randn(channels, 1, 1) if channels else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) if self.factor is None else self.function(x, self.factor)


class Joined(nn.Module):
    """A block beside the identity: their sum where they have one shape, else both side by side as features."""

    def __init__(self, block: nn.Module, scale: float):
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return self.scale * y + x if y.shape == x.shape else y


class Moved(nn.Module):
    """A layer on another view of the images: `there` and `back` reshape."""

    def __init__(self, layer: nn.Module, there: Callable[[Tensor], Tensor], back: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.layer, self.there, self.back = layer, there, back

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.layer(self.there(x)), x)


def convolution(draw: Random, channels: int) -> nn.Module:
    kernel, dilation = draw.choice([1, 2, 3]), draw.choice([1, 2])
    groups = draw.choice([1, channels])
    padding, stride = draw.choice([dilation * (kernel - 1), (dilation * (kernel - 1) + 1) // 2]), draw.choice([1, 1, 2])
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups, bias=draw.random() < 0.5)


def norm(draw: Random, channels: int) -> nn.Module:
    layer = nn.BatchNorm2d(channels, affine=draw.random() < 0.7)
    unsettle(layer)
    return layer


def rows(draw: Random, channels: int) -> nn.Module:
    layer = draw.choice([nn.Conv1d(channels, channels, 3, padding=1), nn.AvgPool1d(3, 1, 1)])
    return Moved(layer, lambda x: x.flatten(2), lambda y, x: y.view_as(x))


def volume(draw: Random, channels: int) -> nn.Module:
    layer = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
    return Moved(layer, lambda x: x.unsqueeze(2), lambda y, x: y.squeeze(2))


def mean_pool(draw: Random, channels: int) -> nn.Module:
    if draw.random() < 0.3:
        return nn.AdaptiveAvgPool2d(draw.choice([2, 3]))
    return nn.AvgPool2d(3, draw.choice([1, 2]), 1, count_include_pad=draw.random() < 0.5)


def most_pool(draw: Random, channels: int) -> nn.Module:
    kernel = draw.choice([2, 3])
    stride, padding = draw.choice([1, 2]), draw.choice([0, 1])
    return nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw.random() < 0.5)


ENTRYWISE: tuple[Callable[..., Tensor], ...] = (
    lambda x, t: 1.5 - x * t,
    lambda x, t: -x / 1.5 + t,
    lambda x, t: (x - t) * -0.75,
    lambda x, t: torch.sub(x, 0.5 * t, alpha=2),
    lambda x, t: torch.zeros_like(x) + t - x,
    lambda x, t: x.clone().mul_(t).add_(0.25),
)
ARRANGED: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x - 0.5 * x.mean(dim=(2, 3), keepdim=True),
    lambda x: x + x.sum(dim=3, keepdim=True) * 0.25,
    lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1),
    lambda x: torch.stack([x, -x], dim=2).select(2, 1),
    lambda x: x.flip(3).roll(1, 2),
    lambda x: x[:, :, 1:, ::2].contiguous(),
    lambda x: F.pad(x, (1, 0, 0, 1), value=0.25),
    lambda x: F.pad(x, (1, 1, 0, 0), mode="replicate"),
    lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    lambda x: F.max_pool1d(x.flatten(2), 3, 1, 1).view_as(x),
    lambda x: F.adaptive_max_pool1d(x.flatten(1, 2), 4).view(*x.shape[:3], 4),
    lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    lambda x: F.dropout(x, 0.5, training=False),
    lambda x: x.to(x.dtype),
    lambda x: x.view(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
)


HEADS: dict[tuple[int, torch.dtype], nn.MultiheadAttention] = {}


def attended(x: Tensor) -> Tensor:
    """Attention of one head over the places, with fixed weights."""
    key = (x.shape[1], x.dtype)
    if key not in HEADS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            HEADS[key] = nn.MultiheadAttention(key[0], 1, batch_first=True).eval().to(x.dtype)
    tokens = x.flatten(2).mT
    return HEADS[key](tokens, tokens, tokens)[0].mT.reshape(x.shape)


OF_VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "gates": lambda x: (
        x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        + torch.lerp(x, x.flip(1), 0.25)
        + F.glu(x, 1).repeat(1, 2, 1, 1)
    ),
    "quotients": lambda x: x / (x.flip(1).abs() + 1) - 0.5 / (x.square() + 0.5) + (x.abs() + 1).reciprocal(),
    "powers": lambda x: (x * 0.5) ** 3 - (x * x + 0.25).sqrt() + (x.abs() + 0.5) ** -0.5 + 2 ** (x * 0.25),
    "products": lambda x: (
        torch.addcdiv(x @ x.mT @ x, x, x.abs() + 1, value=0.5)
        + torch.baddbmm(x[:, 0], torch.eye(5).to(x).expand(len(x), 5, 5), x[:, 0], beta=0.5).unsqueeze(1)
    ),
    "layer norms": lambda x: F.layer_norm(x, x.shape[2:], eps=0.0625) + F.rms_norm(x, x.shape[3:], eps=0.25),
    "other norms": lambda x: F.group_norm(x, 1, eps=0.25) - F.instance_norm(x, eps=0.25) + F.local_response_norm(x, 2),
    "spreads": lambda x: (
        x
        - (x * 2 + 1).std((2, 3), keepdim=True)
        + torch.var_mean(x, 1, keepdim=True)[0]
        + (x + 3).norm(dim=1, keepdim=True)
    ),
    "unit length": lambda x: F.normalize(x + 2, dim=1) + F.cosine_similarity(x + 2, 2 - x).unsqueeze(1),
    "softmaxes": lambda x: x.softmax(3) - F.softmin(x, 1) + 0.25 * x.log_softmax(2) + x.logsumexp((2, 3), keepdim=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x) + attended(x),
    "extremes": lambda x: x.amax(1, keepdim=True) - x.min(3, keepdim=True)[0] + torch.maximum(x, -x.flip(2)),
    "masks": lambda x: torch.where(torch.ones(6) > 0, x, 0.0).tril() - x.masked_fill(torch.eye(5, 6) > 0, 0.5),
    "turned": lambda x: F.conv_transpose2d(x, torch.ones(x.shape[1], x.shape[1], 2, 2).to(x)).cumsum(3),
    "patches": lambda x: F.fold(F.unfold(x, 2), x.shape[2:], 2),
}
"""Functions (N, C, 5, 6) -> (N, ...) of values by values, and of values by themselves; their constants are exact."""


def simple(index: int, channels: int) -> nn.Module:
    """One of the functions without weights of its own: in turn, so that as many networks use all of them."""
    functions = (*ENTRYWISE, *ARRANGED)
    function = functions[index % len(functions)]
    return Apply(function, channels if function in ENTRYWISE else 0)


def any_simple(draw: Random, channels: int) -> nn.Module:
    return simple(draw.randrange(1000), channels)


LINEAR: tuple[Block, ...] = (
    convolution, convolution, convolution, norm, rows, volume, mean_pool, any_simple, any_simple, any_simple,
)  # fmt: skip


def homes(handler: Any) -> set[str]:
    """Modules a rule was written in: its own, and those of the functions that a decorator wrapped."""
    cells = [cell.cell_contents for cell in getattr(handler, "__closure__", None) or ()]
    return {part.__module__ for part in (handler, *cells) if hasattr(part, "__module__")}


@cache
def shipped() -> dict[Any, list[Callable[..., Any]]]:
    """The rules that the framework ships: rule -> the torch functions it serves, those not in place first."""
    found: dict[Any, list[Callable[..., Any]]] = {}
    for function, handler in RULES.items():
        if any(home.startswith("robustnas.bounds.rules") for home in homes(handler)):
            found.setdefault(handler, []).append(function)
    for functions in found.values():
        functions.sort(key=lambda known: (known.__name__.endswith("_"), function_name(known)))
    return found


OPTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "clamp": lambda x: x.clamp(-0.5, 0.75),
    "elu 0.5": lambda x: F.elu(x, 0.5),
    "celu 2": lambda x: F.celu(x, 2.0),
    "softplus 2": lambda x: F.softplus(x, 2.0),
    "hardtanh": lambda x: F.hardtanh(x, -0.25, 1.5),
    "prelu": lambda x: F.prelu(x, torch.tensor([-0.5], dtype=x.dtype)),
    "leaky_relu 0.5": lambda x: F.leaky_relu(x, 0.5),
}
"""Calls with options, or of functions that cannot be called without."""


@cache
def activations() -> dict[str, Callable[[Tensor], Tensor]]:
    """Every function with a shipped rule that maps each number to a number of its size and is not affine; by name."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for functions in shipped().values():
        for function in functions:
            if function.__name__.rstrip("_") not in found and _is_activation(function):
                found[function.__name__.rstrip("_")] = function
    return dict(sorted(found.items())) | OPTIONS


def _is_activation(function: Callable[..., Any]) -> bool:
    points = torch.linspace(-3, 3, 25).view(1, 1, 5, 5)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values, opposite, doubled = (function(factor * points) for factor in (1, -1, 2))
            part = function(points.view(1, 25)[:, :10])
    except (TypeError, RuntimeError, ValueError):
        return False  # it wants more arguments: no function of one tensor
    if not isinstance(values, Tensor) or values.shape != points.shape or function.__name__.startswith("__"):
        return False
    # of each entry by itself, everywhere defined, and no exponential: those are tested where their numbers fit
    if not torch.equal(part, values.reshape(1, 25)[:, :10]) or not values.abs().amax() < 10:
        return False
    middle = values[0, 0, 2, 2]
    affine = torch.allclose(values + opposite, 2 * middle) and torch.allclose(doubled, 2 * values - middle)
    return "dropout" not in function.__name__ and not affine


def nonlinear(draw: Random, channels: int, known: Sequence[Callable[..., Tensor]], first: bool = False) -> nn.Module:
    which = draw.random() if len(known) > 1 else 1.0
    if which < 0.4:
        return nn.ReLU(inplace=first)
    if which < 0.55:
        slope = draw.choice([0.125, 0.5])
        return Apply(lambda x: F.leaky_relu(x, slope))
    if which < 0.75:
        return most_pool(draw, channels)
    return Apply(draw.choice(known))


class RandomNetwork(nn.Module):
    """(N, 2, H, W) -> (N, CLASSES): a convolution, a function without weights, one to three rounds of layers, a head.

    Args:
        seed: of structure and weights.
        size: rows and columns of an image.
        activation: name of the only nonlinear function to use, on a wider range of values; any, if not given.
        block: name of one of OF_VALUES behind the first convolution; a function without weights, if not given.
    """

    def __init__(self, seed: int, size: tuple[int, int] = SIZE, activation: str = "", block: str = ""):
        super().__init__()
        draw = Random(seed)
        known = [activations()[activation]] if activation else list(activations().values())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = draw.choice([2, 4])
            layers: list[nn.Module] = [nn.Conv2d(2, channels, 3, padding=1)]
            layers.append(Apply(OF_VALUES[block]) if block else simple(seed, channels))
            for turn in range(draw.choice([1, 2, 2, 3])):
                layers.append(nonlinear(draw, channels, known, first=turn == 0))
                block = draw.choice(LINEAR)(draw, channels)
                layers.append(Joined(block, 0.5) if draw.random() < 0.5 else block)
            if draw.random() < 0.5:
                layers.append(nonlinear(draw, channels, known) if activation else nn.ReLU())
            if activation:
                layers[0].weight.data.mul_(6.0)
            self.body = nn.Sequential(*layers).eval()
            with torch.no_grad():
                features = self.body(torch.zeros(1, 2, *size)).numel()
            self.matrix = nn.Parameter(torch.randn(features, CLASSES) / features**0.5)
            self.head = nn.Linear(features, CLASSES)
            self.by_matrix = draw.random() < 0.3
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images).flatten(1)
        return features @ self.matrix if self.by_matrix else self.head(features)


def unsettle(network: nn.Module) -> None:
    """Random statistics and scales in every batch norm, of both signs, as training leaves them."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
                if module.affine:
                    module.weight.normal_(0.5, 1.0)
                    module.bias.normal_(std=0.3)


SMALL: dict[str, Any] = {
    "cells": 2, "channels": 4, "network_cells": 2, "network_channels": 4, "partial": 2,
    "blocks": 2, "depths": [1, 2], "widths": [1, 2],
}  # fmt: skip


def spaces() -> list[str]:
    """Names of every registered search space."""
    return SEARCH_SPACES.names()


def of_space(name: str, discrete: bool, seed: int, shape: tuple[int, int, int], **options: int) -> nn.Module:
    """A small supernet of a registered space with random alpha, or the discrete network of its genotype."""
    cls = SEARCH_SPACES.load(name)
    wanted = {**SMALL, **options}
    known = {field.name for field in attrs.fields(cls)}
    space = cls(**{key: value for key, value in wanted.items() if key in known})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = space.supernet(shape, CLASSES)
        with torch.no_grad():
            for table in network.alpha.values():
                table.normal_()
        if discrete:
            network = space.network(space.genotype(network), shape, CLASSES)
        unsettle(network)
    return network.eval()


class Open(nn.Module):
    """A network whose logits are moved by constants, so that `crown` leaves every margin of an image open.

    Each margin at the image becomes a share of what its bound lies below it, so methods that go on from there have to.

    Args:
        network: (N, ...) -> (N, CLASSES).
        images, labels: (1, ...) the image, and what the moved network takes it for.
        threat: what the bound is for.
        share: below 1, of the bound's width.
    """

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, share: float):
        super().__init__()
        self.network = network
        with torch.no_grad():
            logits = network(images)
            others = [j for j in range(CLASSES) if j != labels.item()]
            margins = logits[0, labels] - logits[0, others]
            width = margins - bounds.margins(network, images, labels, threat, "crown")[0]
            shift = torch.zeros(CLASSES).index_copy(0, torch.tensor(others), margins - share * width)
        self.register_buffer("shift", shift)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) + self.shift


@contextmanager
def replaced(function: Callable[..., Any], change: Callable[[Any], Any]) -> Iterator[None]:
    """The rule of `function`, under all its names, exchanged for `change(rule)`; put back afterwards."""
    old = RULES[function]
    names = [name for name, handler in RULES.items() if handler is old]
    new = change(old)
    try:
        RULES.update(dict.fromkeys(names, new))
        yield
    finally:
        RULES.update(dict.fromkeys(names, old))


def narrowed(share: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A change for `replaced`: the rule with intervals of this share of their width."""

    def change(rule: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*args: Any, **kwargs: Any) -> Any:
            result = rule(*args, **kwargs)
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, Value):
                    value.radius = share * value.radius
            return result

        return wrong

    return change


@contextmanager
def blind() -> Iterator[None]:
    """Branch and bound without its search for images that refute, so that it goes on as long as its budget does."""
    descend = search.descend
    try:
        search.descend = lambda problem, parts, images: (images, torch.zeros(len(parts), dtype=torch.bool))
        yield
    finally:
        search.descend = descend


@contextmanager
def recorded() -> Iterator[set[Any]]:
    """The rules that are called inside the context."""
    used: set[Any] = set()
    before = dict(RULES)

    def watch(handler: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            used.add(handler)
            return handler(*args, **kwargs)

        # a rule's signature is asked for when a call does not fit it
        call.__signature__ = inspect.signature(handler)  # type: ignore[attr-defined]
        return call

    watched = {id(handler): watch(handler) for handler in before.values()}
    try:
        RULES.update({function: watched[id(handler)] for function, handler in before.items()})
        yield used
    finally:
        RULES.update(before)
