"""Functions of values by values: products, powers, normalisation, softmax, attention, extremes, masks; sound and, at
epsilon 0, exact, with all methods in all norms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas.bounds import (
    METHODS,
    Value,
    linear_bounds,
    log_widths,
    margins,
    margins_within,
    relaxation,
    streams,
)
from robustnas.bounds.rules import bilinear, max_pool, softmax
from robustnas.errors import UnsupportedOpError
from robustnas.threat import NORMS, ThreatModel
from support.bounded import LABELS, check, network, plain_margins

IMAGES = torch.rand(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gate": lambda x: (x - 0.3) * torch.sigmoid(x.mean((2, 3), keepdim=True) * 4),
    "product of signs": lambda x: (x - 0.5) * (x.flip(1) - 0.4),
    "own square": lambda x: (x - 0.5) * (x - 0.5) - torch.mul(x, x) / 2,
    "quotient": lambda x: (x - 0.5) / (x.mean((2, 3), keepdim=True) + 0.5),
    "quotient of a negative": lambda x: x / (-0.5 - x.flip(3)),
    "number over value": lambda x: 1.0 / (x + 0.5) + torch.ones(4, dtype=x.dtype) / (x + 1),
    "matrices": lambda x: (x - 0.5) @ (x.flip(3) - 0.2).mT,
    "batched matrices": lambda x: torch.bmm(x[:, 0] - 0.5, x[:, 1].transpose(1, 2)),
    "einsum of two": lambda x: torch.einsum("nchw,nchv->ncwv", x - 0.5, x.flip(1)),
    "constant on the left": lambda x: torch.linspace(-1, 1, 15, dtype=x.dtype).view(5, 3) @ x,
    "constant stack on the right": lambda x: x @ torch.linspace(-1, 1, 16, dtype=x.dtype).view(2, 4, 2),
}
POWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda x: torch.exp(x - 0.5) - torch.expm1(-x),
    "log": lambda x: torch.log(x + 0.25) - torch.log1p(x),
    "roots": lambda x: torch.sqrt(x + 0.1) - torch.rsqrt(x + 0.5),
    "squares": lambda x: torch.square(x - 0.5) - (x - 0.7) ** 2,
    "cubes": lambda x: (x - 0.5) ** 3 - torch.pow(x - 0.3, 4) + (x + 0.1) ** 1.5 - (x + 0.2) ** 0.3,
    "falling powers": lambda x: (x + 0.5) ** -2 - (x + 0.5).pow(-0.5) + (x - 2) ** -1 + (x**1) * 0.5 + x**0,
    "power of a parameter": lambda x: x.clamp(min=1e-3).pow(torch.full((1,), 3.0, dtype=x.dtype)),
    "numbers to a power": lambda x: 2 ** (x - 0.5) - torch.pow(3.0, -x),
}
SOFTMAX: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: (x * 6).softmax(-1) - F.softmax(x * 3, 1) * 2,
    "softmin": lambda x: F.softmin(x * 4, 3),
    "log-softmax": lambda x: F.log_softmax(x * 5, dim=2) * 0.5 - x.log_softmax(1),
    "softmax of one entry": lambda x: x[:, :1].softmax(1) + x[:, :1].log_softmax(1) + x,
    "masked softmax": lambda x: (x * 5).add(CAUSAL.to(x.dtype)).softmax(3),
    "log-sum-exp": lambda x: torch.logsumexp(x * 3, (2, 3)) - torch.logsumexp(x, 1, keepdim=True).flatten(1)[:, :2],
}
CAUSAL = torch.tensor([0.0, -torch.inf, 0.0, 0.0])
WEIGHTS = torch.tensor([-1.5, 0.5], dtype=torch.float64)
NORMALISATION: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda x: F.layer_norm(x, (3, 4), torch.linspace(-1, 2, 12, dtype=x.dtype).view(3, 4)),
    "layer norm of channels": lambda x: nn.LayerNorm(2, dtype=x.dtype)(x.permute(0, 2, 3, 1)),
    "layer norm by hand": lambda x: (
        (x - x.mean(1, keepdim=True)) / torch.sqrt((x - x.mean(1, keepdim=True)).pow(2).mean(1, keepdim=True) + 0.01)
    ),
    "group norm": lambda x: F.group_norm(x, 1, WEIGHTS, WEIGHTS) + F.group_norm(x, 2),
    "instance norm": lambda x: F.instance_norm(x, weight=WEIGHTS, bias=WEIGHTS),
    "instance norm, running": lambda x: F.instance_norm(x, WEIGHTS, WEIGHTS.square(), use_input_stats=False),
    "rms norm": lambda x: F.rms_norm(x, (4,), torch.linspace(-1, 2, 4, dtype=x.dtype), 0.01),
    "local response norm": lambda x: F.local_response_norm(x * 3, 2, alpha=0.5) + nn.LocalResponseNorm(3)(x),
    "variance": lambda x: x.var((2, 3)) - torch.var(x, dim=1, unbiased=False).flatten(1)[:, :2],
    "deviation": lambda x: x.std(dim=(1, 2), correction=0) + torch.std_mean(x, dim=(1, 2))[1],
    "lengths": lambda x: (x + 0.1).norm(dim=1) - torch.linalg.vector_norm(x, 1, dim=1) + x.norm(2, 1),
    "unit length": lambda x: F.normalize(x.flatten(1) + 0.1),
    "cosines": lambda x: torch.cat(
        [F.cosine_similarity(x.flatten(2) + 0.1, WEIGHTS.repeat(6), dim=-1), F.cosine_similarity(x + 0.1, 1 - x)[:, 0]],
        1,
    ),
}
TURNED: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed convolution": lambda x: F.conv_transpose2d(
        x, KERNEL, WEIGHTS[:1], stride=2, padding=1, output_padding=1
    ),
    "transposed convolution, dilated groups": lambda x: F.conv_transpose2d(x, KERNEL, groups=2, dilation=2),
    "transposed convolution of a line": lambda x: F.conv_transpose1d(x.flatten(2), KERNEL[:, :, 0], stride=2),
    "transposed convolution of a volume": lambda x: F.conv_transpose3d(x.unsqueeze(2), KERNEL.unsqueeze(2)),
    "patches": lambda x: F.fold(F.unfold(x, 2, padding=1, stride=2), (3, 4), 2, padding=1, stride=2),
    "running sum": lambda x: x.cumsum(2),
}
KERNEL = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "amax": lambda x: x.amax((2, 3)) - x.amin(dim=1, keepdim=True).flatten(1)[:, :2],
    "max over channels": lambda x: torch.cat([x.max(dim=1, keepdim=True)[0], x.mean(1, keepdim=True)], 1),
    "min over rows": lambda x: torch.min(x, 3).values,
    "larger of two": lambda x: torch.maximum(x, x.flip(2)) - torch.min(x, x.mean((2, 3), keepdim=True)),
    "larger of a constant": lambda x: torch.maximum(x, WEIGHTS.view(2, 1, 1)) + torch.min(WEIGHTS.view(2, 1, 1), x),
}
MASK = torch.rand(3, 4, generator=torch.Generator().manual_seed(6)) > 0.4
MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda x: torch.where(MASK, x, 0.5) - torch.where(MASK, 0.0, x.flip(3)),
    "where of two": lambda x: x.where(MASK, -x),
    "filled": lambda x: x.masked_fill(MASK, -1.0),
    "masked attention": lambda x: (x @ x.mT * 3).masked_fill(torch.ones(3, 3).triu(1) > 0, -torch.inf).softmax(-1) @ x,
    "triangle": lambda x: x.tril() - torch.triu(x, 1),
}
FUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "addmm": lambda x: torch.addmm(torch.ones(3).to(x), x.flatten(1), torch.linspace(-1, 1, 72).view(24, 3).to(x)),
    "baddbmm": lambda x: torch.baddbmm(x[:, 0, :, :3], x[:, 0], x[:, 1].mT, beta=0.5, alpha=-2),
    "addcmul": lambda x: torch.addcmul(x, x.flip(2), x.flip(3), value=-0.5) - torch.addcdiv(x, x, x + 1),
    "gated": lambda x: F.glu(x, 1) + F.glu(x - 0.5, 3).repeat(1, 1, 1, 2),
    "clamped by tensors": lambda x: torch.clamp(x, WEIGHTS.view(2, 1, 1) * 0.1, torch.ones(4).to(x)).clip(
        max=WEIGHTS[1]
    ),
    "mean of a stack": lambda x: torch.stack([x, x.flip(2), torch.ones_like(x)]).mean(0) - torch.stack([x, -x]).amax(0),
    "pools of a volume": lambda x: F.avg_pool3d(x.unsqueeze(1), 2) - F.adaptive_avg_pool3d(x.unsqueeze(2), (1, 1, 2)),
    "lerp": lambda x: torch.lerp(x, x.flip(2), 0.25) + torch.lerp(x, -x, x.flip(3)),
}


def heads(width: int, **options: object) -> nn.MultiheadAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer = nn.MultiheadAttention(width, 2, dtype=torch.float64, **options).eval()
        with torch.no_grad():
            layer.in_proj_weight.mul_(2.0)
        return layer


def sequence(x: Tensor) -> Tensor:
    """(N, 2, 3, 4) -> (N, 4, 6)."""
    return x.flatten(1, 2).mT


def _by_hand(x: Tensor) -> Tensor:
    """As Wightman's `timm` writes it."""
    images, tokens, width = x.shape
    q, k, v = (x @ QUERIES).reshape(images, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q @ k.transpose(-2, -1)).softmax(dim=-1) @ v).transpose(1, 2).reshape(images, tokens, width)


QUERIES = torch.randn(6, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
ENCODER = nn.TransformerEncoderLayer(6, 2, 4, 0.1, dtype=torch.float64).eval()
FIRST = nn.TransformerEncoderLayer(6, 2, 4, 0.1, "gelu", batch_first=True, norm_first=True, dtype=torch.float64).eval()
INNER, OUTER = heads(6, batch_first=True), heads(6)
ATTENTION: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled dot product": lambda x: F.scaled_dot_product_attention(x, x.flip(2), x - 0.5),
    "causal": lambda x: F.scaled_dot_product_attention(x, x, x.flip(3), is_causal=True, scale=2.0),
    "masked": lambda x: F.scaled_dot_product_attention(x, x, x - 0.5, attn_mask=torch.ones(3, 3).tril(1) > 0),
    "heads": lambda x: INNER(sequence(x), sequence(x), sequence(x), need_weights=False)[0],
    "heads and weights": lambda x: torch.cat([part.flatten(1) for part in INNER(*[sequence(x)] * 3)], 1),
    "heads, sequence first": lambda x: OUTER(*[sequence(x).permute(1, 0, 2)] * 3)[0].transpose(0, 1),
    "cross attention": lambda x: INNER(
        torch.ones(1, 1, 6, dtype=x.dtype).expand(len(x), -1, -1), sequence(x), sequence(x).flip(1)
    )[0],
    "heads by hand": lambda x: _by_hand(sequence(x)),
    "encoder layer": lambda x: ENCODER(sequence(x).transpose(0, 1)).mean(0),
    "encoder layer, images first": lambda x: FIRST(sequence(x))[:, 0],
    "token in front": lambda x: ENCODER(
        torch.cat([torch.ones(1, len(x), 6).to(x), sequence(x).permute(1, 0, 2) + torch.ones(4, 1, 6).to(x)])
    )[0],
}
FUNCTIONS = PRODUCTS | POWERS | SOFTMAX | NORMALISATION | TURNED | EXTREMES | MASKS | FUSED | ATTENTION


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_sound_and_exact_at_epsilon_zero(name: str):
    """The norm matters in front of the first layer only: each has its turn."""
    turn = list(FUNCTIONS).index(name)
    methods = METHODS if turn % 7 == 6 else METHODS[:3]
    check(network(FUNCTIONS[name], IMAGES), NORMS[turn % len(NORMS)], IMAGES, methods)


SHARP: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda z: z[:, :3] * z[:, 3:],
    "square": lambda z: z * z,
    "quotient": lambda z: z[:, :3] / (z[:, 3:].abs() + 0.1),
    "matrices": lambda z: z.view(-1, 2, 3) @ z.view(-1, 3, 2),
    "exp": torch.exp,
    "log": lambda z: (z.abs() + 0.01).log(),
    "root": lambda z: (z.abs() + 0.01).sqrt(),
    "reciprocal root": lambda z: (z.abs() + 0.1).rsqrt(),
    "reciprocals": lambda z: torch.cat([(z[:, :3].abs() + 0.1).reciprocal(), 1 / (-0.1 - z[:, 3:].abs())], 1),
    "cube": lambda z: z**3,
    "fourth power": lambda z: z**4,
    "power 1.5": lambda z: z.abs() ** 1.5,
    "falling power": lambda z: (z.abs() + 0.2) ** -1.5,
    "softmax": lambda z: z.softmax(1),
    "log-softmax": lambda z: z.log_softmax(1),
    "log-sum-exp": lambda z: torch.logsumexp(z, 1, keepdim=True),
    "layer norm": lambda z: F.layer_norm(z, (6,), eps=0.01),
    "layer norm of two": lambda z: F.layer_norm(z.view(-1, 3, 2), (2,), eps=1e-3),
    "rms norm": lambda z: F.rms_norm(z, (6,), eps=0.01),
    "unit length": lambda z: F.normalize(z),
    "deviation": lambda z: z.std(1, keepdim=True),
    "largest": lambda z: z.view(-1, 2, 3).amax(1),
    "larger": lambda z: torch.maximum(z[:, :3], z[:, 3:]),
    "larger than a constant": lambda z: torch.maximum(z, torch.linspace(-1, 1, 6).to(z)),
    "attention": lambda z: F.scaled_dot_product_attention(*[z.view(-1, 3, 2)] * 3),
}  # fmt: skip
"""Functions of six entries, with a value in both signs unless they say otherwise."""
BOXES, ROWS = 12, 40


def boxes() -> tuple[Tensor, Tensor]:
    """Lower ends and widths (BOXES, 6), from points to intervals around and far from 0."""
    draw = torch.Generator().manual_seed(8)
    middle = torch.randn(BOXES, 6, dtype=torch.float64, generator=draw)
    width = torch.tensor([0.02, 0.3, 1.0, 4.0], dtype=torch.float64).repeat(3)[:, None]
    width = width * torch.rand(BOXES, 6, dtype=torch.float64, generator=draw)
    return middle - width / 2, width


def slack(function: Callable[[Tensor], Tensor], method: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """(BOXES, ROWS) by how much bounds of <c, f(z)> + <t, z> lie below the least value found on each box.

    For a third of the rows t makes a random point stationary, for another a corner, so that lines that leave the
    function anywhere show; the rest are single entries, which attain the ends of exact intervals.
    """
    lower, width = boxes()
    draw = torch.Generator().manual_seed(9)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    share = torch.cat([corners, torch.rand(1000, 6, generator=draw)]).double()
    points = lower[:, None] + width[:, None] * share
    values = function(points.flatten(0, 1)).flatten(1).unflatten(0, points.shape[:2])
    c = torch.randn(BOXES, ROWS, values.shape[2], dtype=torch.float64, generator=draw)
    t = torch.randn(BOXES, ROWS, 6, dtype=torch.float64, generator=draw)
    third = ROWS // 3
    for row in range(2 * third):
        at = points[:, 70 + row] if row < third else points[:, 5 * (row - third) % 64]
        leaf = at.clone().requires_grad_()
        (slope,) = torch.autograd.grad((function(leaf).flatten(1) * c[:, row]).sum(), leaf)
        t[:, row] = -slope
    for row in range(2 * third, ROWS):
        c[:, row], t[:, row] = 0.0, 0.0
        c[:, row, row // 2 % values.shape[2]] = 1.0 if row % 2 else -1.0
    least = (torch.einsum("bsf,bpf->bsp", c, values) + torch.einsum("bsd,bpd->bsp", t, points)).amin(2)

    def net(images: Tensor) -> Tensor:
        z = images * width.to(images.dtype) + lower.to(images.dtype)
        return torch.cat([function(z).flatten(1), z], 1)

    images, threat = torch.full((BOXES, 6), 0.5, dtype=dtype), ThreatModel("linf", 0.5)
    return least - linear_bounds(net, images, torch.cat([c, t], 2).to(dtype), threat, method).double()


@pytest.mark.parametrize("name", SHARP)
def test_intervals_and_lines_enclose_everywhere_and_closely(name: str):
    for method in ("ibp", "crown-ibp"):
        found = slack(SHARP[name], method)
        assert (found >= -1e-9).all(), method
        assert (slack(SHARP[name], method, torch.float32) >= -1e-3).all(), method
    # of the narrow boxes, where a plane is nearly the function, the bound of lines is nearly attained
    narrow = found[::4]
    assert narrow.median() < 2e-3
    assert narrow.isfinite().all()


@pytest.mark.parametrize("name", ["product", "softmax", "log-softmax", "log-sum-exp", "largest", "exp"])
def test_one_percent_too_narrow_is_seen(name: str, monkeypatch: pytest.MonkeyPatch):
    """Planted faults: intervals, then lines, around the clean value by 1 % nearer to it."""
    like, lines, entrywise = Value.like, relaxation.relax, relaxation.relax_entrywise

    def narrower(self: Value, plain: Tensor | None, centre: Tensor, radius: Tensor) -> Value:
        return like(self, plain, centre, radius * 0.99)

    with monkeypatch.context() as patched:
        patched.setattr(Value, "like", narrower)
        assert (slack(SHARP[name], "ibp") < -1e-9).any()

    def nearer(walk: object, output: Tensor, below: Tensor, above: Tensor, *told: object) -> Tensor:
        below, above = below + 0.01 * (output - below).detach(), above + 0.01 * (output - above).detach()
        return lines(walk, output, below, above)

    def nearer_entrywise(
        walk: object, output: Tensor, clean: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor
    ) -> Tensor:
        return nearer(walk, output, a * clean + b, c * clean + d)

    for module in (bilinear, softmax, max_pool):
        monkeypatch.setattr(module, "relax", nearer)
    monkeypatch.setattr(streams, "relax_entrywise", nearer_entrywise)
    assert entrywise is not streams.relax_entrywise
    if name != "softmax":  # whose planes touch it nowhere
        assert (slack(SHARP[name], "crown-ibp") < -1e-9).any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_finite_and_right(name: str):
    """In the radius, against differences; choices between planes may flip between them, in few margins."""
    net = network(FUNCTIONS[name], IMAGES)
    for method in ("ibp", "crown-ibp"):

        def bounds_at(radius: Tensor, method: str = method) -> Tensor:
            return margins_within(net, IMAGES, LABELS, "linf", radius, method)

        radius = torch.tensor([0.03, 0.05], dtype=torch.float64, requires_grad=True)
        slopes = torch.autograd.functional.jacobian(lambda r: bounds_at(r).sum(1), radius).diagonal()
        with torch.no_grad():
            differences = (bounds_at(radius + 1e-6) - bounds_at(radius - 1e-6)).sum(1) / 2e-6
        assert slopes.isfinite().all()
        torch.testing.assert_close(slopes, differences, rtol=1e-3, atol=1e-3)


class Ended(nn.Module):
    """Two hidden layers, and something behind the logits."""

    def __init__(self, end: Callable[[Tensor], Tensor]):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)
            )
        self.end = end
        self.eval().double()

    def forward(self, images: Tensor) -> Tensor:
        return self.end(3 * self.body(images))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", [nn.LogSoftmax(dim=1), nn.Softmax(dim=-1)], ids=["log-softmax", "softmax"])
def test_a_softmax_behind_the_logits_costs_no_certificate(end: nn.Module, method: str):
    plain, net = Ended(nn.Identity()), Ended(end)
    labels = plain(IMAGES).argmax(1)
    margin = {targets: margins(plain, IMAGES, labels, SMALL, method, targets) for targets in ("all", "strongest")}
    found = {targets: margins(net, IMAGES, labels, SMALL, method, targets) for targets in ("all", "strongest")}
    assert (margin["all"] > 0).any()
    for targets, of_logits in margin.items():
        assert ((found[targets] > 0) == (of_logits > 0)).all()
        if isinstance(end, nn.LogSoftmax):
            torch.testing.assert_close(found[targets], of_logits, rtol=0, atol=1e-12)
    if isinstance(end, nn.LogSoftmax):
        widths = log_widths(net, IMAGES, labels, SMALL, method), log_widths(plain, IMAGES, labels, SMALL, method)
        torch.testing.assert_close(*widths, rtol=0, atol=1e-9)
    # linear functions that are no margins are bounded as what they are: here single entries
    alone = linear_bounds(net, IMAGES, torch.eye(4, dtype=torch.float64), SMALL, method)
    draw = torch.Generator().manual_seed(3)
    for at in range(60):
        noise = torch.rand(IMAGES.shape, dtype=IMAGES.dtype, generator=draw) * 2 - 1
        answer = net((IMAGES + SMALL.epsilon * (noise.sign() if at % 2 else noise)).clamp(0, 1))
        assert (found["all"] <= plain_margins(lambda _, answer=answer: answer, IMAGES, labels) + 1e-12).all()
        assert (alone <= answer + 1e-12).all()


SMALL = ThreatModel("linf", 0.02)

REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax over the images": (lambda x: x.softmax(0), "softmax in .*over the images"),
    "largest of the images": (lambda x: x - x.amax(0), "amax in .*over the images"),
    "largest of all": (lambda x: x / x.max(), "max in .*over the images"),
    "norm over the images": (lambda x: F.layer_norm(x, x.shape), "layer_norm in .*over the images"),
    "norm of rows without images": (lambda x: x / x.norm(), "norm in .*named dimensions"),
    "matrices of other images": (lambda x: x.flatten(1) @ x.flatten(1).T, "images"),
    "places of the largest": (lambda x: x * x.max(1, keepdim=True)[1], "places of extremes.*values alone"),
    "places of the largest, gathered": (lambda x: x.gather(1, x.max(1, keepdim=True).indices), "places of extremes"),
    "mask of the images": (lambda x: torch.where(x > 0.5, x, -x), "jumps"),
    "base and exponent": (lambda x: x**x, "base and exponent"),
    "images as a sequence": (lambda x: OUTER(*[x.flatten(1, 2).mT] * 3)[0], "multi_head.*batch_first=True"),
    "turned and mixed": (
        lambda x: F.conv1d(x.flatten(2).transpose(0, 1), torch.ones(2, 2, 1).to(x)),
        "dimension 1 here",
    ),
    "turned and summed": (lambda x: x.flatten(1).transpose(0, 1).mean(1), "dimension 1 here"),
    "attention with dropout": (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), "dropout is on"),
    "three values": (lambda x: torch.einsum("nchw,nchw,nchw->nchw", x, x, x), "more than two"),
    "masked log-softmax": (lambda x: x.masked_fill(MASK, -torch.inf).log_softmax(3), "masked with -inf"),
    "turned, of other shapes": (lambda x: x.flatten(2).transpose(0, 1) + torch.ones(5).to(x), "rule fails"),
    "unequal dimensions": (lambda x: torch.maximum(x, x.flatten(1)), "do not align image by image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_mix_images_is_refused(name: str):
    function, words = REFUSED[name]
    for method in ("ibp", "crown"):
        with pytest.raises(UnsupportedOpError, match=words):
            margins(lambda images: function(images).flatten(1), IMAGES, LABELS, SMALL, method)
