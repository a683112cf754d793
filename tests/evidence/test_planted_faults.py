"""Planted faults: what the soundness campaign would see if a rule, a minimum or a bound were wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.soundness.ledger import Case, Ledger
from evidence.soundness.networks import CLASSES, Open, RandomNetwork, blind, narrowed, replaced, some_images
from evidence.soundness.points import margins_at, some_points
from robustnas import bounds
from robustnas.bounds import AlphaCrown, BoundMethod, Branching, Lines, activation_rule, ascent, linear_rule
from robustnas.bounds.branching.problem import Part, Split
from robustnas.bounds.region import Region
from robustnas.threat import NORMS, ThreatModel


def tight_case(seed: int, norm: str, epsilon: float = 1e-3) -> Case:
    return Case(f"tight {seed}", RandomNetwork(seed), *some_images(seed), ThreatModel(norm, epsilon), ("crown-ibp",))


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_higher_by_a_fifth_of_their_width_are_caught(norm: str):
    """What the campaign would have seen if the bounds were wrong, on networks where they are nearly tight."""
    caught = 0
    for seed in range(10):
        case, ledger = tight_case(seed, norm), Ledger()
        network, images = copy.deepcopy(case.network).double(), case.images.double()
        points = some_points(network, images, case.labels, case.threat, seed)
        with torch.no_grad():
            values = margins_at(network, points, case.labels)[0]
            bound = bounds.margins(network, images, case.labels, case.threat, "crown-ibp")
        higher = bound + 0.2 * (values[0] - bound)
        caught += ledger.check(case, values, higher, "float64", "crown-ibp", torch.full_like(bound, 1e-9)) > 0
    assert caught >= 8


def chord(lower: Tensor, upper: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Slope and offset."""
    slope = (function(upper) - function(lower)) / (upper - lower).clamp_min(1e-30)
    return slope, function(lower) - slope * lower


def without_offset(lower: Tensor, upper: Tensor, function: Callable[[Tensor], Tensor]) -> Lines:
    """ReLU under its chord moved down to the origin: below the function on both sides."""
    return Lines((upper > -lower).to(lower), None, chord(lower, upper, function)[0], torch.zeros_like(lower))


def steep_below(lower: Tensor, upper: Tensor, function: Callable[[Tensor], Tensor]) -> Lines:
    """ReLU with its chord as the line below, too."""
    return Lines(*chord(lower, upper, function), *chord(lower, upper, function))


def drawn_by(lines: Callable[..., Lines]) -> Callable[..., Any]:
    """Exchanges ReLU's rule for the one that `activation_rule` makes of the lines."""

    def stand_in(x: Tensor) -> Tensor:
        return torch.relu(x)

    def exchanged(rule: Callable[..., Any]) -> Callable[..., Any]:
        activation_rule(stand_in)(lines)
        handler: Callable[..., Any] = bounds.RULES.pop(stand_in)
        return lambda function, value, inplace=False: handler(torch.relu, value)

    return exchanged


def signed_radius(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A convolution whose radius goes through the positive weights alone instead of |W|."""

    def stand_in(x: Tensor, *rest: Any) -> Tensor:
        return F.conv2d(x, *rest)

    linear_rule(stand_in)(lambda radius, weight, bias=None, *rest: F.conv2d(radius, weight.clamp_min(0), None, *rest))
    handler: Callable[..., Any] = bounds.RULES.pop(stand_in)
    return lambda function, value, *rest: handler(F.conv2d, value, *rest)


FAULTS: dict[str, tuple[Any, Any, str, float]] = {
    "relu too narrow": (torch.relu, narrowed(0.8), "ibp", 0.1),
    "relu without offset": (torch.relu, drawn_by(without_offset), "crown-ibp", 0.1),
    "relu steep below": (torch.relu, drawn_by(steep_below), "crown-ibp", 0.4),
    "max pooling too narrow": (F.max_pool2d, narrowed(0.8), "crown-ibp", 0.1),
    "batch norm too narrow": (F.batch_norm, narrowed(0.8), "crown-ibp", 0.1),
    "convolution with signed radius": (F.conv2d, signed_radius, "crown-ibp", 0.1),
}
"""A function, what is done to its rule, a method that shows it, and epsilon."""


class Plain(nn.Module):
    """Convolution, batch norm, ReLU, convolution, ReLU, max pooling, a linear layer without hidden spread.

    Each entry of the last layer is reached along few paths, so that even intervals are nearly tight.
    """

    def __init__(self, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(2, 2, 1),
                nn.BatchNorm2d(2),
                nn.ReLU(),
                nn.Conv2d(2, 3, 2, groups=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            self.head = nn.Linear(3 * 2 * 2, CLASSES)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rule_is_caught(fault: str):
    function, change, method, epsilon = FAULTS[fault]
    right, wrong = Ledger(), Ledger()
    for seed in range(8):
        case = Case(f"{fault} {seed}", Plain(seed), *some_images(seed), ThreatModel("linf", epsilon), (method,), seed)
        right.double(case)
        with replaced(function, change):
            wrong.double(case)
    assert not right.violations
    assert len(wrong.violations) >= 2, f"{fault}: {wrong.table()}"


def unbounded_slopes(patched: pytest.MonkeyPatch) -> None:
    """Lower lines of rectifiers may fall, so that they lie above the function where that is 0."""
    right = ascent.drops

    def wrong(propagation: Any, clean: Tensor, coefficients: Any, rows: Any) -> Tensor:
        found = right(propagation, clean, coefficients, rows)
        rows.first = rows.first and {place: (slope, -4.0) for place, (slope, _) in rows.first.items()}
        return found

    patched.setattr(ascent, "drops", wrong)


def forgotten_halves(patched: pytest.MonkeyPatch) -> None:
    """Of every part that is split one half alone is looked at."""
    halves = Part.halves
    patched.setattr(Part, "halves", lambda self: (halves(self)[0],))


def turned_multipliers(patched: pytest.MonkeyPatch) -> None:
    """A split's term is added where it is positive in its part."""
    sign = Split.sign.fget
    patched.setattr(Split, "sign", property(lambda self: -sign(self)))


def dense(seed: int) -> nn.Module:
    """Two hidden layers, mixed so that lines lose much and splits gain much."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Linear(60, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))
        network = nn.Sequential(nn.Flatten(), *layers).eval()
        for layer in network.children():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
    return network


OPTIMISING: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], BoundMethod]] = {
    "slopes that fall": (unbounded_slopes, AlphaCrown(steps=6, inner=2)),
    "half of each part": (forgotten_halves, Branching(steps=4, parts=8, seconds=1e9)),
    "multipliers of the wrong sign": (turned_multipliers, Branching(steps=4, parts=8, seconds=1e9)),
}


@pytest.mark.parametrize("fault", OPTIMISING)
def test_a_fault_of_what_optimises_or_branches_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch):
    change, method = OPTIMISING[fault]
    right, wrong, threat = Ledger(), Ledger(), ThreatModel("linf", 0.05)
    for seed in range(4):
        images, labels = some_images(seed, 1)
        network = Open(dense(seed), images, labels, threat, 0.5)
        case = Case(f"{fault} {seed}", network, images, labels, threat, (method,), seed)
        with monkeypatch.context() as patched, blind():
            right.double(case)
            change(patched)
            wrong.double(case)
    assert not right.violations
    assert len(wrong.violations) >= 2, f"{fault}: {wrong.table()}"


def test_a_wrong_minimum_over_the_region_is_caught(monkeypatch: pytest.MonkeyPatch):
    minimum = Region.minimum
    for norm in NORMS:
        wrong = Ledger()
        with monkeypatch.context() as patched:
            patched.setattr(Region, "minimum", lambda self, slopes: 0.8 * minimum(self, slopes))
            for seed in range(6):
                wrong.double(tight_case(seed, norm))
        assert len(wrong.violations) >= 4, norm
