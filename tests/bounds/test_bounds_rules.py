"""What the engine refuses, what it leaves as it was, and how a rule is added."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import METHODS, RULES, Lines, activation_rule, linear_rule, margins
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Pass, Propagation
from robustnas.bounds.region import Region
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.threat import DUAL_ORDER, ThreatModel

THREAT = ThreatModel("linf", 0.05)
IMAGES = torch.rand(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2])


class Call(nn.Module):
    """Flattened images through one function, then a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], features: int = 32):
        super().__init__()
        self.function = function
        self.head = nn.Linear(features, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.function(images).flatten(1))


def call(function: Callable[[Tensor], Tensor], features: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return Call(function, features).eval().double()


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def test_a_function_without_a_rule_is_refused_by_name_and_place_and_says_how_to_add_one():
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(32, 4), Gate()), nn.Linear(4, 3)).eval().double()
    with pytest.raises(UnsupportedOpError, match=r"sin in 1\.1 \(Gate\).*activation_rule"):
        margins(net, IMAGES, LABELS, THREAT)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


REFUSED = {
    "a function without a rule": lambda x: torch.cos(x),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "a branch on entries": lambda x: x if x.sum(dim=(1, 2, 3))[:1] > 0 else -x,
    "mean over the images": lambda x: x - x.mean(dim=0),
    "mean over everything": lambda x: x - x.mean(),
    "flip of the images": lambda x: x.flip(0),
    "one image for all": lambda x: x[:1].expand(2, 2, 4, 4),
    "images by index": lambda x: x[[1, 0]],
    "transposed images": lambda x: x.transpose(0, 1),
    "permuted images": lambda x: x.permute(1, 0, 2, 3),
    "joined images": lambda x: torch.cat([x, x])[:2],
    "stacked images": lambda x: torch.stack([x, x]).mean(dim=1),
    "padded images": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 1, -1)),
    "images in the rows": lambda x: x.reshape(4, 16).reshape(2, 32),
    "misaligned shapes": lambda x: x + x.sum(dim=(2, 3)),
    "written view": lambda x: (x.view(2, 32), x.mul_(2.0), x)[0],
    "plain tensor written": lambda x: torch.zeros(2, 2, 4, 4, dtype=x.dtype).add_(x),
    "written entries": lambda x: x.__setitem__(0, 1.0),
    "other number format": lambda x: x.float(),
    "leaky relu that is not monotone": lambda x: F.leaky_relu(x, -0.1),
    "steep leaky relu": lambda x: F.leaky_relu(x, 2.0),
    "dropout left on": lambda x: F.dropout(x, 0.5, True),
    "unbatched convolution": lambda x: F.conv2d(x[:, 0], torch.ones(2, 2, 1, 1, dtype=x.dtype)),
    "weights that depend on the image": lambda x: F.conv2d(x, x),
    "indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "unknown option": lambda x: x.sum(dim=1, dtype=torch.float32),
    "gradients off": lambda x: torch.no_grad()(lambda y: y * 2)(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_bounded_is_refused(name: str):
    with pytest.raises(UnsupportedOpError):
        margins(call(REFUSED[name]), IMAGES, LABELS, THREAT)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


def test_an_autograd_function_of_the_network_is_refused():
    with pytest.raises(UnsupportedOpError):
        margins(call(Own.apply), IMAGES, LABELS, THREAT)


ACCEPTED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "write in place": (lambda x: (x * 1.0).relu_().add_(1.0), 32),
    "write seen by another name": (lambda x: _aliased(x - 0.5), 32),
    "keyword input": (lambda x: F.relu(input=x - 0.5), 32),
    "constant minus value": (lambda x: 1.0 - torch.ones(4, dtype=x.dtype).sub(x), 32),
    "sum over a list": (lambda x: sum(w * x for w in torch.tensor([0.3, 0.7], dtype=x.dtype)), 32),
    "reversed order": (lambda x: x.flip(3).roll(1, 2), 32),
    "entries by index": (lambda x: x[:, [1, 0], ..., None][:, :, 1:, ::2, 0], 12),
    "split": (lambda x: torch.cat([*list(x.split(1, dim=1))[::-1], torch.ones(2, 1, 4, 4).to(x)], 1), 48),
    "stack": (lambda x: torch.stack([x, -x], dim=2), 64),
    "reflected padding": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 72),
    "filled": (lambda x: torch.zeros_like(x).add_(x), 32),
    "matrix": (lambda x: x.flatten(1) @ torch.ones(32, 5, dtype=x.dtype), 5),
    "shuffle": (lambda x: F.pixel_unshuffle(x, 2), 32),
    "negative": (lambda x: -x / torch.tensor([-2.0, 3.0], dtype=x.dtype).view(2, 1, 1), 32),
}


def _aliased(x: Tensor) -> Tensor:
    other = x
    x.relu_()
    return other


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_accepted_is_sound_and_exact_at_epsilon_zero(name: str, norm: str):
    net, threat = call(*ACCEPTED[name]), ThreatModel(norm, 0.3)
    logits = net(IMAGES.clone())
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(1, LABELS[:, None], False)

    def plain(images: Tensor) -> Tensor:
        logits = net(images.clone())
        return (logits.gather(1, LABELS[:, None]) - logits)[keep].view(2, -1)

    for method in METHODS:
        exact = margins(net, IMAGES, LABELS, ThreatModel(norm, 0.0), method)
        torch.testing.assert_close(exact, plain(IMAGES), rtol=0, atol=1e-9)
        bound = margins(net, IMAGES, LABELS, threat, method)
        draw = torch.Generator().manual_seed(1)
        for _ in range(40):
            noise = (torch.rand(IMAGES.shape, dtype=IMAGES.dtype, generator=draw) * 2 - 1).sign()
            point = threat.project(IMAGES + threat.epsilon * noise, IMAGES)
            assert (bound <= plain(point) + 1e-9).all()


WEIGHT = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
NORM = nn.BatchNorm2d(2).eval().double()
with torch.no_grad():
    NORM.weight.copy_(torch.tensor([-1.5, 0.5]))
    NORM.running_var.copy_(torch.tensor([0.3, 2.0]))

# every pixel reaches an output along one path only, so that interval arithmetic is exact
AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: F.conv2d(x, WEIGHT, None, 2, 1),
    "dilated groups": lambda x: F.conv2d(x, WEIGHT[:, :1], None, 1, 2, 2, 2),
    "convolution in one dimension": lambda x: F.conv1d(x.flatten(2), WEIGHT[:, :, 0], stride=2),
    "linear": lambda x: F.linear(x, WEIGHT.view(18, 4)),
    "batch norm": lambda x: NORM(x),
    "average, padding counted": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "average, padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, 3),
    "sum of two values": lambda x: torch.add(x, x.roll(1, 3), alpha=-0.5),
    "difference of two values": lambda x: x - x.roll(1, 2),
    "negative factor": lambda x: -0.7 * x,
    "negative divisor": lambda x: x / torch.tensor([-0.7, 2.0], dtype=x.dtype).view(2, 1, 1),
    "difference to a constant": lambda x: 3.0 - x,
    "sum over a dimension": lambda x: x.sum(dim=1, keepdim=True),
    "mean over dimensions": lambda x: x.mean((2, 3)),
    "padding": lambda x: F.pad(x, (1, 0, 0, 1), value=0.7),
    "joined": lambda x: torch.cat([-x, x[:, :, 1:]], dim=2),
}


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_intervals_of_affine_functions_are_exact(name: str, norm: str):
    def logits(images: Tensor) -> Tensor:
        return AFFINE[name](images).flatten(1)

    # pixels away from 0 and 1, so that the l_2 ball lies inside the box
    images, epsilon = IMAGES * 0.4 + 0.3, 0.25
    region = Region(images, norm, torch.full((2,), epsilon, dtype=torch.float64))
    found = bounded_logits(Propagation(logits, region, Pass(), keeps_clean=False))
    one = torch.autograd.functional.jacobian(lambda image: logits(image[None])[0], images[0]).flatten(1)
    reach = epsilon * torch.linalg.vector_norm(one, ord=DUAL_ORDER[norm], dim=1)
    torch.testing.assert_close(found.centre, logits(images))
    if norm == "linf" or name.startswith(("conv", "dilated", "linear")):
        torch.testing.assert_close(found.radius, reach.expand(2, -1))
    else:
        # a box holds the ball
        assert (found.radius >= reach - 1e-9).all()


def test_training_mode_is_refused_as_a_whole_and_for_batch_norm_alone():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3)).double()
    with pytest.raises(UnsupportedOpError, match=r"training mode.*eval\(\)"):
        margins(net, IMAGES, LABELS, THREAT)
    net.eval()
    net[1].train()
    with pytest.raises(UnsupportedOpError, match=r"^1 \(BatchNorm2d\)"):
        margins(net, IMAGES, LABELS, THREAT)
    batch = call(lambda x: F.batch_norm(x, None, None, training=True))
    with pytest.raises(UnsupportedOpError, match="batch norm mixes the images"):
        margins(batch, IMAGES, LABELS, THREAT)


@pytest.mark.parametrize(
    ("images", "labels", "options", "words"),
    [
        (IMAGES, torch.tensor([0, 3]), {}, "label 3 for a network of 3 classes"),
        (IMAGES, torch.tensor([0, -1]), {}, "label -1 is negative"),
        (IMAGES, torch.tensor([0]), {}, "labels have shape"),
        (IMAGES, torch.tensor([0.0, 1.0]), {}, "labels have shape"),
        (IMAGES * 255, LABELS, {}, "images reach from"),
        (IMAGES - 0.5, LABELS, {}, "images reach from"),
        (IMAGES * torch.nan, LABELS, {}, "images reach from"),
        (IMAGES.round().long(), LABELS, {}, "images are torch.int64"),
        (IMAGES.half(), LABELS, {}, "images are torch.float16"),
        (IMAGES[:0], LABELS[:0], {}, "at least one image"),
        (IMAGES, LABELS, {"method": "crow"}, "method 'crow' is unknown; known are ibp, crown-ibp, crown"),
        (IMAGES, LABELS, {"targets": "any"}, "targets 'any' is unknown"),
    ],
)
def test_bad_input_has_a_clear_message(images: Tensor, labels: Tensor, options: dict[str, str], words: str):
    with pytest.raises(InputError, match=words):
        margins(call(lambda x: x), images, labels, THREAT, **options)


def test_one_class_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 1)).eval().double()
    with pytest.raises(InputError, match="at least 2 classes"):
        margins(net, IMAGES, torch.tensor([0, 0]), THREAT)


def test_network_and_gradients_are_left_as_they_were():
    net = call(lambda x: F.relu(x - 0.5))
    net.head.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for method in METHODS:
        margins(net, IMAGES, LABELS, THREAT, method)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net.head.weight.requires_grad
    assert not net.head.bias.requires_grad
    assert net.head.weight.grad is None
    assert torch.is_grad_enabled()


@pytest.fixture
def rules_put_back():
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


@pytest.mark.usefixtures("rules_put_back")
def test_third_party_rules_in_a_few_lines():
    """The examples of docs/bounds.md: an activation and a linear function."""

    @activation_rule(F.hardtanh)
    def hardtanh_lines(lower: Tensor, upper: Tensor, function: Callable[[Tensor], Tensor]) -> Lines:
        inside = (lower >= -1) & (upper <= 1)
        slope = torch.where(inside, 1.0, 0.0).to(lower)
        return Lines(slope, function(lower) - slope * lower, slope, function(upper) - slope * upper)

    @linear_rule(F.conv_transpose2d)
    def magnitude(radius: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: object) -> Tensor:
        return F.conv_transpose2d(radius, weight.abs(), None, *rest)

    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 3), nn.Hardtanh(-1.0, 1.0), nn.Flatten(), nn.Linear(108, 3))
    net = net.eval().double()
    bound = margins(net, IMAGES, LABELS, ThreatModel("linf", 0.2), "crown")
    logits = net(IMAGES)
    keep = torch.ones_like(logits, dtype=torch.bool).scatter(1, LABELS[:, None], False)
    for _ in range(100):
        point = ThreatModel("linf", 0.2).project(IMAGES + torch.empty_like(IMAGES).uniform_(-0.2, 0.2), IMAGES)
        logits = net(point)
        assert (bound <= (logits.gather(1, LABELS[:, None]) - logits)[keep].view(2, -1) + 1e-9).all()


class Summed(nn.Module):
    """Mixes channels by index notation, with weights of both signs."""

    def __init__(self, equation: str, as_list: bool = False):
        super().__init__()
        self.equation, self.as_list = equation, as_list
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.25], [-1.0, 3.0]], dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        operands = (self.weight, F.relu(images - 0.5))
        mixed = torch.einsum(self.equation, list(operands)) if self.as_list else torch.einsum(self.equation, *operands)
        return mixed.mean(dim=(2, 3))


@pytest.mark.parametrize("as_list", [False, True])
def test_einsum_is_linear_in_its_one_bounded_operand(as_list: bool):
    net = Summed("ek,nkhw->nehw", as_list).eval()
    images = torch.rand(3, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, threat = torch.tensor([0, 1, 2]), ThreatModel("linf", 0.2)
    points = [threat.project(images + 0.2 * (2 * torch.rand_like(images) - 1).sign(), images) for _ in range(200)]
    true = torch.stack([net(point) for point in points])
    margin = true.gather(2, labels.view(1, 3, 1).expand(200, 3, 1)) - true
    for method in ("ibp", "crown-ibp"):
        bound = margins(net, images, labels, threat, method)
        for row, label in enumerate(labels.tolist()):
            others = [j for j in range(3) if j != label]
            assert (bound[row] <= margin[:, row, others].amin(dim=0) + 1e-9).all()
            assert (bound[row] > margin[:, row, others].amin(dim=0) - 2.0).all()
    torch.testing.assert_close(
        margins(net, images, labels, ThreatModel("linf", 0.0)),
        margins(Plainly(net), images, labels, ThreatModel("linf", 0.0)),
    )


class Plainly(nn.Module):
    """The same sums as a loop."""

    def __init__(self, net: Summed):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(images - 0.5)
        rows = [sum(w * x[:, k] for k, w in enumerate(row)) for row in self.net.weight.unbind()]
        return torch.stack(rows, dim=1).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("equation", "told"),
    [("ek,nkhw->enhw", "first index"), ("ek,nkhw", "name every index"), ("ek,...khw->...ehw", "name every index")],
)
def test_einsum_that_may_mix_images_is_refused(equation: str, told: str):
    images = torch.rand(3, 2, 2, 2, dtype=torch.float64)
    with pytest.raises(UnsupportedOpError, match=told):
        margins(Summed(equation).eval(), images, torch.tensor([0, 1, 2]), ThreatModel("linf", 0.1))
