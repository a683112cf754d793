"""The certified-bound metric: the margin bound as a score."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustnas.bounds import margins
from robustnas.errors import RunError
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.certified_bound import START, CertifiedBound
from robustnas_plugins.search_spaces.darts import Darts

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2])
THREAT = ThreatModel("linf", 0.05)


def network(layers: int = 1, scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    modules: list[nn.Module] = [nn.Flatten()]
    for _ in range(layers):
        modules += [nn.Linear(16, 16), nn.ReLU()]
    net = nn.Sequential(*modules, nn.Linear(16, 3)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    return net


def test_defaults_are_the_strongest_wrong_class_by_crown_ibp_at_the_threat():
    net = network()
    score = CertifiedBound().score(net, IMAGES, LABELS, THREAT)
    assert score.shape == (3,)
    torch.testing.assert_close(score, margins(net, IMAGES, LABELS, THREAT, "crown-ibp", "strongest").squeeze(1))
    score.sum().backward()
    assert net[1].weight.grad is not None
    assert net[1].weight.grad.abs().max() > 0


def test_options_are_honoured():
    net = network()
    expected = margins(net, IMAGES, LABELS, ThreatModel("linf", 1 / 255), "ibp").mean(dim=1)
    metric = CertifiedBound(method="ibp", epsilon="1/255", targets="mean")
    torch.testing.assert_close(metric.score(net, IMAGES, LABELS, THREAT), expected)


def test_overflow_is_an_error_that_says_what_to_try():
    with pytest.raises(
        RunError, match=r"overflowed .* linf 0\.05; use scale: log, a smaller epsilon for the metric.*fewer cells"
    ):
        CertifiedBound().score(network(layers=12, scale=2e3), IMAGES, LABELS, THREAT)


@pytest.mark.parametrize("targets", ["strongest", "mean"])
def test_the_log_scale_is_minus_the_log_of_what_the_ball_takes_from_the_margin(targets: str):
    net = network()
    of = "strongest" if targets == "strongest" else "all"
    bound, clean = (margins(net, IMAGES, LABELS, ThreatModel("linf", epsilon), "ibp", of) for epsilon in (0.05, 0.0))
    score = CertifiedBound(method="ibp", targets=targets, scale="log").score(net, IMAGES, LABELS, THREAT)
    torch.testing.assert_close(score, -(clean - bound).log().mean(dim=1))


def test_the_log_scale_is_usable_where_the_margin_explodes():
    """Ten layers that each multiply the interval: the bound is astronomic, its log and the log's gradient are not."""
    net = network(layers=10, scale=40.0)
    score = CertifiedBound(method="ibp", scale="log").score(net, IMAGES, LABELS, ThreatModel("linf", 1e-3))
    assert CertifiedBound(method="ibp").score(net, IMAGES, LABELS, ThreatModel("linf", 1e-3)).min() < -1e10
    assert score.abs().max() < 100
    score.sum().backward()
    gradient = net[1].weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert 0 < gradient.abs().max() < 100


def test_the_log_scale_of_an_empty_ball_is_finite():
    assert CertifiedBound(epsilon=0, scale="log").score(network(), IMAGES, LABELS, THREAT).isfinite().all()


def test_float64_is_the_same_bound_and_reaches_deeper():
    net = network()
    narrow, wide = (CertifiedBound(precision=p).score(net, IMAGES, LABELS, THREAT) for p in ("float32", "float64"))
    assert wide.dtype == torch.float32
    torch.testing.assert_close(narrow, wide)
    deep = network(layers=12, scale=2e3)
    score = CertifiedBound(precision="float64", scale="log").score(deep, IMAGES, LABELS, THREAT)
    score.sum().backward()
    gradient = deep[1].weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("options", [{"scale": "log"}, {"scale": "margin"}])
def test_normalised_the_score_cannot_be_improved_by_rescaling_logits(options: dict[str, str]):
    net = network()
    plain, normalised = CertifiedBound(**options), CertifiedBound(normalise=True, **options)
    was = [metric.score(net, IMAGES, LABELS, THREAT) for metric in (plain, normalised)]
    (gradient,) = torch.autograd.grad(was[1].sum(), net[-1].weight, retain_graph=True)
    # along the scale of the last layer the score is level
    along = (gradient * net[-1].weight).sum()
    along += (torch.autograd.grad(was[1].sum(), net[-1].bias)[0] * net[-1].bias).sum()
    assert abs(along) < 1e-5
    with torch.no_grad():
        for parameter in net[-1].parameters():
            parameter.mul_(0.01)
    now = [metric.score(net, IMAGES, LABELS, THREAT) for metric in (plain, normalised)]
    torch.testing.assert_close(now[1], was[1])
    assert (now[0] - was[0]).abs().min() > 0.1 * was[0].abs().min()


def test_logits_that_overflow_by_themselves_are_told_as_such():
    net = network()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e30)
    with pytest.raises(RunError, match=r"own logits are not finite in torch\.float32"):
        CertifiedBound(scale="log").score(net, IMAGES, LABELS, ThreatModel("linf", 0.05))


def test_a_ramp_starts_at_a_hundredth_of_epsilon_and_ends_at_epsilon():
    net, metric = network(), CertifiedBound(ramp=0.5)
    for progress, share in ((0.0, START), (0.25, START + (1 - START) / 2), (0.5, 1.0), (1.0, 1.0)):
        expected = margins(net, IMAGES, LABELS, ThreatModel("linf", share * 0.05), "crown-ibp", "strongest")
        torch.testing.assert_close(metric.at(progress).score(net, IMAGES, LABELS, THREAT), expected.squeeze(1))
    assert CertifiedBound().at(0.0) == CertifiedBound()


# at 20 cells statistics so small would take the clean logits themselves beyond float32, to 1e58
@pytest.mark.parametrize(
    ("cells", "channels", "statistics"), [(8, 4, 0.005), pytest.param(20, 2, 0.05, marks=pytest.mark.slow)]
)
def test_at_8_and_20_cells_and_8_255_the_log_scale_is_finite_in_float32_and_equal_to_float64(
    cells: int, channels: int, statistics: float
):
    torch.manual_seed(0)
    net = Darts(cells=cells, channels=channels).supernet((1, 8, 8), 3)
    images = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        net.train()(torch.rand(8, 1, 8, 8))
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_var.mul_(statistics)  # intervals widen faster than any number format can hold
    net.eval()
    found = []
    for precision in ("float32", "float64"):
        metric = CertifiedBound(scale="log", precision=precision)
        score = metric.score(net, images, LABELS[:1], ThreatModel("linf", "8/255"))
        found.append((score, torch.autograd.grad(score.sum(), list(net.alpha.values()))))
    (narrow, slopes), (wide, exact) = found
    assert narrow.max() < -100  # the width is beyond e^88, where float32 ends
    torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-4)
    for one, other in zip(slopes, exact, strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
