"""Gradients of the bounds against finite differences, in float64, away from places where a slope choice
flips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.nn import functional as F

from robustnas.bounds import (
    interval_and_linear_margins,
    linear_bounds,
    log_widths,
    log_widths_and_logits,
    log_widths_within,
    margins,
    margins_and_logits,
)
from robustnas.bounds.rules.max_pool import _Second, _Windows
from robustnas.bounds.rules.rectifier import (
    _Enclosure,
    _Pulled,
    enclosure,
    pulled,
    pulled_along,
    rectifier_lines,
)
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts
from support.bounded import derivatives


class Mixed(nn.Module):
    """A softmax-weighted sum of convolution, both poolings and skip, twice; alpha is (2, 4)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.alpha = nn.Parameter(torch.randn(2, 4))
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.head = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem((images - 0.5) / 0.3)
        for row, conv, norm in zip(self.alpha.softmax(dim=1), self.convs, self.norms, strict=True):
            ops = (
                norm(conv(F.relu(x))),
                F.max_pool2d(x, 3, 1, 1),
                F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
                x,
            )
            x = sum(weight * op for weight, op in zip(row, ops, strict=True))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def setting() -> tuple[Mixed, Tensor, Tensor]:
    net = Mixed().eval().double()
    images = torch.rand(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return net, images, torch.tensor([0, 2])


@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.02), ("l2", 0.1)])
@pytest.mark.parametrize("targets", ["all", "strongest"])
def test_gradient_agrees_with_finite_differences(method: str, norm: str, epsilon: float, targets: str):
    net, images, labels = setting()
    threat = ThreatModel(norm, epsilon)

    def bound() -> Tensor:
        return margins(net, images, labels, threat, method, targets).sum()

    parameters = [net.alpha, net.stem.weight, net.convs[0].weight, net.head.weight, net.norms[1].weight]
    found = derivatives(bound, parameters)
    assert (found[:, 0].abs() > 1e-6).all()
    torch.testing.assert_close(found[:, 0], found[:, 1], rtol=1e-4, atol=1e-7)


def cells() -> nn.Module:
    """Two cells with separable and dilated convolutions, a skip and a max pooling, in channels-last float64."""
    space = Darts(network_cells=2, network_channels=2)
    torch.manual_seed(2)
    network = space.network(space.published["DARTS_V2"], (1, 6, 6), 4).eval().double()
    return network.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("make", [Mixed, cells])
def test_several_functions_at_once_have_the_bounds_and_gradients_of_each_alone(make: Callable[[], nn.Module]):
    torch.manual_seed(0)
    net = make().eval().double()
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    threat, classes = ThreatModel("linf", 0.01), net(images).shape[1]
    coefficients = torch.randn(4, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    together = linear_bounds(net, images, coefficients, threat)
    weights = torch.linspace(1, 2, together.numel(), dtype=torch.float64).view_as(together)
    gradients = torch.autograd.grad((weights * together).sum(), parameters)
    alone = torch.cat([linear_bounds(net, images, row[None], threat) for row in coefficients], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    expected = torch.autograd.grad((weights * alone).sum(), parameters)
    torch.testing.assert_close(gradients, expected, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(linear_bounds(net, images, coefficients, threat), alone, rtol=1e-10, atol=1e-10)


def test_margins_of_two_methods_from_one_pass_are_those_of_each():
    net, images, labels = setting()
    epsilon = torch.full((2,), 0.02, dtype=torch.float64)
    found = interval_and_linear_margins(net, images, labels, "linf", epsilon)
    expected = [margins(net, images, labels, ThreatModel("linf", 0.02), method) for method in ("ibp", "crown-ibp")]
    assert (expected[1] > expected[0]).any()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(each.sum(), net.alpha, retain_graph=True)[0] for each in (one, other)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("compute", [log_widths_and_logits, margins_and_logits])
@pytest.mark.parametrize("scale", [1.0, 1e9, 1e30])
def test_clean_logits_of_a_pass_are_the_network_s_with_their_gradient(compute: Callable[..., Any], scale: float):
    net, images, labels = setting()
    with torch.no_grad():
        net.norms[0].weight.mul_(scale)  # beyond 2**20 widths are carried with an exponent
    epsilon = torch.full((2,), 0.02, dtype=torch.float64)
    for method, targets in (("crown-ibp", "strongest"), ("ibp", "all")):
        bounds, logits = compute(net, images, labels, "linf", epsilon, method, targets)
        assert bounds.isfinite().all()
        expected = net(images)
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12 * scale)
        parameters = [net.alpha, net.stem.weight]
        found, wanted = (torch.autograd.grad(one.square().sum(), parameters) for one in (logits, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * scale**2)
    with torch.no_grad():
        assert not compute(net, images, labels, "linf", epsilon)[1].requires_grad


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e60])
def test_the_strongest_class_is_that_of_the_clean_logits_at_any_exponent(scale: float):
    net, images, labels = setting()
    with torch.no_grad():
        net.norms[0].weight.mul_(scale)
        clean = -net(images)  # of which the last class is the strongest
        epsilon = torch.full((2,), 0.02, dtype=torch.float64)
        for true in range(clean.shape[1]):
            labels = torch.full_like(labels, true)
            every, one = (
                log_widths_within(lambda x: -net(x), images, labels, "linf", epsilon, "crown-ibp", targets)
                for targets in ("all", "strongest")
            )
            others = torch.arange(clean.shape[1]) != true
            strongest = clean[:, others].argmax(dim=1, keepdim=True)
            torch.testing.assert_close(one, every.gather(1, strongest), rtol=1e-9, atol=1e-9)


def test_gradient_reaches_mixing_weights_given_as_plain_tensors():
    net, images, labels = setting()
    weight = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)

    def forward(x: Tensor) -> Tensor:
        return weight[0] * net(x) + net(1.0 - x) * weight[1]

    margins(forward, images, labels, ThreatModel("linf", 0.01)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0


def test_no_graph_is_built_where_gradients_are_off():
    net, images, labels = setting()
    with torch.no_grad():
        for method in ("ibp", "crown-ibp", "crown"):
            assert not margins(net, images, labels, ThreatModel("linf", 0.01), method).requires_grad


def test_gradients_are_finite_where_intervals_are_points():
    net, images, labels = setting()
    for norm in ("linf", "l2"):
        gradients = torch.autograd.grad(
            margins(net, images.round(), labels, ThreatModel(norm, 0.0)).sum(), list(net.parameters())
        )
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_crown_s_gradient_holds_tightened_intervals_fixed_and_the_value_is_the_same_without_a_graph():
    net, images, labels = setting()
    threat = ThreatModel("linf", 0.02)
    with_graph = margins(net, images, labels, threat, "crown")
    with torch.no_grad():
        torch.testing.assert_close(with_graph.detach(), margins(net, images, labels, threat, "crown"))
    (gradient,) = torch.autograd.grad(with_graph.sum(), net.alpha)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def intervals(seed: int) -> tuple[Tensor, Tensor]:
    """(3, 2, 4) ends: kinked, stable, points and ends at zero."""
    draw = torch.Generator().manual_seed(seed)
    lower = torch.randn(3, 2, 4, dtype=torch.float64, generator=draw)
    upper = lower + torch.rand(lower.shape, dtype=torch.float64, generator=draw)
    lower[0, 0, 0] = upper[0, 0, 0] = 0.7
    lower[1, 0, 0] = upper[1, 0, 0] = -0.7
    return lower.requires_grad_(), upper.requires_grad_()


def with_lines(centre: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    return _Enclosure.apply(centre, radius, True)


def without_lines(centre: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    return _Enclosure.apply(centre, radius, False)


def test_the_rectifiers_enclosure_is_the_general_one():
    checked = 0
    for seed in range(5):
        lower, upper = intervals(seed)
        lines = rectifier_lines(lower, upper, 0.0)
        low, high = F.relu(lower), F.relu(upper)
        expected = ((low + high) / 2, (high - low) / 2, lines.upper_slope, lines.upper_offset)
        slopes = [torch.randn_like(one) for one in expected]
        gradients = torch.autograd.grad(expected, (lower, upper), slopes)
        for function in (enclosure, with_lines):
            found = function((lower + upper) / 2, (upper - lower) / 2)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            # where the interval is a point, the chord is constant in one form and has a slope of 1/tiny in the other
            wide = (upper > lower).detach()
            for one, other in zip(torch.autograd.grad(found, (lower, upper), slopes), gradients, strict=True):
                torch.testing.assert_close(one[wide], other[wide], rtol=1e-9, atol=1e-9)
            assert torch.equal(found[2].round(), lines.lower_slope)
            checked += int(wide.sum())
    assert checked > 200
    lower, upper = intervals(1)
    wide = [end.detach()[2].requires_grad_() for end in ((lower + upper) / 2, (upper - lower) / 2)]
    assert gradgradcheck(with_lines, wide)
    for seed in range(5):
        ends = [end.detach() for end in intervals(seed)]
        inputs = [((ends[0] + ends[1]) / 2).requires_grad_(), ((ends[1] - ends[0]) / 2).requires_grad_()]
        found, expected = without_lines(*inputs), enclosure(*inputs)[:2]
        slopes = [torch.randn_like(one) for one in expected]
        for one, other in zip(
            (*found, *torch.autograd.grad(found, inputs, slopes)),
            (*expected, *torch.autograd.grad(expected, inputs, slopes)),
            strict=True,
        ):
            there = (inputs[1] > 0).detach()
            torch.testing.assert_close(one[there], other[there], rtol=1e-12, atol=1e-12)
    assert gradgradcheck(without_lines, wide)
    nothing = torch.full((1,), torch.nan)
    assert all(stream.isnan().all() for stream in (*with_lines(nothing, nothing), *without_lines(nothing, nothing)))


def test_a_radius_below_the_centre_s_rounding_survives_the_rectifier_and_max_pooling():
    centre = torch.tensor([[[[0.7, 0.2], [-0.7, 0.1]]]])
    radius = torch.full_like(centre, 1e-9)
    assert torch.equal(centre + radius, centre)
    assert enclosure(centre, radius)[1].flatten().tolist() == pytest.approx([1e-9, 1e-9, 0.0, 1e-9], rel=1e-6)

    class Pooled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.max_pool2d(images, 2).flatten(1) * torch.tensor([1.0, -1.0, 0.5])

    images = torch.tensor([0.9, 0.5, 0.4]).view(1, 3, 1, 1) * torch.tensor([[1.0, 0.9], [0.8, 0.7]])
    bound = margins(Pooled().eval(), images, torch.tensor([0]), ThreatModel("linf", 1e-9), "ibp")
    clean = margins(Pooled().eval(), images, torch.tensor([0]), ThreatModel("linf", 0.0), "ibp")
    assert bound.shape == clean.shape == (1, 2)
    widths = log_widths(Pooled().eval(), images, torch.tensor([0]), ThreatModel("linf", 1e-9), "crown-ibp").exp()
    assert widths.flatten().tolist() == pytest.approx([2e-9, 1.5e-9], rel=1e-5)


@pytest.mark.parametrize("rows", [(), (3,)])
@pytest.mark.parametrize("missing", [None, 0, 1])
def test_the_rectifiers_pull_has_the_gradients_of_its_definition(missing: int | None, rows: tuple[int, ...]):
    draw = torch.Generator().manual_seed(3)
    lower, upper = (end.detach() for end in intervals(4))
    ends = (lower + upper) / 2, (upper - lower) / 2
    _, _, chord, offset = (one.detach().requires_grad_() for one in enclosure(*ends))
    clean = (lower + (upper - lower) * torch.rand(lower.shape, dtype=lower.dtype, generator=draw)).requires_grad_()
    slope = torch.randn((*rows, *lower.shape), dtype=lower.dtype, generator=draw).requires_grad_()
    inputs = (slope, clean, chord, offset)
    along = [
        pulled_along(each, clean, F.relu(clean), chord.round(), chord, offset) for each in slope.view(-1, *lower.shape)
    ]
    for one, other in zip(pulled(*inputs), zip(*along, strict=True), strict=True):
        torch.testing.assert_close(one, torch.stack(other).view_as(one), rtol=1e-12, atol=1e-12)
    gradients = []
    for function in (pulled, _Pulled.apply):
        outputs = [one for index, one in enumerate(function(*inputs)) if index != missing]
        weights = [torch.linspace(1, 2, one.numel(), dtype=one.dtype).view(one.shape) for one in outputs]
        gradients.append(torch.autograd.grad(outputs, inputs, weights, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert gradgradcheck(_Pulled.apply, inputs)


def test_the_second_largest_of_windows_and_its_gradient():
    checked = 0
    for window in (
        {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
        {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 1), "dilation": (2, 1)},
        {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)},
    ):
        for seed in range(3):
            draw = torch.Generator().manual_seed(seed)
            values = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=draw)
            # seed 0 has ties
            values = (values.mul(2).round() if seed == 0 else values).requires_grad_()
            pooled, _ = F.max_pool2d(values, **window, ceil_mode=True, return_indices=True)
            windows = _Windows(values, pooled, **window)
            second = _Second.apply(values, windows)
            padded = windows.padded(values, -torch.inf)
            entries = torch.stack([padded[place] for place in windows.places])
            torch.testing.assert_close(entries.amax(0), pooled)
            expected = entries.sort(dim=0).values[-2]
            there = expected.isfinite()
            assert torch.equal(second[there], expected[there])
            slope = torch.randn(second.shape, dtype=torch.float64, generator=draw) * there
            (found,) = torch.autograd.grad(second, values, slope)
            # of equal entries the first takes all
            torch.testing.assert_close(found.sum(), slope.sum())
            if seed:
                wanted = torch.where(there, expected, 0.0)
                torch.testing.assert_close(found, torch.autograd.grad(wanted, values, slope)[0])
            checked += int(there.sum())
    assert checked > 300
