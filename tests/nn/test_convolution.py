"""The convolutions of groups: torch's values and derivatives of every order, and no gradient that is not asked for."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustnas.nn.fast.convolution import Conv2d, conv2d, derivatives, kernels, taps
from robustnas.nn.fast.convolution.geometry import geometry_of

GROUPS = {"several": (2, 4, 6), "depthwise": (3, 3, 3), "one channel to two": (2, 2, 4)}
"""Groups, channels of the image and of the output."""

Arguments = tuple[Tensor, Tensor, Tensor]


def arguments(
    groups: tuple[int, int, int], kernel: tuple[int, int], size: tuple[int, int], dtype=torch.float64, last=False
) -> Arguments:
    """Image, weight and bias, all with gradients."""
    draw = torch.Generator().manual_seed(0)
    number, into, out = groups
    shapes = ((2, into, *size), (out, into // number, *kernel), (out,))
    x, weight, bias = (torch.randn(shape, dtype=dtype, generator=draw) for shape in shapes)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def derivatives_of(function, tensors: Arguments, options: tuple) -> list[Tensor]:
    """Output, gradients, and second derivatives in image, weight and the output's slope."""
    x, weight, bias = tensors
    y = function(x, weight, bias, *options)
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape).requires_grad_()
    first = torch.autograd.grad(y, tensors, slope, retain_graph=True)
    graph = torch.autograd.grad(y, tensors, slope, create_graph=True)
    mixed = sum((one * torch.linspace(-1, 2, one.numel(), dtype=one.dtype).view(one.shape)).sum() for one in graph)
    return [y, *first, *torch.autograd.grad(mixed, (x, weight, slope))]


CASES = list(
    itertools.product(
        GROUPS,
        [(1, 1), (2, 2), (2, 1)],  # stride
        [(1, 1), (2, 2), (1, 2)],  # dilation
        [(1, 1), (3, 3), (1, 5), (5, 5)],  # kernel
        [((5, 6), (1, 1)), ((3, 2), (4, 4)), ((7, 7), (2, 0))],  # size, padding
    )
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_two_derivatives_are_torchs(dtype: torch.dtype):
    """float64 and float32 are computed in different ways; so are layouts."""
    checked = 0
    for groups, stride, dilation, kernel, (size, padding) in CASES:
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(n + 2 * p <= r for n, p, r in zip(size, padding, reach, strict=True)):
            continue
        tensors = arguments(GROUPS[groups], kernel, size, dtype, last=bool(checked % 2))
        options = (stride, padding, dilation, GROUPS[groups][0])
        expected = derivatives_of(F.conv2d, tensors, options)
        found = derivatives_of(conv2d, tensors, options)
        assert len(expected) == 7
        for one, other in zip(found, expected, strict=True):
            scale = float(other.detach().abs().max()) + 1
            torch.testing.assert_close(one, other, rtol=0, atol=scale * (1e-12 if dtype == torch.float64 else 1e-5))
        checked += 1
    assert checked > 150


def test_a_third_derivative():
    x, weight, _ = arguments(GROUPS["depthwise"], (3, 3), (4, 4))
    thirds = []
    for function in (conv2d, F.conv2d):
        (first,) = torch.autograd.grad(function(x, weight, None, 1, 1, 1, 3).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight, create_graph=True)
        thirds.append(torch.autograd.grad(second.square().sum(), x)[0])
    torch.testing.assert_close(*thirds)


def test_large_images_take_the_ways_that_small_ones_do_not():
    """Weight gradients by remainders and columns, for float32 images of many entries."""
    checked = 0
    for kernel, dilation, stride in itertools.product((3, 5, 7), (1, 2, 3), (1, 2)):
        x = torch.randn(2, 16, 33, 31).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(16, 1, kernel, kernel, requires_grad=True)
        options = (None, stride, dilation * (kernel // 2), dilation, 16)
        slope = torch.randn_like(F.conv2d(x, weight, *options))
        found, expected = (
            torch.autograd.grad(function(x, weight, *options), (x, weight), slope) for function in (conv2d, F.conv2d)
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
        checked += 1
    assert checked == 18


def test_machines_without_onednn(monkeypatch):
    monkeypatch.setattr(taps, "better", lambda like: True)
    tensors = arguments(GROUPS["depthwise"], (3, 5), (6, 7), torch.float32)
    for options in ((1, 2, 1, 3), (2, (1, 4), 2, 3)):
        found, expected = (derivatives_of(function, tensors, options) for function in (conv2d, F.conv2d))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_edges_of_the_weight_that_see_nothing_are_left_out():
    geometry = geometry_of((3, 2, 2), (3, 1, 5, 5), (1, 1), (4, 4), (2, 2), 3)
    assert geometry is not None
    assert geometry.edges == (2, 2)
    assert geometry.trimmed.kernel == (1, 1)
    assert geometry.trimmed.output == geometry.output == (2, 2)
    whole = geometry_of((3, 8, 8), (3, 1, 5, 5), (1, 1), (4, 4), (2, 2), 3)
    assert whole is not None
    assert whole.trimmed == whole


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The maps that are computed, in order."""
    names: list[str] = []
    for name in ("convolve", "image_gradient", "weight_gradient", "both_gradients"):
        kernel = getattr(kernels, name)

        def note(*some, name=name, kernel=kernel):
            if not (names and names[-1] == "both_gradients"):  # it calls the other two
                names.append(name)
            return kernel(*some)

        monkeypatch.setattr(kernels, name, note)
    return names


def test_gradients_that_nobody_asked_for_are_not_computed(computed: list[str]):
    x, weight, bias = arguments(GROUPS["several"], (3, 3), (5, 5))
    alpha = torch.ones((), dtype=x.dtype, requires_grad=True)

    for inputs, maps in (
        ([alpha], ["image_gradient"]),
        ([weight], ["weight_gradient"]),
        ([bias], []),
        ([alpha, weight], ["both_gradients"]),
    ):
        y = conv2d(x * alpha, weight, bias, 1, 1, 1, 2).sum()
        computed.clear()
        torch.autograd.grad(y, inputs)
        assert computed == maps

    # a double backward pass for alpha alone: one convolution more, and no weight gradient
    computed.clear()
    y = conv2d(x, weight, bias, 1, 1, 1, 2) * alpha
    (slopes,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert computed == ["convolve", "image_gradient"]
    torch.autograd.grad(slopes.square().sum(), alpha)
    assert computed == ["convolve", "image_gradient", "convolve"]

    for images, inputs in ((x * alpha, [weight]), (x.detach(), None)):
        y = conv2d(images, weight, bias, 1, 1, 1, 2).sum()
        computed.clear()
        y.backward(inputs=inputs)
        assert computed == ["weight_gradient"]


def test_what_only_a_gradient_nobody_can_ask_for_needs_is_not_kept():
    for wanted in ("image", "weight"):
        x, weight, _ = (tensor.detach() for tensor in arguments(GROUPS["several"], (3, 3), (5, 5)))
        (x if wanted == "image" else weight).requires_grad_()
        saved: list[Tensor] = []

        def keep(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            conv2d(x, weight, None, 1, 1, 1, 2)
        assert [tensor.shape for tensor in saved] == [weight.shape if wanted == "image" else x.shape]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("groups", GROUPS)
def test_batched_backward_passes(groups: str, create_graph: bool):
    x, weight, _ = arguments(GROUPS[groups], (3, 3), (5, 5), torch.float32, last=True)
    slopes = torch.randn(3, *conv2d(x, weight, None, 1, 2, 2, GROUPS[groups][0]).shape, requires_grad=True)
    found = []
    for function in (conv2d, F.conv2d):
        y = function(x, weight, None, 1, 2, 2, GROUPS[groups][0])
        one = torch.autograd.grad(
            y, (x, weight), slopes, retain_graph=True, create_graph=create_graph, is_grads_batched=True
        )
        mapped = torch.vmap(lambda slope, y=y: torch.autograd.grad(y, (x, weight), slope, retain_graph=True))(
            slopes.detach()
        )
        more = torch.autograd.grad(sum(part.square().sum() for part in one), (slopes, x)) if create_graph else ()
        found.append([*one, *mapped, *more])
    assert len(found[0]) == (6 if create_graph else 4)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


# torch's forward mode scripts some decompositions when it is first used
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_transforms_and_forward_mode():
    x, weight, _ = (tensor.detach() for tensor in arguments(GROUPS["several"], (3, 3), (5, 5), last=True))
    tangent = torch.randn_like(x)
    found = []
    for function in (conv2d, F.conv2d):

        def value(x: Tensor, weight: Tensor, function=function) -> Tensor:
            return function(x, weight, None, 2, 1, 1, 2).square().sum()

        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, tangent)
            moved = forward_ad.unpack_dual(value(dual, weight.clone().requires_grad_())).tangent.detach()
        found.append(
            [
                moved,
                *torch.func.grad(value, argnums=(0, 1))(x, weight),
                torch.func.hessian(value)(x[:1, :, :2, :2], weight),
                torch.func.jvp(lambda w: value(x, w), (weight,), (torch.ones_like(weight),))[1],
            ]
        )
    torch.testing.assert_close(*found)


def test_an_empty_batch_and_wrong_arguments_are_torchs():
    layer = Conv2d(4, 4, 3, padding=1, groups=4)
    x = torch.zeros(0, 4, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()
    for bad in (torch.zeros(1, 3, 5, 5), torch.zeros(1, 4, 5, 5, dtype=torch.float64), torch.zeros(1, 4, 0, 0)):
        messages = []
        for function in (conv2d, F.conv2d):
            with pytest.raises(RuntimeError) as caught:
                function(bad, layer.weight, None, 1, 0, 1, 4)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_autocast():
    """In and around both passes, as torch: what comes out, and the type of the gradients."""
    layer, plain = Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 3, padding=1, groups=4)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    for in_forward, in_backward in ((True, False), (True, True), (False, True)):
        results = []
        for one in (layer, plain):
            with torch.autocast("cpu", torch.bfloat16, enabled=in_forward):
                y = one(x)
            with torch.autocast("cpu", torch.bfloat16, enabled=in_backward):
                results.append([y, *torch.autograd.grad(y.sum(), (x, one.weight, one.bias))])
        torch.testing.assert_close(*results, rtol=0.05, atol=0.2)  # number formats, too
        if not in_forward:
            torch.testing.assert_close(*(result[1] for result in results))


def test_the_layer_is_torchs_layer():
    def pair(*sizes: Any, **options: Any) -> Iterator[nn.Conv2d]:
        for kind in (Conv2d, nn.Conv2d):
            torch.manual_seed(0)
            yield kind(*sizes, **options)

    ours, plain = pair(6, 4, (3, 2), 2, padding=1, dilation=1, groups=2)
    assert isinstance(ours, nn.Conv2d)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=0, atol=0)
    x = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours(x[0]), plain(x[0]))
    torch.testing.assert_close(copy.deepcopy(ours)(x), plain(x))
    for options in ({"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        ours, plain = pair(6, 6, 3, groups=6, **options)
        torch.testing.assert_close(ours(x), plain(x))


def test_compiled_code_is_torchs(monkeypatch):
    """Traced by torch.compile the function is torch's, so the compiler sees an ordinary convolution."""
    monkeypatch.setattr(derivatives, "convolution", None)
    layer = Conv2d(4, 4, 3, padding=1, groups=4)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    monkeypatch.undo()
    found, expected = (torch.autograd.grad(net(x).square().sum(), (x, layer.weight)) for net in (compiled, layer))
    torch.testing.assert_close(found, expected)


class _Strides(TorchDispatchMode):
    """Notes the stride of every convolution that torch computes."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.seen.append(tuple(args[3]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("channels", "stride"), [(1, 2), (7, 2), (8, 2), (7, 1)])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_narrow_convolution_of_a_stride_takes_its_pixels_first(channels: int, stride: int, padding: int):
    x = torch.randn(2, channels, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, channels, 1, 1, dtype=torch.float64, requires_grad=True)
    with _Strides() as strides:
        ours = conv2d(x, weight, None, stride, padding)
    torch_s_own = F.conv2d(x, weight, None, stride, padding)
    assert strides.seen == [(stride, stride) if channels >= 8 else (1, 1)]
    torch.testing.assert_close(ours, torch_s_own)
    slopes = torch.randn_like(ours)
    for found, known in zip(*(torch.autograd.grad(y, (x, weight), slopes) for y in (ours, torch_s_own)), strict=True):
        torch.testing.assert_close(found, known)
