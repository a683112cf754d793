"""Backward passes row by row, on crops of maps: they give what passes of whole maps of all images give."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn

from robustnas.bounds import AlphaCrown, entries, margins, passes
from robustnas.bounds.methods import LINES, TIGHT_LINES
from robustnas.bounds.passes import bounded_logits, drop_below_clean
from robustnas.bounds.propagation import Ascent, Pass, Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.rows import Coefficients, Rows
from robustnas.bounds.rules import max_pool
from robustnas.bounds.steps import layers, lines, moves, pools
from robustnas.bounds.value import Value
from robustnas.bounds.walk import drops
from robustnas.threat import ThreatModel

SHAPE = (3, 9, 9)


def convolved(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), *layers, nn.ReLU())


class Ways(nn.Module):
    """Two ways of unlike receptive fields that are summed, one of them a cut of the other's map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.norm, self.right = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, stride=2)
        self.left = nn.Conv2d(4, 2, 1, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.stem(images))
        x = torch.relu(x + 0.5 * self.norm(self.wide(x)) - torch.arange(9.0).to(x))
        y = torch.cat([self.left(x), self.right(F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1)))], 1)
        return torch.relu(y + F.avg_pool2d(x, 3, 2, padding=1)) + x.mean((2, 3), keepdim=True)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "strided": lambda: convolved(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 2, bias=False)),
    "depthwise": lambda: convolved(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), nn.Conv2d(4, 5, 1)),
    "separable": lambda: convolved(
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1, stride=2), nn.ReLU(), nn.MaxPool2d(3, 1, 1)),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 5, 1)),
    ),
    "grouped": lambda: convolved(nn.Conv2d(4, 6, (1, 3), stride=(1, 2), padding=(0, 1), groups=2)),
    "two affine layers": lambda: convolved(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)),
    "max pool": lambda: convolved(nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(4, 4, 1)),
    "average pool": lambda: convolved(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), nn.Conv2d(4, 4, 1)),
    "other activations": lambda: convolved(nn.GELU(), nn.Conv2d(4, 3, 3), nn.LeakyReLU(0.2), nn.Conv2d(3, 3, 1)),
    "moves": lambda: convolved(Moves()),
    "ways": Ways,
    "upstream": lambda: convolved(Upstream(), nn.Conv2d(4, 3, 3, padding=1)),
}


class Upstream(nn.Module):
    """Functions of two values, one of which is made of the other: products, sums of unlike shapes, stacks."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(-3 * x)
        x = x - 0.5 * x.mean(1, keepdim=True)
        return torch.stack([x, -0.7 * x], 2).mean(2) + 0.3 * x


class Moves(nn.Module):
    """Entries that are turned, repeated, doubled in size and put in another order."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x.flip(2) - F.interpolate(x, scale_factor=2)[:, :, ::2, ::2].mean(1, keepdim=True))
        return x[:, 1:3].repeat(1, 2, 1, 1).transpose(2, 3) * 2 - 0.1


def made(name: str, shape: tuple[int, ...] = SHAPE) -> nn.Module:
    torch.manual_seed(0)
    body = NETWORKS[name]()
    with torch.no_grad():
        width = body(torch.zeros(1, *shape)).flatten(1).shape[1]
    net = nn.Sequential(body, nn.Flatten(), nn.Linear(width, 3)).double()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return net.eval()


def some_images(count: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


SMALL = "depthwise", "separable", "grouped", "strided", "max pool", "average pool"
"""Networks of which there is a test with maps so small that rows come last in memory."""


@pytest.mark.parametrize(
    ("name", "shape"), [*((name, SHAPE) for name in NETWORKS), *((name, (3, 7, 7)) for name in SMALL)]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_give_what_whole_maps_give(name: str, shape: tuple[int, ...], norm: str, monkeypatch: pytest.MonkeyPatch):
    walked, seen = passes.entry_drops, []

    def compared(propagation: Propagation, clean: Tensor, image: Tensor, entry: Tensor) -> Tensor:
        found = walked(propagation, clean, image, entry)
        some = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))[:6]
        value = Value(propagation, clean, clean.detach(), torch.zeros_like(clean))
        for index in some.tolist():
            unit = torch.zeros_like(clean.detach()).flatten(1)
            unit[image[index], entry[index]] = 1.0
            unit = unit.view(1, *clean.shape)
            for row, sign in enumerate((1.0, -1.0)):
                whole = drop_below_clean(value, sign * unit, differentiable=False)[0, image[index]]
                assert torch.allclose(found[row, index], whole, rtol=1e-9 if norm == "linf" else 2e-6, atol=1e-12)
        seen.append(len(image))
        return found

    monkeypatch.setattr(passes, "entry_drops", compared)
    epsilon = torch.tensor([0.2, 0.4, 0.1], dtype=torch.float64) * (1 if norm == "linf" else 4)
    with torch.no_grad():
        images = some_images(shape=shape)
        bounded_logits(Propagation(made(name, shape), Region(images, norm, epsilon), TIGHT_LINES))
    assert sum(seen) > 20


def test_small_maps_have_their_rows_last(monkeypatch: pytest.MonkeyPatch):
    """Otherwise the comparison above would not see the matrices of convolutions, nor parts of single images."""
    dense, alone = [], []
    product, summed = torch.bmm, pools.ChosenEntries._of_one_image
    monkeypatch.setattr(torch, "bmm", lambda *given: dense.append(0) or product(*given))
    monkeypatch.setattr(pools.ChosenEntries, "_of_one_image", lambda *given: alone.append(0) or summed(*given))
    network, images = made("separable", (3, 7, 7)), some_images(2, (3, 7, 7))
    margins(network, images, torch.tensor([0, 1]), ThreatModel("linf", 0.4), "crown")
    assert dense
    assert alone


def test_dominated_entries_of_windows_are_not_bounded(monkeypatch: pytest.MonkeyPatch):
    network, images, labels = made("max pool"), some_images(), torch.tensor([0, 1, 2])
    walked, counts = passes.entry_drops, []

    def counted(propagation: Propagation, clean: Tensor, image: Tensor, *given) -> Tensor:
        counts.append(len(image))
        return walked(propagation, clean, image, *given)

    monkeypatch.setattr(passes, "entry_drops", counted)
    with torch.no_grad():
        fewer = margins(network, images, labels, ThreatModel("linf", 0.02), "crown")
    some = sum(counts)
    counts.clear()
    rule = max_pool.tighten
    # only the second call, of the entries that compete, sees all of them now
    monkeypatch.setattr(max_pool, "tighten", lambda value, matters, partly: rule(value, None, partly=partly))
    with torch.no_grad():
        every = margins(network, images, labels, ThreatModel("linf", 0.02), "crown")
    assert some < 0.75 * sum(counts)
    assert torch.allclose(fewer, every, rtol=1e-10)


def test_coefficients_are_held_on_crops(monkeypatch: pytest.MonkeyPatch):
    """Otherwise the comparison above would compare whole maps with whole maps."""
    cropped = set()
    for module in (layers, lines, moves, pools):
        for name, step in vars(module).items():
            if isinstance(step, type) and hasattr(step, "pull"):

                def spied(self, rows: Rows, output: Tensor, given: Coefficients, pull=step.pull, name=name):
                    if given.crop is not None:
                        cropped.add(name)
                    return pull(self, rows, output, given)

                monkeypatch.setattr(step, "pull", spied)
    for name in NETWORKS:
        margins(made(name), some_images(1), torch.tensor([0]), ThreatModel("linf", 0.4), "crown")
    assert {
        "Convolution",
        "Scale",
        "Sum",
        "EntrywiseLines",
        "Join",
        "Move",
        "Pad",
        "ChosenEntries",
        "Average",
    } <= cropped


@pytest.mark.parametrize("limit", [1, 200])
def test_memory_that_does_not_suffice_for_all_rows_is_given_parts(limit: int, monkeypatch: pytest.MonkeyPatch):
    given = made("grouped"), some_images(2), torch.tensor([0, 1]), ThreatModel("linf", 0.05), "crown"
    with torch.no_grad():
        at_once = margins(*given)
        counts = []

        def counted(propagation: Propagation, clean: Tensor, coefficients: Coefficients, rows: Rows) -> Tensor:
            counts.append(len(rows.image))
            return drops(propagation, clean, coefficients, rows)

        monkeypatch.setattr(entries, "drops", counted)
        monkeypatch.setattr(entries, "CACHED", limit)
        monkeypatch.setattr(entries, "FIRST", 2)
        assert torch.allclose(margins(*given), at_once, rtol=1e-12)
    assert max(counts) <= max(2, limit)
    assert len(counts) > 4


@pytest.mark.parametrize(
    ("front", "exact"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), True),
        (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(243, 5)), True),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), False),
        (nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3)), False),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3)), False),
    ],
    ids=lambda each: str(each).split("(")[0] if isinstance(each, nn.Module) else None,
)
def test_intervals_that_are_exact_already_are_left_alone(
    front: nn.Module, exact: bool, monkeypatch: pytest.MonkeyPatch
):
    """In l_inf: one layer that mixes pixels, none of which it sees twice."""
    calls = []
    monkeypatch.setattr(passes, "entry_drops", lambda *given: calls.append(0) or entries.entry_drops(*given))
    torch.manual_seed(0)
    for layer in front.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    net = nn.Sequential(front, nn.ReLU(), nn.Flatten())
    width = net(torch.zeros(1, *SHAPE)).shape[1]
    net = nn.Sequential(net, nn.Linear(width, 3)).double().eval()
    for norm, skipped in (("linf", exact), ("l2", False)):
        calls.clear()
        with torch.no_grad():
            margins(net, some_images(), torch.tensor([0, 1, 2]), ThreatModel(norm, 0.2), "crown")
        assert (not calls) == skipped, norm


@pytest.mark.parametrize("shape", [SHAPE, (3, 7, 7)])
def test_lines_that_are_one_percent_too_narrow_are_seen(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """A planted fault: the walk's lines only, so that passes of whole maps disagree with it."""
    exact = lines.EntrywiseLines.slopes.func

    def narrower(self: lines.EntrywiseLines) -> lines.Slopes:
        drawn = exact(self)
        return drawn._replace(beneath=drawn.beneath * 0.99, rise=drawn.rise * 0.99)

    monkeypatch.setattr(lines.EntrywiseLines, "slopes", property(narrower))
    with pytest.raises(AssertionError):
        test_rows_give_what_whole_maps_give("strided", shape, "linf", monkeypatch)


def test_a_pass_is_freed_when_nobody_holds_its_bounds():
    """Graphs must not hold the pass, which holds tensors of theirs: Python cannot see such a circle."""
    kept: list[weakref.ref[Propagation]] = []

    def bounded(kind: Pass) -> None:
        propagation = Propagation(made("ways"), Region(some_images(1), "linf", torch.tensor([0.1]).double()), kind)
        bounded_logits(propagation)
        kept.append(weakref.ref(propagation))

    for kind in (LINES, TIGHT_LINES, Pass(backward=True, tightens=True, ascent=Ascent(steps=1, inner=1))):
        bounded(kind)
    gc.collect()
    assert [each() for each in kept] == [None] * 3


def test_optimised_slopes_leave_coefficients_beyond_the_map_at_0(monkeypatch: pytest.MonkeyPatch):
    """Where the least slope is not 0, as of leaky ReLU, and a convolution with padding lies in front."""
    pull, seen = lines.EntrywiseLines.pull, []

    def spied(self, rows: Rows, output: Tensor, given: Coefficients):
        (found,) = pull(self, rows, output, given)
        if found.crop is not None and rows.place in rows.slopes:
            size = (output.shape[2], output.shape[3])
            inside = rows.inside(evolve(found, sticks=True), size)
            seen.append(float((found.tensor - inside.tensor).detach().abs().max()))
        return [found]

    monkeypatch.setattr(lines.EntrywiseLines, "pull", spied)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(*(SHAPE[0], 4), 3, padding=1), nn.LeakyReLU(0.3), nn.Conv2d(4, 4, 3, padding=1))
    net = nn.Sequential(body, nn.LeakyReLU(0.3), nn.Conv2d(4, 3, 3, padding=1), nn.LeakyReLU(0.3), nn.Flatten())
    width = net(torch.zeros(1, *SHAPE)).shape[1]
    net = nn.Sequential(net, nn.Linear(width, 3)).double().eval()
    margins(net, some_images(1), torch.tensor([0]), ThreatModel("linf", 0.3), AlphaCrown(steps=2, inner=2))
    assert len(seen) > 3
    assert max(seen) == 0
