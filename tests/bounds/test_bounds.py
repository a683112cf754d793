"""Soundness, exactness and tightness of the bounds: properties over random networks and sampled images."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import METHODS, Value, margins
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Pass, Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.value import Memory
from robustnas.threat import DUAL_ORDER, ThreatModel


class Everything(nn.Module):
    """Every function with a rule that images meet in a network, in a random arrangement of sizes."""

    def __init__(self, seed: int, channels: int = 2, classes: int = 4):
        super().__init__()
        torch.manual_seed(seed)
        groups, dilation = (1, 2, 3)[seed % 3], 1 + seed % 2
        self.stem = nn.Conv2d(channels, 6, 3, padding=1, bias=bool(seed % 2))
        self.norm = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=groups)
        self.strided = nn.Conv2d(6, 6, (3, 1), stride=(1 + seed % 2, 1), padding=(1, 0))
        self.line = nn.Conv1d(6, 3, 3, padding=1)
        self.most = nn.MaxPool2d(3, 1 + seed % 2, 1, ceil_mode=bool(seed % 3))
        self.mean = nn.AvgPool2d(3, 1, 1, count_include_pad=bool(seed % 2))
        self.head = nn.Linear(6 * 4 + 3, classes)
        self.seed = seed
        with torch.no_grad():
            for buffer in (self.norm.running_mean, self.norm.bias):
                buffer.normal_(std=0.3)
            self.norm.weight.normal_()
            self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - torch.tensor([0.4, 0.6], dtype=images.dtype).view(1, 2, 1, 1)) / 0.3
        x = self.norm(self.stem(x))
        y = F.leaky_relu(x, 0.2) if self.seed % 2 else F.relu(x)
        y = -0.3 * self.deep(y) + 0.5 * self.mean(y) + 0.2 * y[:, [1, 0, 2, 3, 5, 4]]
        left, right = y.chunk(2, dim=1)
        y = torch.cat([right, 1.0 - left], dim=1)
        batch, width = y.shape[:2]
        y = y.view(batch, 2, width // 2, *y.shape[2:]).transpose(1, 2).reshape(batch, width, *y.shape[2:])
        y = F.pad(y, (1, 0, 0, 1), value=0.1)
        y = F.relu(self.strided(self.most(y)), inplace=True)
        y = y[:, :, :: 1 + self.seed % 2, 1:].contiguous()
        y += y.clone() / torch.linspace(-2, -1, y.shape[-1], dtype=y.dtype)
        lines = torch.relu(self.line(y.sum(dim=3))).mean(dim=2)
        pooled = F.adaptive_avg_pool2d(F.avg_pool2d(y, 2, ceil_mode=True), 2)
        features = torch.cat([pooled.flatten(1), lines.squeeze(-1).unsqueeze(1).squeeze(1)], dim=1)
        return self.head(F.dropout(features, 0.5, self.training))


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    return Everything(seed).eval().to(dtype)


def some_images(seed: int, count: int = 2, size: tuple[int, int] = (5, 6)) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, *size, dtype=torch.float64, generator=draw)
    # some pixels at the edge of the box, as in real images
    images = torch.where(torch.rand(images.shape, generator=draw) < 0.3, images.round(), images)
    return images, torch.randint(0, 4, (count,), generator=draw)


def plain_margins(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(N, K - 1) margins, columns in class order without the true one."""
    logits = net(images)
    differences = logits.gather(1, labels[:, None]) - logits
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], False)
    return differences[keep].view(len(images), -1)


def admissible_samples(net: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, draws: int = 24) -> Tensor:
    """(M, N, ...) random points, corners, and steps down the margin's gradient, all admissible."""
    draw = torch.Generator().manual_seed(0)
    points = []
    for index in range(draws):
        noise = torch.rand(images.shape, dtype=images.dtype, generator=draw) * 2 - 1
        direction = noise.sign() if index % 2 else noise
        if threat.norm == "l2":
            direction = direction / direction.flatten(1).norm(dim=1).view(-1, *[1] * (images.dim() - 1))
        points.append(threat.project(images + threat.epsilon * direction, images))
    for column in range(plain_margins(net, images, labels).shape[1]):
        point = images
        for share in (1.0, 0.5, 0.25, 0.25, 0.1):
            leaf = point.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(plain_margins(net, leaf, labels)[:, column].sum(), leaf)
            if threat.norm == "linf":
                step = gradient.sign()
            else:
                length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
                step = gradient / length.view(-1, *[1] * (images.dim() - 1))
            point = threat.project(point - 2 * share * threat.epsilon * step, images)
            points.append(point)
    return torch.stack(points)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.003), ("linf", 0.05), ("l2", 0.03), ("l2", 0.6)])
@pytest.mark.parametrize("seed", range(4))
def test_no_admissible_image_goes_below_any_bound(seed: int, norm: str, epsilon: float):
    net, (images, labels), threat = network(seed), some_images(seed), ThreatModel(norm, epsilon)
    samples = admissible_samples(net, images, labels, threat)
    assert len(samples) == 24 + 3 * 5
    with torch.no_grad():
        found = torch.stack([plain_margins(net, sample, labels) for sample in samples]).amin(dim=0)
        previous = torch.full_like(found, -torch.inf)
        for method in METHODS:
            bound = margins(net, images, labels, threat, method)
            assert bound.isfinite().all()
            assert (bound <= found + 1e-9).all(), f"{method}: {(bound - found).max()} above a sampled margin"
            assert (bound >= previous).all(), f"{method} is looser than its predecessor"
            previous = bound
    # the search for violations came close enough to have had a chance
    if epsilon < 0.04:
        assert (found - previous).max() < 0.6 * (plain_margins(net, images, labels) - previous).max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_gives_the_plain_margin(method: str, norm: str):
    net, (images, labels) = network(1), some_images(1)
    bound = margins(net, images, labels, ThreatModel(norm, 0.0), method)
    torch.testing.assert_close(bound, plain_margins(net, images, labels), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_float32_agrees_with_float64(method: str):
    (images, labels), threat = some_images(2), ThreatModel("linf", 0.01)
    single = margins(network(2, torch.float32), images.float(), labels, threat, method)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), margins(network(2), images, labels, threat, method), rtol=1e-3, atol=1e-3
    )


class Affine(nn.Module):
    """No nonlinearity: normalisation, convolution, average pooling, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Linear(4 * 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv((images - 0.5) / 0.2))
        return self.head((F.avg_pool2d(x, 2, 1) - 1.0).flatten(1))


def margin_gradients(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """(K - 1, N, ...)"""
    leaf = images.clone().requires_grad_()
    values = plain_margins(net, leaf, labels)
    return torch.stack([torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in values.T])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_exact_on_affine_networks_inside_the_box(norm: str):
    net, threat = Affine().eval().double(), ThreatModel(norm, 0.05)
    images, labels = torch.rand(3, 2, 7, 9, dtype=torch.float64) * 0.6 + 0.2, torch.tensor([0, 1, 2])
    dual = margin_gradients(net, images, labels).flatten(2).norm(p=DUAL_ORDER[norm], dim=2).T
    exact = plain_margins(net, images, labels) - threat.epsilon * dual
    torch.testing.assert_close(margins(net, images, labels, threat, "crown-ibp"), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(margins(net, images, labels, threat, "crown"), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_linear_layer_is_exact_by_intervals(norm: str):
    torch.manual_seed(0)
    net, threat = nn.Sequential(nn.Flatten(), nn.Linear(18, 4)).eval().double(), ThreatModel(norm, 0.1)
    images, labels = torch.rand(2, 2, 3, 3, dtype=torch.float64) * 0.6 + 0.2, torch.tensor([3, 1])
    dual = margin_gradients(net, images, labels).flatten(2).norm(p=DUAL_ORDER[norm], dim=2).T
    exact = plain_margins(net, images, labels) - threat.epsilon * dual
    torch.testing.assert_close(margins(net, images, labels, threat, "ibp"), exact, rtol=1e-9, atol=1e-9)


def test_exact_on_affine_networks_where_the_pixel_box_binds():
    net, threat = Affine().eval().double(), ThreatModel("linf", 0.2)
    images, labels = torch.rand(4, 2, 7, 9, dtype=torch.float64).round(decimals=1), torch.tensor([0, 1, 2, 0])
    gradients = margin_gradients(net, images, labels)
    lower, upper = (images - 0.2).clamp_min(0) - images, (images + 0.2).clamp_max(1) - images
    worst = torch.where(gradients > 0, gradients * lower, gradients * upper).flatten(2).sum(2).T
    exact = plain_margins(net, images, labels) + worst
    torch.testing.assert_close(margins(net, images, labels, threat), exact, rtol=1e-9, atol=1e-9)
    assert (exact > plain_margins(net, images, labels) - 0.2 * gradients.abs().flatten(2).sum(2).T + 1e-3).any()


def test_l2_ball_cut_by_the_pixel_box_is_exact_on_affine_networks():
    """Against a projected gradient descent onto ball and box, run until it stands still."""
    net, threat = Affine().eval().double(), ThreatModel("l2", 1.5)
    images, labels = torch.rand(3, 2, 7, 9, dtype=torch.float64).round(decimals=1), torch.tensor([0, 1, 2])
    gradients = margin_gradients(net, images, labels)
    bound = margins(net, images, labels, threat)
    for column, gradient in enumerate(gradients):
        # the minimiser is clip(-A / t, box) for the t at which it has length epsilon: find t by a fine search
        best = torch.full((3,), torch.inf, dtype=torch.float64)
        for multiplier in torch.logspace(-4, 3, 4000, dtype=torch.float64):
            point = torch.clamp(-gradient / multiplier, -images, 1 - images)
            inside = point.flatten(1).norm(dim=1) <= threat.epsilon
            value = (gradient * point).flatten(1).sum(1)
            best = torch.where(inside, torch.minimum(best, value), best)
        exact = plain_margins(net, images, labels)[:, column] + best
        assert (bound[:, column] <= exact + 1e-9).all()
        torch.testing.assert_close(bound[:, column], exact, rtol=0, atol=2e-2)


def test_bound_lies_below_the_exact_minimum_of_a_tiny_network():
    """Between the lines on which a neuron is 0 the network is affine: its minimum is at a crossing."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).eval().double()
    image, label, threat = (
        torch.tensor([[0.45, 0.6]], dtype=torch.float64),
        torch.tensor([0]),
        ThreatModel("linf", 0.3),
    )
    first, last = net[0], net[2]
    row = (last.weight[0] - last.weight[1]).detach()
    corners = []
    # vertices of the arrangement inside the square: crossings of the neurons' lines and of the square's sides
    lines = [(weight, -bias) for weight, bias in zip(first.weight.detach(), first.bias.detach(), strict=True)]
    for axis, side in itertools.product(range(2), (-1, 1)):
        unit = torch.eye(2, dtype=torch.float64)[axis]
        lines.append((unit, image[0, axis] + side * 0.3))
    for (one, level), (two, height) in itertools.combinations(lines, 2):
        system = torch.stack([one, two])
        if system.det().abs() > 1e-9:
            point = torch.linalg.solve(system, torch.stack([level, height]))
            if ((point - image[0]).abs() <= 0.3 + 1e-9).all():
                corners.append(point)
    assert len(corners) >= 4
    points = torch.stack(corners)
    values = F.relu(points @ first.weight.T + first.bias) @ row + (last.bias[0] - last.bias[1])
    exact = values.min().detach()
    bounds = [margins(net, image, label, threat, method).detach().item() for method in METHODS]
    assert bounds == sorted(bounds)
    assert bounds[-1] <= exact + 1e-9
    plain = plain_margins(net, image, label).detach().item()
    assert exact - bounds[-1] < plain - exact, "crown is looser than it ought to be on six neurons"


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


def test_no_interval_leads_back_to_the_probe(monkeypatch: pytest.MonkeyPatch):
    """Lines are drawn from intervals; a gradient that came through them would be no slope of any line."""
    seen: list[Tensor] = []

    def see(memory: Memory, value: Value) -> None:
        value.memory = memory
        seen.extend((value.centre, value.radius))

    monkeypatch.setattr(Memory, "add", see)
    images, _ = some_images(0)
    for norm in ("linf", "l2"):
        seen.clear()
        region = Region(images, norm, torch.full((2,), 0.05).double())
        propagation = Propagation(network(0), region, Pass(backward=True))
        bounded_logits(propagation)
        graphs = [stream for stream in seen if stream.requires_grad]
        assert len(graphs) > 40
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
    samples = admissible_samples(net, images, labels, threat, draws=100)
    with torch.no_grad():
        for sample in samples:
            assert (bound <= plain_margins(net, sample, labels) + 1e-9).all()
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
