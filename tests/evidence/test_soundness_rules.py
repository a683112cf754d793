"""Every shipped rule on its own, where its interval is attained: a rule that is wrong by 1 % is found."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
import torch
from test_soundness import Tilted
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.soundness.networks import (
    ARRANGED,
    ENTRYWISE,
    LINEAR,
    Apply,
    activations,
    narrowed,
    recorded,
    replaced,
    shipped,
)
from robustnas.bounds import linear_bounds, relaxation
from robustnas.bounds.rules import rectifier
from robustnas.nn.fast import Form, StageShape, separable
from robustnas.threat import ThreatModel

SHAPE = (2, 5, 6)
BOX = ThreatModel("linf", 0.125)
FAULT = 0.99
MATRIX = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], dtype=torch.float64)


class Entries(nn.Module):
    """The entries of a block's output as logits."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block
        self.double().eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.block(images).flatten(1)


def blocks() -> list[Entries]:
    """One of every kind that the random networks of the campaign are made of, several where a kind has options."""
    made: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made += [Apply(function, SHAPE[0]) for function in ENTRYWISE] + [Apply(function) for function in ARRANGED]
        made += [Apply(lambda x, function=function: function(4 * (x - 0.5))) for function in activations().values()]
        made += [block(Random(seed), SHAPE[0]) for block in dict.fromkeys(LINEAR) for seed in range(3)]
        made += [nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), nn.MaxPool2d(2), Product(60, 3)]
        made += [Apply(lambda x: torch.einsum("nchw,cd->ndhw", x, MATRIX))]
        made += [Apply(function) for function in OF_VALUES]
    return [Entries(block) for block in made]


def beside(*parts: Tensor) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


OF_VALUES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: (x[:, :1] - 0.5) * x[:, 1:],
    lambda x: beside(F.glu(x, 1), F.cosine_similarity(x + 0.5, torch.eye(2, dtype=x.dtype)[0].view(2, 1, 1))),
    lambda x: (x[:, :1] - 0.5) / (x[:, 1:] + 1),
    lambda x: beside((x + 1).reciprocal(), 1 / (-x - 1)),
    lambda x: beside(x**3, torch.exp(x), (x + 1).log(), 2**x, (x + 1) ** -0.5),
    lambda x: beside(drawn(6, 5) @ x, torch.addmm(drawn(2), x[:, 0, 0], drawn(6, 2), alpha=2)),
    lambda x: beside(torch.lerp(x[:, 0], x[:, 1], 0.25), torch.addcdiv(drawn(6), x[:, 0], x[:, 1] + 1)),
    lambda x: beside(x.log_softmax(3), x.softmax(1), F.softmin(4 * x, 2), x.logsumexp((1, 2))),
    # with a large eps the entries of a group hardly meet one another
    lambda x: 64 * F.layer_norm(x, (6,), eps=1e3),
    lambda x: 64 * beside(F.group_norm(x, 1, eps=1e3), F.instance_norm(x, eps=1e3)),
    lambda x: beside(F.rms_norm(x, (6,), eps=0.1), F.normalize(x + 0.5), F.local_response_norm(x, 2, alpha=1e-6)),
    lambda x: beside((4 * x).std(1), (x * 4).norm(dim=1), *torch.var_mean(8 * x, 1)),
    # of one key
    lambda x: beside(F.scaled_dot_product_attention(x, x[:, :, :1], x[:, :, 1:2])),
    lambda x: beside(x.amax(1), x.min(3)[0], torch.maximum(x[:, 0], x[:, 1]), x.tril()),
    lambda x: beside(torch.where(drawn(5, 6) > 0, x, 0.5), x.masked_fill(drawn(5, 6) > 0, 2.0)),
    lambda x: beside(F.conv_transpose2d(x, drawn(2, 1, 3, 3)), F.unfold(x, 2), x.cumsum(2)),
    lambda x: separable(Form(StageShape(1, 1, (1,), True), 1), x, [drawn(2, 1, 3, 3)], drawn(2, 2, 1, 1))[0],
)
"""Functions of values by values whose intervals are attained: of entries that are met once, or rise in all of them."""


class Product(nn.Module):
    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(features, outputs))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.matrix


def lowest_found(network: Entries, image: Tensor) -> Tensor:
    """(2 E,) least value of every entry and of its negative, over the box's ends, its diagonal and the corners that
    the gradients of the entries point to."""
    low, high = (image - BOX.epsilon).clamp_min(0), (image + BOX.epsilon).clamp_max(1)
    slopes = torch.autograd.functional.jacobian(lambda x: network(x)[0], image)[:, 0]
    corners = torch.where(torch.cat([slopes, -slopes]) > 0, low, high)
    share = torch.linspace(0, 1, 201, dtype=image.dtype).view(-1, 1, 1, 1)
    with torch.no_grad():
        values = network(torch.cat([corners, low + share * (high - low)]))
    return torch.cat([values.amin(dim=0), -values.amax(dim=0)])


def excess(network: Entries, image: Tensor, least: Tensor, method: str = "ibp") -> float:
    """By how much the bounds of the entries lie above attained values, at most; logits."""
    rows = torch.eye(len(least) // 2, dtype=image.dtype)
    with torch.no_grad():
        bound = linear_bounds(network, image, torch.cat([rows, -rows]), BOX, method)[0]
    return float((bound - least).max())


def test_an_interval_that_is_narrow_by_1_percent_is_found_whatever_the_rule():
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constants = {"ones_like"}  # the rule of what has no radius
    seen: set[str] = set()
    found: set[str] = set()
    names = {rule: functions[0].__name__ for rule, functions in shipped().items()}
    for network in blocks():
        least = lowest_found(network, image)
        with recorded() as used:
            assert excess(network, image, least) < 1e-12, network
        for rule in used & set(names):
            seen.add(names[rule])
            if names[rule] not in found:
                with replaced(shipped()[rule][0], narrowed(FAULT)):
                    if excess(network, image, least) > 1e-4:
                        found.add(names[rule])
    assert seen >= set(names.values()), f"no block uses the rules of {set(names.values()) - seen}"
    assert found == seen - constants, f"1 % is not found in the rules of {seen - constants - found}"
    assert len(found) >= 20


@pytest.mark.parametrize("name", activations())
def test_lines_that_are_high_by_1_percent_are_found_whatever_the_function(name: str, monkeypatch: pytest.MonkeyPatch):
    """On intervals of many widths, with slopes behind the function for which a line is touched."""
    draw, count = torch.Generator().manual_seed(1), 400
    middle, width, tilt = (torch.rand(count, generator=draw, dtype=torch.float64) for _ in range(3))
    middle, width, tilt = 4 * middle - 2, 4 * width + 0.01, 3 * tilt - 1.5
    images, everything = torch.full((1, count), 0.5, dtype=torch.float64), ThreatModel("linf", 0.5)
    points = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None].expand(-1, count)

    def violated() -> int:
        number = 0
        for sign in (1.0, -1.0):
            net = Tilted(name, sign, middle - width / 2, width, -sign * tilt)
            least = net(points).amin(dim=0)
            bound = linear_bounds(net, images, torch.eye(count, dtype=torch.float64), everything)[0]
            number += int((bound > least + 1e-9).sum())
        return number

    assert violated() == 0
    raise_lines(monkeypatch)
    assert violated() > 10


def test_lines_of_max_pooling_that_are_high_by_1_percent_are_found(monkeypatch: pytest.MonkeyPatch):
    network = Entries(nn.MaxPool2d(2))
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    least = lowest_found(network, image)
    assert excess(network, image, least, "crown-ibp") < 1e-12
    raise_lines(monkeypatch)
    assert excess(network, image, least, "crown-ibp") > 1e-4


def raise_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the gap between every line and its function counts 1 % less."""
    per_image, of_rows = relaxation.per_image, rectifier._per_image
    for module in (relaxation, rectifier):
        monkeypatch.setattr(module, "per_image", lambda gap: FAULT * per_image(gap))

    def fewer(gap: Tensor, clean: Tensor) -> Tensor:
        """Without rows in front it is the other function, which is at fault already."""
        return of_rows(gap, clean) * (FAULT if gap.dim() > clean.dim() else 1.0)

    monkeypatch.setattr(rectifier, "_per_image", fewer)
