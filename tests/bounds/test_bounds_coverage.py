"""Pools, slices, joins and regularisation in evaluation are bounded; a third party's operation is, in a few lines."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from robustnas.bounds import METHODS, boundable, margins
from robustnas.errors import UnsupportedOpError
from robustnas.threat import NORMS, ThreatModel
from support.bounded import LABELS, check, interval, network

IMAGES = torch.rand(2, 2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
DROPOUTS = nn.Sequential(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()).eval()


def _interpolated(mode: str, **size: object) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x - 0.5, mode=mode, **size)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max pool of a line": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1),
    "max pool of a line, dilated": lambda x: F.max_pool1d(x.flatten(2), (4,), padding=1, dilation=(2,), ceil_mode=True),
    "max pool of a line, torch's own": lambda x: torch.max_pool1d(x.flatten(2), 5),
    "adaptive max, sizes divide": lambda x: F.adaptive_max_pool2d(x[..., :4, :6], (2, 3)),
    "adaptive max, sizes do not divide": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "adaptive max to one": lambda x: nn.AdaptiveMaxPool2d(1)(x),
    "adaptive max, width as it is": lambda x: F.adaptive_max_pool2d(x, (2, None)),
    "adaptive max to more": lambda x: F.adaptive_max_pool2d(x, (3, 8)),
    "adaptive max of a line": lambda x: F.adaptive_max_pool1d(x.flatten(2), 4),
    "adaptive max of a line, sizes divide": lambda x: nn.AdaptiveMaxPool1d(5)(x.flatten(2)),
    "adaptive average, sizes do not divide": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive average to more": lambda x: F.adaptive_avg_pool2d(x, (7, 9)),
    "adaptive average of a line": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 4),
    "strided slices, joined": lambda x: torch.cat([x[:, :, ::2, ::2], -x[:, :, ::2, 1::2]], dim=3),
    "slices shifted and joined": lambda x: torch.cat([x[:, :, :4:2], F.pad(x, (0, 0, 0, 1))[:, :, 1::2][:, :, :2]], 1),
    "residual sum": lambda x: x + F.relu(x * 2 - 1) + x[:, [1, 0]],
    "mean over channels": lambda x: x.mean(1),
    "global pool by mean": lambda x: x.mean((-1, -2)),
    "flattened by torch": lambda x: torch.flatten(x - 0.5, 1, 2),
    "patches by reshape": lambda x: x[:, :, :4, :6].reshape(-1, 2, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).flatten(1, 2),
    "dropout": DROPOUTS,
    "stochastic depth": lambda x: x + stochastic_depth(F.relu(x - 0.5), 0.5, "row", training=False),
    "enlarged": _interpolated("nearest", scale_factor=2),
    "enlarged to a size": _interpolated("nearest-exact", size=(7, 9)),
    "enlarged between entries": _interpolated("bilinear", size=(8, 9), align_corners=True),
    "shrunk": _interpolated("bilinear", scale_factor=(0.5, 0.5), antialias=True),
    "shrunk by area": _interpolated("area", size=(2, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_sound_and_exact_at_epsilon_zero(name: str):
    """The norm matters in front of the first layer only, optimised slopes at the ReLU there: each has its turn."""
    turn = list(FUNCTIONS).index(name)
    methods = METHODS if turn % 4 == 0 else METHODS[:3]
    check(network(FUNCTIONS[name], IMAGES), NORMS[turn % len(NORMS)], IMAGES, methods)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "max" in name])
def test_intervals_of_pools_are_the_pools_of_the_ends(name: str):
    def logits(images: Tensor) -> Tensor:
        return FUNCTIONS[name](images).flatten(1)

    found = interval(logits, IMAGES, "linf", 0.2)
    torch.testing.assert_close(found.centre - found.radius, logits((IMAGES - 0.2).clamp_min(0)))
    torch.testing.assert_close(found.centre + found.radius, logits((IMAGES + 0.2).clamp_max(1)))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith(("adaptive av", "enl", "shr", "mean"))])
def test_intervals_of_averages_are_exact(name: str):
    def logits(images: Tensor) -> Tensor:
        return FUNCTIONS[name](images).flatten(1)

    images = IMAGES * 0.4 + 0.3
    found = interval(logits, images, "linf", 0.2)
    one = torch.autograd.functional.jacobian(lambda image: logits(image[None])[0], images[0]).flatten(1)
    torch.testing.assert_close(found.centre, logits(images))
    torch.testing.assert_close(found.radius, (0.2 * one.abs().sum(1)).expand(2, -1))


# operations of a third party, whole: operation and rule, each in a module of its own
SQUARE_PLUS = """\
import torch
from robustnas.bounds import Lines, activation_rule, boundable

@boundable
def square_plus(x, b=4.0):
    return (x + (x * x + b).sqrt()) / 2

@activation_rule(square_plus)
def lines(lower, upper, function):  # convex: a tangent below, the chord above
    middle, width = (lower + upper) / 2, (upper - lower).clamp_min(1e-6)
    tangent = (function(middle + 1e-4) - function(middle)) / 1e-4
    touching = function(middle - 1e-4) - tangent * (middle - 1e-4)
    chord = (function(lower + width) - function(lower)) / width
    return Lines(tangent, touching.minimum(function(middle) - tangent * middle), chord, function(lower) - chord * lower)
"""
"""A secant above the function between its ends lies below it outside, hence the lower of two parallels."""

GATED = """\
import torch
from robustnas.bounds import boundable, rule
from robustnas.bounds.rules.curve import Curve, enclose_curve

@boundable
def gated_tanh(x):
    return torch.tanh(x) * 2 + 1

def slope(x):
    return 2 / torch.cosh(x).square()

@rule(gated_tanh)
def bounded(function, value):  # S-shaped around 0
    return enclose_curve(Curve(gated_tanh, slope, slope, right=0.0), gated_tanh, value)
"""

DIFFERENCE = """\
import torch
from robustnas.bounds import boundable, linear_rule

@boundable
class Difference(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x - x.roll(1, 3)

    @staticmethod
    def backward(ctx, slope):
        return slope - slope.roll(-1, 3)

linear_rule(Difference)(lambda radius: radius + radius.roll(1, 3))
"""

THIRD_PARTY = {"square_plus": SQUARE_PLUS, "gated_tanh": GATED, "Difference": DIFFERENCE}


def written(folder: Path, name: str, text: str) -> ModuleType:
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Mixed(nn.Module):
    """An edge of a search space: operations weighted by softmax."""

    def __init__(self, operations: list[Callable[[Tensor], Tensor]]):
        super().__init__()
        self.operations = operations
        self.alpha = nn.Parameter(torch.linspace(-1, 1, len(operations), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.alpha.softmax(dim=0)
        return sum(weight * operation(x) for weight, operation in zip(weights, self.operations, strict=True))


class Supernet(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        mixed = [operation, F.gelu, lambda x: F.max_pool2d(x, 3, 1, 1), lambda x: x]
        self.cells = nn.Sequential(Mixed(mixed), nn.BatchNorm2d(3), Mixed(mixed))
        self.head = nn.Linear(3, 3)
        self.eval().double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.cells(self.stem(images)), 1).flatten(1))


@pytest.mark.usefixtures("rules_put_back")
@pytest.mark.parametrize("name", THIRD_PARTY)
def test_an_operation_of_a_third_party_takes_fifteen_lines(name: str, tmp_path: Path):
    lines = [line for line in THIRD_PARTY[name].splitlines() if line]
    assert 5 < len(lines) <= 15
    operation = getattr(written(tmp_path, name, THIRD_PARTY[name]), name)
    net = Supernet(operation)
    check(net, NORMS[list(THIRD_PARTY).index(name)], IMAGES)
    # the operation itself is what it was
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operation, (x,))
    bound = margins(net, IMAGES, LABELS, ThreatModel("linf", 0.05))
    (slope,) = torch.autograd.grad(bound.sum(), net.cells[0].alpha)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


@pytest.mark.parametrize("kind", ["function", "autograd function"])
def test_an_operation_without_a_rule_is_refused_with_name_place_and_advice(kind: str):
    @boundable
    def soft_sign(x: Tensor) -> Tensor:
        return x / (1 + x.abs())

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: object, *slopes: Tensor) -> Tensor:
            return slopes[0] * 2

    operation, name = (soft_sign, "soft_sign") if kind == "function" else (boundable(Doubled), "Doubled")
    net = Supernet(operation)
    words = rf"^{name} in cells\.0 \(Mixed\): no bound rule.*linear_rule, activation_rule or rule.*docs/bounds\.md"
    for method in METHODS:
        with pytest.raises(UnsupportedOpError, match=words):
            margins(net, IMAGES, LABELS, ThreatModel("linf", 0.1), method)
    # plain tensors pass
    assert net(IMAGES).shape == (2, 3)
