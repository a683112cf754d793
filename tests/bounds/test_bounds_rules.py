"""What the engine refuses, what it leaves as it was, and how a rule is added."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import METHODS, Lines, activation_rule, linear_rule, margins
from robustnas.errors import UnsupportedOpError
from robustnas.threat import DUAL_ORDER, NORMS, ThreatModel
from support.bounded import LABELS, check, interval

THREAT = ThreatModel("linf", 0.05)
IMAGES = torch.rand(2, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


REFUSED = {
    "an autograd function": Own.apply,
    "batch norm of the batch": lambda x: F.batch_norm(x, None, None, training=True),
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
    "places of a line's maxima": lambda x: F.max_pool1d(x.flatten(2), 2, return_indices=True)[0],
    "places of adaptive maxima": lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[0],
    "places of a line's adaptive maxima": lambda x: F.adaptive_max_pool1d(x.flatten(2), 2, return_indices=True)[0],
    "a line without an image dimension": lambda x: F.max_pool1d(x.flatten(1), 2),
    "images as channels": lambda x: F.adaptive_max_pool2d(x[:, 0], 2),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "clamp by tensors": lambda x: torch.clamp(x, torch.zeros_like(x.sum(1, keepdim=True))),
    "clamp, ends crossed": lambda x: x.clamp(1.0, 0.0),
    "elu that falls": lambda x: F.elu(x, -1.0),
    "softplus upside down": lambda x: F.softplus(x, -1.0),
    "gelu of another form": lambda x: F.gelu(x, approximate="sigmoid"),
    "prelu that depends on the images": lambda x: F.prelu(x, x.mean((1, 2, 3))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_bounded_is_refused(name: str):
    with pytest.raises(UnsupportedOpError, match="in the network"):
        margins(lambda images: REFUSED[name](images).flatten(1)[:, :3], IMAGES, LABELS, THREAT)


MIXED = torch.tensor([[1.0, -2.0], [0.5, 0.25], [-1.0, 3.0]], dtype=torch.float64)
ACCEPTED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "write in place": (lambda x: (x * 1.0).sub_(0.5).relu_(), 32),
    "write seen by another name": (lambda x: _aliased(x - 0.5), 32),
    "keyword input": (lambda x: F.relu(input=x - 0.5), 32),
    "constant minus value": (lambda x: 1.0 - torch.ones(4, dtype=x.dtype).sub(x), 32),
    "sum over a list": (lambda x: sum(w * x for w in torch.tensor([0.3, 0.7], dtype=x.dtype)), 32),
    "reversed order": (lambda x: x.flip(3).roll(1, 2), 32),
    "entries by index": (lambda x: x[:, [1, 0], ..., None][:, :, 1:, ::2, 0], 12),
    "split": (lambda x: torch.cat([*list(x.split(1, dim=1))[::-1], torch.ones(len(x), 1, 4, 4).to(x)], 1), 48),
    "stack": (lambda x: torch.stack([x, -x], dim=2), 64),
    "reflected padding": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 72),
    "filled": (lambda x: torch.zeros_like(x).add_(x), 32),
    "matrix": (lambda x: x.flatten(1) @ torch.ones(32, 5, dtype=x.dtype), 5),
    "shuffle": (lambda x: F.pixel_unshuffle(x, 2), 32),
    "einsum": (lambda x: torch.einsum("ek,nkhw->nehw", MIXED, F.relu(x - 0.5)), 48),
    "einsum of a list": (lambda x: torch.einsum("ek,nkhw->nehw", [MIXED, F.relu(x - 0.5)]), 48),
    "negative": (lambda x: -x / torch.tensor([-2.0, 3.0], dtype=x.dtype).view(2, 1, 1), 32),
}


def _aliased(x: Tensor) -> Tensor:
    other = x
    x.relu_()
    return other


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_accepted_is_sound_and_exact_at_epsilon_zero(name: str, norm: str):
    check(call(*ACCEPTED[name]), norm, IMAGES)


WEIGHT = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
NORM = nn.BatchNorm2d(2).eval().double()
with torch.no_grad():
    NORM.weight.copy_(torch.tensor([-1.5, 0.5]))
    NORM.running_var.copy_(torch.tensor([0.3, 2.0]))

# every pixel reaches an output along one path only, so that interval arithmetic is exact; of the first layer also in
# l_2 and l_1, where one pixel may take all of epsilon: the largest weight counts, not their sum
AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: F.conv2d(x, WEIGHT, None, 2, 1),
    "convolution behind a normalisation": lambda x: F.conv2d((x - 0.5) / 0.25, WEIGHT),
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
@pytest.mark.parametrize("norm", NORMS)
def test_intervals_of_affine_functions_are_exact(name: str, norm: str):
    def logits(images: Tensor) -> Tensor:
        return AFFINE[name](images).flatten(1)

    # pixels away from 0 and 1, so that the l_2 ball lies inside the box
    images, epsilon = IMAGES * 0.4 + 0.3, 0.25
    found = interval(logits, images, norm, epsilon)
    one = torch.autograd.functional.jacobian(lambda image: logits(image[None])[0], images[0]).flatten(1)
    reach = epsilon * torch.linalg.vector_norm(one, ord=DUAL_ORDER[norm], dim=1)
    torch.testing.assert_close(found.centre, logits(images))
    # in l_1 the largest weight counts also where it lies on the padding
    first_layers = ("conv", "linear") if norm == "l1" else ("conv", "dilated", "linear")
    if norm == "linf" or name.startswith(first_layers):
        torch.testing.assert_close(found.radius, reach.expand(2, -1))
    else:
        # a box holds the ball
        assert (found.radius >= reach - 1e-9).all()


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
    check(net, "linf", IMAGES)


@pytest.mark.parametrize(
    ("equation", "told"),
    [("ek,nkhw->enhw", "first index"), ("ek,nkhw", "name every index"), ("ek,...khw->...ehw", "name every index")],
)
def test_einsum_that_may_mix_images_is_refused(equation: str, told: str):
    with pytest.raises(UnsupportedOpError, match=told):
        margins(call(lambda x: torch.einsum(equation, MIXED, x)), IMAGES, LABELS, THREAT)
