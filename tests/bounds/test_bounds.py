"""Exactness of the bounds where it can be had, and what they promise of epsilon, batches, targets and gradients.

That no admissible image goes below a bound is what `tests/evidence` shows.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.soundness.networks import RandomNetwork
from evidence.soundness.networks import some_images as drawn_images
from evidence.soundness.points import margins_at, some_points
from robustnas.bounds import METHODS, Value, margins
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Pass, Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.value import Memory
from robustnas.threat import DUAL_ORDER, ThreatModel
from support.bounded import plain_margins


def network(seed: int) -> nn.Module:
    return RandomNetwork(seed).double()


def some_images(seed: int) -> tuple[Tensor, Tensor]:
    images, labels = drawn_images(seed)
    return images.double(), labels


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64(method: str):
    (images, labels), threat = some_images(2), ThreatModel("linf", 0.01)
    single = margins(RandomNetwork(2), images.float(), labels, threat, method)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), margins(network(2), images, labels, threat, method), rtol=1e-3, atol=1e-3
    )


def margin_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(K - 1, N, ...)"""
    leaf = images.clone().requires_grad_()
    values = plain_margins(net, leaf, labels)
    return torch.stack([torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in values.T])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_linear_layer_is_exact_by_intervals(norm: str):
    torch.manual_seed(0)
    net, threat = nn.Sequential(nn.Flatten(), nn.Linear(18, 4)).eval().double(), ThreatModel(norm, 0.1)
    images, labels = torch.rand(2, 2, 3, 3, dtype=torch.float64) * 0.6 + 0.2, torch.tensor([3, 1])
    dual = margin_gradients(net, images, labels).flatten(2).norm(p=DUAL_ORDER[norm], dim=2).T
    exact = plain_margins(net, images, labels) - threat.epsilon * dual
    torch.testing.assert_close(margins(net, images, labels, threat, "ibp"), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_slope_at_epsilon_zero_is_the_dual_norm_of_the_gradient(norm: str):
    net, (images, labels) = network(4), some_images(4)
    images, epsilon = images * 0.8 + 0.1, 1e-7
    margin = plain_margins(net, images, labels)
    slope = (margin - margins(net, images, labels, ThreatModel(norm, epsilon))) / epsilon
    dual = margin_gradients(net, images, labels).flatten(2).norm(p=DUAL_ORDER[norm], dim=2).T
    torch.testing.assert_close(slope, dual, rtol=1e-3, atol=1e-3)


def test_a_smaller_box_has_a_larger_bound():
    net, (images, labels) = network(0), some_images(0)
    bounds = [margins(net, images, labels, ThreatModel("linf", e), "ibp") for e in (0.0, 0.001, 0.01, 0.05, 0.3, 1.0)]
    for smaller, larger in itertools.pairwise(bounds):
        assert (smaller >= larger - 1e-9).all()


def test_strongest_is_the_column_of_the_strongest_wrong_class():
    net, (images, labels), threat = network(3), some_images(3), ThreatModel("linf", 0.01)
    for method in METHODS:
        everything = margins(net, images, labels, threat, method)
        strongest = margins(net, images, labels, threat, method, targets="strongest")
        column = plain_margins(net, images, labels).argmin(dim=1, keepdim=True)
        torch.testing.assert_close(strongest, everything.gather(1, column), rtol=1e-9, atol=1e-9)


def test_tightened_intervals_are_exact_where_nothing_but_affine_functions_lies_in_front():
    """Two convolutions on top of each other: interval arithmetic is loose, one backward pass is exact."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 3, 3).double(), nn.Conv2d(3, 2, 2).double()
    kept: list[Value] = []

    def logits(images: Tensor) -> Tensor:
        x = second(first(images))
        if isinstance(x, Value):
            kept.append(x)
        return F.relu(x).flatten(1)

    images = some_images(0)[0] * 0.6 + 0.2
    region = Region(images, "linf", torch.full((2,), 0.2).double())
    bounded_logits(Propagation(logits, region, Pass(backward=True, tightens=True)))
    jacobian = torch.autograd.functional.jacobian(lambda x: second(first(x[None]))[0], images[0])
    exact = 0.2 * jacobian.abs().sum((3, 4, 5))
    unstable = (second(first(images)).abs() < exact).any(dim=0)
    assert unstable.sum() > 5
    for image in range(2):
        torch.testing.assert_close(kept[0].radius[image][unstable], exact[unstable])


@pytest.mark.parametrize("channels", [1, 3])
def test_all_streams_lie_in_memory_as_the_network_has_them(channels: int):
    """Arithmetic on tensors that lie differently takes several times as long."""
    layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept: list[Value] = []

    def logits(images: Tensor) -> Tensor:
        x = images
        for layer in layers:
            x = layer(x)
            assert isinstance(x, Value)
            kept.append(x)
        return x.mean((2, 3))

    images = torch.rand(2, channels, 8, 8).contiguous(memory_format=torch.channels_last)
    bounded_logits(Propagation(logits, Region(images, "linf", torch.full((2,), 0.1)), Pass(backward=True)))
    for value in kept:
        assert value.clean is not None
        for stream in (value.clean, value.centre, value.radius):
            assert stream.is_contiguous(memory_format=torch.channels_last)
            assert not stream.is_contiguous()


SHARED = torch.randn(54, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "weight",
    [SHARED.view(6, 1, 3, 3)[::2], SHARED.view(3, 1, 3, 6)[..., ::2], SHARED.as_strided((3, 1, 3, 3), (1, 27, 3, 1))],
    ids=["with gaps", "with every other column", "entries share memory"],
)
@pytest.mark.parametrize("method", METHODS)
def test_weights_may_lie_anywhere_in_memory(weight: Tensor, method: str):
    images, labels, threat = torch.rand(2, 1, 6, 6).double(), torch.zeros(2).long(), ThreatModel("linf", 0.05)
    assert not weight.is_contiguous()
    found, expected = (
        margins(lambda x, w=w: F.conv2d(x, w).relu().mean((2, 3)), images, labels, threat, method)
        for w in (weight, weight.clone(memory_format=torch.contiguous_format))
    )
    torch.testing.assert_close(found, expected)


def test_no_interval_leads_back_to_the_probe(monkeypatch: pytest.MonkeyPatch):
    """Lines are drawn from intervals; a gradient that came through them would be no slope of any line."""
    seen: list[Tensor] = []

    def see(memory: Memory, value: Value) -> None:
        value.memory = memory
        seen.extend((value.centre, value.radius))

    monkeypatch.setattr(Memory, "add", see)
    images, _ = some_images(0)
    for norm, seed in itertools.product(("linf", "l2"), (0, 6, 9, 11)):  # lines of several kinds, and max pooling
        seen.clear()
        region = Region(images, norm, torch.full((2,), 0.05).double())
        propagation = Propagation(network(seed), region, Pass(backward=True))
        bounded_logits(propagation)
        graphs = [stream for stream in seen if stream.requires_grad]
        assert len(graphs) > 20
        for stream in graphs:
            (path,) = torch.autograd.grad(stream.sum(), propagation.probe, retain_graph=True, allow_unused=True)
            assert path is None


def test_an_image_s_bound_does_not_depend_on_its_batch():
    net, (images, labels), threat = network(5), some_images(5), ThreatModel("linf", 0.01)
    together = margins(net, images, labels, threat, "crown")
    alone = torch.cat([margins(net, images[i : i + 1], labels[i : i + 1], threat, "crown") for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


WINDOWS: list[dict[str, object]] = [
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (2, 3), "stride": 2, "dilation": (1, 2), "ceil_mode": True},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool_alone_is_sound_for_both_signs_and_exact_where_one_entry_dominates(
    window: dict[str, object],
):
    torch.manual_seed(0)
    pool = nn.MaxPool2d(**window)
    shape = pool(torch.zeros(1, 2, 6, 7)).flatten(1).shape[1]
    net = nn.Sequential(pool, nn.Flatten(), nn.Linear(shape, 3)).eval().double()
    images, labels = torch.rand(4, 2, 6, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    threat = ThreatModel("linf", 0.2)
    bound = margins(net, images, labels, threat)
    with torch.no_grad():
        values, _ = margins_at(net, some_points(net, images, labels, threat, 0, draws=60), labels)
    assert (bound <= values + 1e-9).all()
    tiny = ThreatModel("linf", 1e-5)
    interior = images * 0.8 + 0.1
    dual = margin_gradients(net, interior, labels).abs().flatten(2).sum(2).T
    exact = plain_margins(net, interior, labels) - tiny.epsilon * dual
    torch.testing.assert_close(margins(net, interior, labels, tiny), exact, rtol=0, atol=1e-9)


def test_overflow_is_minus_infinity_and_never_nan():
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(12):
        layers += [nn.Linear(18, 18), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(18, 3)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2e3)
    images, labels = torch.rand(3, 2, 3, 3), torch.tensor([0, 1, 2])
    for method in METHODS:
        bound = margins(net, images, labels, ThreatModel("linf", 1.0), method)
        assert bound.isneginf().all()
