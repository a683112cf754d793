"""Activations besides ReLU: their lines enclose them, as tightly as any lines can, and networks of them are bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import margins
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Pass, Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.rules import activations
from robustnas.bounds.rules import curve as curve_rules
from robustnas.bounds.rules.curve import Curve, lines, span
from robustnas.threat import NORMS, ThreatModel
from support.bounded import LABELS, check, derivatives

CURVES: dict[str, Curve] = {
    **activations.CURVES,
    "gelu": activations.GELU,
    "gelu by tanh": activations.GELU_BY_TANH,
    "clamp": activations.clamped(-1.0, 1.0),
    "clamp below": activations.clamped(0.5, torch.inf),
    "clamp above": activations.clamped(-torch.inf, 0.5),
    "abs": activations.ABSOLUTE,
}
FORMATS = (torch.float32, torch.float64)


def intervals(count: int, number_format: torch.dtype, widest: float = 1e4) -> tuple[Tensor, Tensor]:
    """Ends around and far from the places where the curves bend, a tenth of the intervals points."""
    draw = torch.Generator().manual_seed(0)
    middle, left, power = (torch.rand(count, dtype=torch.float64, generator=draw) for _ in range(3))
    width = widest * 1e-8**power
    width[::10] = 0.0
    lower = ((middle * 2 - 1) * 9 - left * width).to(number_format)
    return lower, (lower + width.to(number_format)).maximum(lower)


def at(slope: Tensor, offset: Tensor | None, x: Tensor) -> Tensor:
    """The line at x (I, P), computed with more digits."""
    assert offset is not None
    return slope.double()[:, None] * x.double() + offset.double()[:, None]


@pytest.mark.parametrize("number_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", CURVES)
def test_lines_and_span_enclose_the_function_as_computed(name: str, number_format: torch.dtype):
    curve = CURVES[name]
    lower, upper = intervals(1000, number_format)
    drawn, (lowest, highest) = lines(curve, lower, upper), span(curve, lower, upper)
    share = torch.linspace(0, 1, 101, dtype=number_format)
    near = torch.linspace(-9, 9, 181, dtype=number_format).expand(len(lower), -1)
    x = torch.cat([lower[:, None] + (upper - lower)[:, None] * share, near], dim=1)
    x = x.maximum(lower[:, None]).minimum(upper[:, None])
    exact = curve.value(x).double()
    # what the last unit of a function of another size, or computed in another order, may be
    unit = 2 * torch.finfo(number_format).eps * exact.abs()
    assert (at(drawn.lower_slope, drawn.lower_offset, x) <= exact + unit).all()
    assert (at(drawn.upper_slope, drawn.upper_offset, x) >= exact - unit).all()
    assert (lowest[:, None].double() <= exact + unit).all()
    assert (highest[:, None].double() >= exact - unit).all()
    # tight: span and lines are reached, the lines of a point are its value
    unit = 40 * torch.finfo(number_format).eps * (1 + lower.abs().maximum(upper.abs()).double())
    point = lower == upper
    assert point.sum() >= 100
    for line in ((drawn.lower_slope, drawn.lower_offset), (drawn.upper_slope, drawn.upper_offset)):
        gap = (at(*line, x) - exact).abs()
        assert (gap[point] <= unit[point][:, None]).all()
    ends = curve.value(torch.stack([lower, upper]))
    assert (highest.double() - ends.amax(0) <= unit).all()
    if curve.valley is not None:
        ends = torch.cat([ends, curve.value(torch.full_like(lower, curve.valley).clamp(lower, upper))[None]])
    assert (ends.amin(0) - lowest.double() <= unit).all()


RISING_TWICE = Curve(
    lambda x: torch.where(x < -1, 2 * x + 1.5, torch.where(x < 1, x / 2, x - 0.5)),
    lambda x: torch.full_like(x, 0.5),
    lambda x: torch.where(x < 0, 2.0, 1.0).to(x),
    left=-1.0,
    right=1.0,
    straight=True,
)
"""Its first concave piece may stand out above a line that touches the last."""


@pytest.mark.parametrize("name", [*CURVES, "rising twice"])
def test_lines_enclose_wherever_the_search_for_tangents_ends(name: str, monkeypatch: pytest.MonkeyPatch):
    """Soundness does not rest on the search: the points are drawn instead."""
    draw = torch.Generator().manual_seed(2)

    def drawn_point(curve: Curve, derivative: object, end: Tensor, near: Tensor, away: Tensor, sign: float) -> Tensor:
        return near + (away - near) * torch.rand(near.shape, dtype=near.dtype, generator=draw)

    monkeypatch.setattr(curve_rules, "_touching", drawn_point)
    lower, upper = intervals(3000, torch.float64, widest=30.0)
    curve = {**CURVES, "rising twice": RISING_TWICE}[name]
    drawn = lines(curve, lower, upper)
    x = lower[:, None] + (upper - lower)[:, None] * torch.linspace(0, 1, 101, dtype=torch.float64)
    exact = curve.value(x)
    assert (at(drawn.lower_slope, drawn.lower_offset, x) <= exact).all()
    assert (at(drawn.upper_slope, drawn.upper_offset, x) >= exact).all()


@pytest.mark.parametrize("name", CURVES)
def test_no_lines_are_tighter_at_the_middle(name: str):
    """The height of the convex and of the concave envelope there, from all chords between points of a grid."""
    curve = CURVES[name]
    lower, upper = intervals(60, torch.float64, widest=20.0)
    middle, width = (lower + upper) / 2, upper - lower
    share = torch.linspace(0, 0.5, 201, dtype=torch.float64)
    left, right = lower[:, None] + width[:, None] * share, upper[:, None] - width[:, None] * share
    part = (share[-1] - share)[:, None] / (2 * share[-1] - share[:, None] - share[None, :]).clamp_min(1e-12)
    part[-1, -1] = 0.5
    # row: left end, column: right end; the chord's height at the middle
    chords = curve.value(left)[:, :, None] * (1 - part) + curve.value(right)[:, None, :] * part
    drawn = lines(curve, lower, upper)
    tolerance = 2e-5 * width.square() + 1e-12 * (1 + lower.abs() + upper.abs())
    below = at(drawn.lower_slope, drawn.lower_offset, middle[:, None])[:, 0]
    above = at(drawn.upper_slope, drawn.upper_offset, middle[:, None])[:, 0]
    assert (chords.amin((1, 2)) - below <= tolerance).all()
    assert (above - chords.amax((1, 2)) <= tolerance).all()


@pytest.mark.parametrize("number_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", CURVES)
def test_wide_and_infinite_ends_are_never_unsound(name: str, number_format: torch.dtype):
    curve = CURVES[name]
    largest = torch.finfo(number_format).max
    ends = [-torch.inf, -largest, -largest / 10, -1e30, -1e10, -2.0, 1.0, 1e10, 1e30, largest / 10, largest, torch.inf]
    pairs = [(low, high) for low in ends for high in ends if low <= high]
    lower, upper = torch.tensor(pairs, dtype=number_format).T
    drawn, (lowest, highest) = lines(curve, lower, upper), span(curve, lower, upper)
    x = torch.cat([torch.linspace(-9, 9, 37), torch.tensor([-1e30, -1e10, 1e10, 1e30])]).to(number_format)
    exact = curve.value(x).double()[None, :]
    inside = (x >= lower[:, None]) & (x <= upper[:, None])
    unit = 4 * torch.finfo(number_format).eps * exact.abs()
    checked = 0
    for below, above in (
        (at(drawn.lower_slope, drawn.lower_offset, x[None]), at(drawn.upper_slope, drawn.upper_offset, x[None])),
        (lowest.double()[:, None], highest.double()[:, None]),
    ):
        # NaN says nothing, which is no violation
        assert not (inside & (below > exact + unit)).any()
        assert not (inside & (above < exact - unit)).any()
        checked += int((inside & (below <= exact + unit) & (above >= exact - unit)).sum())
    assert checked > 100
    if name in ("sigmoid", "tanh", "hardsigmoid", "clamp"):
        assert (drawn.upper_offset - drawn.lower_offset).isfinite().all()
    missing = lines(curve, lower * torch.nan, upper)
    assert missing.lower_offset is not None
    assert missing.lower_offset.isnan().all()


@pytest.mark.parametrize("name", CURVES)
def test_lines_are_differentiable_in_the_ends(name: str):
    """Slopes, offsets and spans, against central differences; entries are independent, so all at once."""
    curve = CURVES[name]
    draw = torch.Generator().manual_seed(1)
    lower = torch.randn(400, dtype=torch.float64, generator=draw) * 3 - 0.5
    upper = lower + torch.rand(400, dtype=torch.float64, generator=draw) * 6 + 0.3
    ends = (lower.requires_grad_(), upper.requires_grad_())

    def drawn(lower: Tensor, upper: Tensor) -> list[Tensor]:
        found = lines(curve, lower, upper)
        assert found.lower_offset is not None
        assert found.upper_offset is not None
        return [
            *(found.lower_slope, found.lower_offset, found.upper_slope, found.upper_offset),
            *span(curve, lower, upper),
        ]

    step = 1e-6
    for which in (0, 1):
        moved = []
        for sign in (1, -1):
            moved.append(drawn(*(end.detach() + sign * step * (which == place) for place, end in enumerate(ends))))
        for found, above, below in zip(drawn(*ends), *moved, strict=True):
            slope: Tensor = torch.zeros_like(lower)
            if found.requires_grad:
                (slope,) = torch.autograd.grad(
                    found.sum(), ends[which], retain_graph=True, allow_unused=True, materialize_grads=True
                )
            torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-4, atol=1e-5)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": lambda: nn.SiLU(inplace=True),
    "mish": nn.Mish,
    "hardswish": lambda: nn.Hardswish(inplace=True),
    "hardsigmoid": nn.Hardsigmoid,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "steep elu": lambda: nn.ELU(1.5),
    "flat elu": lambda: nn.ELU(0.3),
    "celu": lambda: nn.CELU(2.0),
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU(approximate="tanh"),
    "hardtanh": lambda: nn.Hardtanh(-0.3, 0.4),
    "relu6": nn.ReLU6,
    "softplus": nn.Softplus,
    "softplus that jumps": lambda: nn.Softplus(2.0, 1.0),
    "log-sigmoid": nn.LogSigmoid,
    "prelu": lambda: nn.PReLU(7, 0.2),
    "prelu that falls and rises": lambda: nn.PReLU(1, -0.5),
    "steep prelu": lambda: nn.PReLU(1, 1.5),
}


def network(activation: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 7), activation(), nn.Linear(7, 7), activation(), nn.Linear(7, 3))
    with torch.no_grad():
        net[1].weight.mul_(4.0)
        net[3].weight.mul_(3.0)
    return net.eval().double()


IMAGES = torch.rand(2, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", MODULES)
def test_networks_are_bounded_by_every_method(name: str):
    """The norm matters in front of the first layer only: each has its turn."""
    norm = NORMS[list(MODULES).index(name) % len(NORMS)]
    # softplus as torch computes it may lie anywhere below its exact form by what it jumps
    bounds = check(network(MODULES[name]), norm, IMAGES, atol=1.0 if "jumps" in name else 1e-9)
    # lines bring something
    assert (bounds["crown"] - bounds["ibp"] >= 0).all()
    assert (bounds["crown"] > bounds["ibp"]).any()


@pytest.mark.parametrize("name", MODULES)
def test_the_bound_of_a_network_is_differentiable(name: str):
    net, threat = network(MODULES[name]), ThreatModel("linf", 0.1)
    weights = [parameter for parameter in net.parameters() if parameter.dim() == 2]
    found = derivatives(lambda: margins(net, IMAGES, LABELS, threat, "crown-ibp").sum(), weights)
    torch.testing.assert_close(found[:, 0], found[:, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_radii_below_the_rounding_of_their_centres_are_kept(name: str):
    activation = MODULES[name]().eval()

    def logits(images: Tensor) -> Tensor:
        return activation(((images - 0.4) * 2).flatten(1)[:, :7])

    region = Region(IMAGES.float(), "linf", torch.full((2,), 1e-11))
    found = bounded_logits(Propagation(logits, region, Pass(backward=True)))
    points = IMAGES.clone().requires_grad_()
    activation.double()
    (slopes,) = torch.autograd.grad(logits(points).sum(), points)
    assert (found.radius >= 0.999e-11 * slopes.flatten(1)[:, :7].abs()).all()


SPELLED: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.clamp": lambda x: torch.clamp(x, 0.2, 0.7),
    "clamp, max first by name": lambda x: x.clamp(max=0.6, min=0.3),
    "clamp from below": lambda x: x.clamp(0.4),
    "clamp_min": lambda x: torch.clamp_min(x, 0.4),
    "clamp_max in place": lambda x: (x * 2).clamp_max_(0.6),
    "clip": lambda x: x.clip(0, 1),
    "abs": lambda x: abs(x - 0.5),
    "torch.abs": lambda x: torch.abs(x - 0.5),
    "absolute": lambda x: (x - 0.5).absolute(),
    "sigmoid": lambda x: torch.sigmoid(x * 3),
    "sigmoid in place": lambda x: (x * 3).sigmoid_(),
    "F.sigmoid": lambda x: F.sigmoid(x),
    "F.tanh": lambda x: F.tanh(x),
    "tanh in place": lambda x: torch.tanh_(x * 3),
    "relu6": lambda x: F.relu6(x * 7),
    "hardtanh in place": lambda x: F.hardtanh_(x - 0.5, -0.2, 0.2),
    "elu in place": lambda x: F.elu_(x - 0.5),
    "elu": lambda x: F.elu(x - 0.5, 0.4, True),
    "selu in place": lambda x: torch.selu_(x - 0.5),
    "logsigmoid": lambda x: F.logsigmoid(x),
    "prelu of channels": lambda x: F.prelu(x - 0.5, torch.tensor([0.1, 0.9], dtype=x.dtype)),
}


@pytest.mark.parametrize("name", SPELLED)
def test_every_spelling_is_known_and_sound(name: str):
    torch.manual_seed(0)
    head = nn.Linear(8, 3).double()

    def net(images: Tensor) -> Tensor:
        return head(SPELLED[name](images * 1.0).flatten(1))

    check(net, "linf", IMAGES)
