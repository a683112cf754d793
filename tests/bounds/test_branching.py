"""Branch and bound: it decides what exact solvers decide, refutes with real images, and is sound when it is stopped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from test_bounds_exact import convolutional, layers_of, mlp
from torch import Tensor, nn

from evidence.soundness.exact import by_integers
from robustnas.bounds import AlphaCrown, Branching, Crown, linear_bounds, log_widths, margins
from robustnas.bounds.branching import search
from robustnas.bounds.branching.bounding import Bounded
from robustnas.bounds.branching.problem import Part, Problem, Split
from robustnas.bounds.margins import completed_within
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.runtime import interrupt
from robustnas.threat import NORMS, ThreatModel

EPSILONS = {"linf": 0.12, "l2": 0.25, "l1": 0.5}
"""Radii at which crown leaves images of the network below open."""


def network() -> nn.Sequential:
    return mlp(3, (9, 16, 16, 4))


def images(count: int = 12) -> Tensor:
    return torch.rand(count, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def verified(net: nn.Module, x: Tensor, norm: str, epsilon: float, **budget: Any) -> Any:
    radii = torch.full((len(x),), epsilon, dtype=x.dtype)
    return completed_within(net, x, net(x).argmax(1), norm, radii, Branching(**budget))


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_it_decides_as_a_mixed_integer_program_does(norm: str):
    net, x, epsilon = mlp(3, (6, 9, 9, 3)), images(8)[:, :6], 2 * EPSILONS[norm]
    labels = net(x).argmax(1)
    found = verified(net, x, norm, epsilon, seconds=1e9)
    exact = [
        min(
            by_integers(layers_of(net, 6), np.eye(3)[y] - np.eye(3)[j], image.numpy(), norm, epsilon)
            for j in range(3)
            if j != y
        )
        for image, y in zip(x, labels.tolist(), strict=True)
    ]
    proved = (found.margins > 0).all(dim=1)
    assert proved.tolist() == [least > 0 for least in exact]
    assert found.refuted.tolist() == [least <= 0 for least in exact]
    assert (found.margins.amin(1) <= torch.tensor(exact) + 1e-7).all()
    crown = (margins(net, x, labels, ThreatModel(norm, epsilon), Crown()) > 0).all(dim=1)
    assert int(crown.sum()) < int(proved.sum()) < len(x), "nothing was left for it to prove, or to refute"


def test_it_decides_convolutions_with_batch_norm_and_pooling():
    net, x = convolutional(1), torch.rand(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels, found = net(x).argmax(1), verified(net, x, "linf", 0.15, seconds=1e9)
    for place, (image, y) in enumerate(zip(x, labels.tolist(), strict=True)):
        exact = min(
            by_integers(layers_of(net, 16), np.eye(3)[y] - np.eye(3)[j], image.numpy(), "linf", 0.15)
            for j in range(3)
            if j != y
        )
        assert bool((found.margins[place] > 0).all()) == (exact > 0)
        assert bool(found.refuted[place]) == (exact <= 0)
    assert 0 < int(found.refuted.sum()) < len(x)


@pytest.mark.parametrize("norm", NORMS)
def test_what_refutes_is_admissible_and_classified_otherwise(norm: str):
    net, x, epsilon = network(), images(24), EPSILONS[norm]
    found = verified(net, x, norm, epsilon, parts=2000, seconds=1e9)
    assert int(found.refuted.sum()) >= 3
    wrong = net(found.witnesses).argmax(1) != net(x).argmax(1)
    assert torch.equal(wrong, found.refuted), "an image that is not refuted keeps its own image"
    assert (ThreatModel(norm, epsilon).distance(found.witnesses, x) <= epsilon * (1 + 1e-9)).all()
    assert 0 <= float(found.witnesses.min()) <= float(found.witnesses.max()) <= 1
    assert not (found.refuted & (found.margins > 0).all(1)).any()
    assert ((found.margins > 0).all(1) | found.refuted).all(), "2,000 parts an image are plenty"


@pytest.mark.parametrize("parts", [1, 4, 16])
@pytest.mark.parametrize("norm", NORMS)
def test_stopped_early_its_bounds_are_sound_and_never_below_crowns(parts: int, norm: str):
    net, x, epsilon = network(), images(), EPSILONS[norm]
    labels, threat = net(x).argmax(1), ThreatModel(norm, epsilon)
    found = verified(net, x, norm, epsilon, parts=parts, steps=5, seconds=1e9)
    assert (found.margins >= margins(net, x, labels, threat, Crown()) - 1e-9).all()
    assert int(found.parts.max()) <= parts + 2  # the halves that were taken last
    draw, least = torch.Generator().manual_seed(parts), torch.full_like(found.margins, torch.inf)
    others = torch.stack([torch.tensor([j for j in range(4) if j != y]) for y in labels.tolist()])
    for _ in range(200):
        step = torch.randn(x.shape, generator=draw, dtype=x.dtype).sign() * epsilon
        logits = net(threat.project(x + step, x))
        least = torch.minimum(least, logits.gather(1, labels[:, None]) - logits.gather(1, others))
    assert (found.margins <= least + 1e-9).all()


def test_the_same_parts_give_the_same_bounds():
    net, x = network(), images()
    one, two = (verified(net, x, "linf", 0.12, parts=8, seconds=1e9) for _ in range(2))
    assert torch.equal(one.margins, two.margins)
    assert torch.equal(one.parts, two.parts)


def test_entries_shared_by_several_rectifiers_are_split_for_all():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(5, (6, 8, 8))
            self.left, self.right = mlp(6, (8, 3)), mlp(7, (8, 3))

        def forward(self, x: Tensor) -> Tensor:
            state = self.body(x)
            return self.left(torch.relu(state)) + self.right(torch.relu(state)) - 0.3 * state[:, :3]

    net, x = (
        Shared().eval().double(),
        torch.rand(10, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
    )
    found = verified(net, x, "linf", 0.5, parts=2000, seconds=1e9)
    decided = (found.margins > 0).all(1) | found.refuted
    crown = (margins(net, x, net(x).argmax(1), ThreatModel("linf", 0.5), Crown()) > 0).all(1)
    assert decided.all()
    assert int(crown.sum()) < int((found.margins > 0).all(1).sum())


def test_max_pooling_stays_relaxed_and_may_stay_open():
    layers = (
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 2),
        nn.MaxPool2d(2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(*layers).eval().double()
        for parameter in net.parameters():
            parameter.data.normal_()
    x = torch.rand(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = verified(net, x, "linf", 0.1, parts=300, seconds=1e9)
    proved = (found.margins > 0).all(1)
    assert not (proved & found.refuted).any()
    threat, labels = ThreatModel("linf", 0.1), net(x).argmax(1)
    for seed in range(50):
        step = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype).sign() * 0.1
        assert not (proved & (net(threat.project(x + step, x)).argmax(1) != labels)).any()


def test_a_part_cuts_its_intervals_at_0_and_halves_share_an_end():
    ends = (torch.tensor([[-1.0, -2.0], [-3.0, 1.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    problem = Problem(lambda x: x, torch.zeros(2, 1), "linf", torch.zeros(2), torch.zeros(2, 1, 2), [ends])
    left, right = Part(1, 0, choice=(0, 0)).halves()
    assert left.splits == (Split(0, 0, positive=True),)
    ((lower, upper),) = problem.intervals([left, right, Part(0, 0)])
    assert lower.tolist() == [[0, 1], [-3, 1], [-1, -2]]
    assert upper.tolist() == [[3, 4], [0, 4], [1, 2]]
    assert ends[0].tolist() == [[-1, -2], [-3, 1]], "the region's own intervals stay"


def test_parts_that_are_dropped_when_an_image_is_refuted_count_all_the_same(monkeypatch: pytest.MonkeyPatch):
    """One half is proved, and its image, which lies in the other half, refutes: the other must not be forgotten."""

    def bound(problem: Problem, parts: list[Part], *_: Any) -> Bounded:
        found = [
            evolve(part, bound=-1.0 if len(parts) == 1 else 1.0 - 2.0 * row, choice=(0, 0))
            for row, part in enumerate(parts)
        ]
        return Bounded(torch.tensor([part.bound for part in found]), problem.images[problem.numbers(parts)], found)

    def descend(problem: Problem, parts: list[Part], x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.tensor([row == 0 and len(parts) > 1 for row in range(len(parts))])

    monkeypatch.setattr(search, "bound", bound)
    monkeypatch.setattr(search, "descend", descend)
    ends = [(-torch.ones(1, 1), torch.ones(1, 1))]
    problem = Problem(lambda x: x, torch.zeros(1, 2), "linf", torch.zeros(1), torch.tensor([[[1.0, -1.0]]]), ends)
    known, right, none = torch.tensor([[-2.0]]), torch.tensor([True]), torch.zeros(1)
    found = search.complete(problem, known, right, none, Branching(parts=3, seconds=1e9))
    assert found.refuted.item()
    assert found.margins.item() == -1


def test_it_verifies_margins_and_nothing_else():
    net, x = network(), images(2)
    labels, threat = net(x).argmax(1), ThreatModel("linf", 0.1)
    for call in (
        lambda: linear_bounds(net, x, torch.eye(4)[:1].double(), threat, "bab"),
        lambda: log_widths(net, x, labels, threat, Branching()),
    ):
        with pytest.raises(
            InputError, match="method bab verifies margins; for this, ibp, crown-ibp, crown, alpha-crown"
        ):
            call()
    with pytest.raises(UnsupportedOpError, match="ends in a softmax, and method `bab`"):
        margins(nn.Sequential(net, nn.Softmax(1)).eval(), x, labels, ThreatModel("linf", 0.3), "bab")
    through = margins(nn.Sequential(net, nn.LogSoftmax(1)).eval(), x, labels, threat, "bab")
    assert torch.equal(through > 0, margins(net, x, labels, threat, "bab") > 0)


def test_slopes_of_a_single_function_are_optimised_without_gradients_too():
    net, x, threat = network(), images(), ThreatModel("l2", 0.25)
    row = torch.tensor([[1.0, -1.0, 0.0, 0.0]], dtype=torch.float64)
    wanted = linear_bounds(net, x, row, threat, AlphaCrown()).detach()
    with torch.no_grad():
        found = linear_bounds(net, x, row, threat, AlphaCrown())
        assert (found > linear_bounds(net, x, row, threat, Crown()) + 1e-6).any()
    torch.testing.assert_close(found, wanted)


def test_it_stops_between_two_rounds_when_the_process_is_asked_to(monkeypatch: pytest.MonkeyPatch):
    def asked() -> None:
        raise interrupt.Interrupted

    net, x = network(), images()
    monkeypatch.setattr(interrupt, "check", asked)
    with pytest.raises(interrupt.Interrupted):
        verified(net, x, "linf", EPSILONS["linf"])
