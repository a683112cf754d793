"""Method alpha-crown: every linear function, of the logits and in front of nonlinearities, has slopes of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustnas.bounds import AlphaCrown, Crown, margins
from robustnas.bounds.ascent import ascended
from robustnas.bounds.entries import unit_rows
from robustnas.bounds.methods import TIGHT_LINES
from robustnas.bounds.passes import bounded_logits
from robustnas.bounds.propagation import Propagation
from robustnas.bounds.region import Region
from robustnas.bounds.steps.lines import EntrywiseLines, _Chosen
from robustnas.bounds.walk import drops
from robustnas.threat import ThreatModel

SHAPE = (1, 8, 8)
LABELS = torch.tensor([0, 1])


def network() -> nn.Module:
    torch.manual_seed(5)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.LeakyReLU(0.1)]
    layers += [nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 3)).double().eval()


def some_images() -> Tensor:
    return torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.06), ("l2", 0.4), ("l1", 1.5)])
def test_intervals_are_optimised_too_and_hold(norm: str, epsilon: float):
    net, images, threat = network(), some_images(), ThreatModel(norm, epsilon)
    with torch.no_grad():
        crown, fixed, free = (
            margins(net, images, LABELS, threat, method)
            for method in (Crown(), AlphaCrown(steps=6, inner=0), AlphaCrown(steps=6, inner=5))
        )
    assert (fixed >= crown).all()
    assert (free >= crown).all()
    assert (free > fixed + 1e-6).float().mean() > 0.8
    for attained in attacked(net, images, threat):
        assert (attained >= free - 1e-9).all()


def attacked(net: nn.Module, images: Tensor, threat: ThreatModel) -> list[Tensor]:
    """Margins at random images of the region, and along a descent on each margin."""
    found, draw = [], torch.Generator().manual_seed(0)

    def at(candidates: Tensor) -> Tensor:
        logits = net(threat.project(candidates, images))
        others = torch.tensor([[j for j in range(3) if j != label] for label in LABELS.tolist()])
        return logits.gather(1, LABELS[:, None]) - logits.gather(1, others)

    for _ in range(20):
        noise = torch.randn(images.shape, dtype=torch.float64, generator=draw)
        found.append(at(images + 3 * threat.epsilon * noise.sign()).detach())
    for column in range(2):
        candidates = images.clone()
        for _ in range(15):
            candidates.requires_grad_()
            (slope,) = torch.autograd.grad(at(candidates)[:, column].sum(), candidates)
            step = slope.sign() if threat.norm == "linf" else slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            candidates = threat.project(candidates.detach() - threat.epsilon / 4 * step, images)
            found.append(at(candidates).detach())
    return found


def passed(epsilon: float = 0.06) -> Propagation:
    """A pass whose tape has all steps."""
    region = Region(some_images(), "linf", torch.full((2,), epsilon, dtype=torch.float64))
    propagation = Propagation(network(), region, TIGHT_LINES)
    bounded_logits(propagation)
    return propagation


def last_input(propagation: Propagation) -> Tensor:
    """The clean value in front of the last rectifier of a map."""
    tape = propagation.tape
    assert tape is not None
    records = tape._records.values()
    return [each.inputs[0] for each in records if isinstance(each.step, EntrywiseLines) and each.output.dim() == 4][-1]


def test_slopes_leave_the_border_on_which_they_start_and_gave_the_bound():
    """A clamp inside the graph would have no gradient at 0 and 1, where the slopes of crown lie."""
    with torch.no_grad():
        propagation = passed()
        clean = last_input(propagation)
        image, entry = torch.arange(2).repeat(6), torch.arange(6).repeat_interleave(2)
        unit, rows = unit_rows(clean, image, entry)
        rows.first = {}
        crown = drops(propagation, clean, unit, rows)
        first = {place: slope for place, (slope, _) in rows.first.items()}
        assert len(first) == 2
        best, kept = ascended(propagation, clean, unit, rows.anew, 10, 0.3)
        assert (best < crown - 1e-6).float().mean() > 0.8
        for place, slope in first.items():
            lowest = 0.1 if slope.amin() > 0 else 0.0
            assert ((slope == lowest) | (slope == 1.0)).all()
            assert ((kept[place] > lowest) & (kept[place] < 1)).sum() > 5
            # rows of one image have slopes of their own
            of_one = kept[place][::2]
            assert (of_one != of_one[:1]).any()
        again = rows.anew()
        again.slopes = kept
        assert torch.allclose(drops(propagation, clean, unit, again), best, rtol=1e-12)


def test_slopes_of_settled_entries_stay():
    with torch.no_grad():
        propagation = passed(0.01)
        clean = last_input(propagation)
        unit, rows = unit_rows(clean, torch.arange(2), torch.arange(2))
        rows.first = {}
        drops(propagation, clean, unit, rows)
        first = {place: slope for place, (slope, _) in rows.first.items()}
        _, kept = ascended(propagation, clean, unit, rows.anew, 3, 0.3)
        assert propagation.tape is not None
        records = {each.place: each for each in propagation.tape._records.values()}
        settled = 0
        for place, slope in first.items():
            step = records[place].step
            assert isinstance(step, EntrywiseLines)
            if slope.shape[2:] == step.slopes.turn.shape[2:]:
                same = step.slopes.turn[torch.arange(2).repeat(2)] == 0
                assert torch.equal(kept[place][same], slope[same])
                settled += int(same.sum())
        assert settled > 20


def test_gradients_in_slopes_are_those_of_the_lines():
    draw = torch.Generator().manual_seed(0)
    each, chosen = (torch.randn(2, 3, 4, dtype=torch.float64, generator=draw).requires_grad_() for _ in range(2))
    lines = [torch.randn(3, 4, dtype=torch.float64, generator=draw) for _ in range(5)]
    assert torch.autograd.gradcheck(lambda a, s: _Chosen.apply(a, s, *lines), (each, chosen))


def test_a_gradient_of_the_bound_takes_intervals_and_slopes_for_constants():
    net, threat = network(), ThreatModel("linf", 0.03)
    with torch.no_grad():
        plain = margins(net, some_images(), LABELS, threat, AlphaCrown(steps=6, inner=3))
    graph = margins(net, some_images(), LABELS, threat, AlphaCrown(steps=6, inner=3))
    assert torch.allclose(graph, plain, rtol=1e-9)
    gradients = torch.autograd.grad(graph.sum(), list(net.parameters()))
    assert all(each.isfinite().all() for each in gradients)
    assert gradients[0].abs().sum() > 0
