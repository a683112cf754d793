"""Cells computed again in the backward pass: the same numbers, one move of the statistics, and less that is kept."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from robustnas.bounds import margins
from robustnas.contracts import Context
from robustnas.errors import InputError, RunError
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.nn.recompute import cells_of, recompute
from robustnas.registry import ORDERS
from robustnas.runtime import seeding
from robustnas.runtime.tally import Tally
from robustnas.search.bilevel import inner_step, outer_step
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Objective
from robustnas.search.weights import replaced, weights
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.certified_bound import CertifiedBound
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.search_spaces.darts import Darts
from support.networks import CellSupernet, batch, parts

KEY = "search.recompute_cells"
THREAT = ThreatModel("linf", "1/255")


def pair(make=CellSupernet, **options):
    """Two networks with the same tensors, float64, in training mode; the second computes its cells again."""
    with seeding.seeded(3, "recompute"):
        plain = make(**options).double().train()
    again = copy.deepcopy(plain)
    recompute(again, KEY)
    return plain, again


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def assert_same_state(found, expected):
    assert list(found.state_dict()) == list(expected.state_dict())
    assert_same(list(found.state_dict().values()), list(expected.state_dict().values()))


def gradients(network, loss):
    return torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)


def step_of(supernet, metrics=()):
    """One step of the supernet inside a pixel supernet, and the optimiser of its alpha."""
    pixel = PixelSupernet(supernet, (0.4, 0.4), (0.3, 0.3)).double()
    w = weights(pixel)
    w_optimizer = torch.optim.SGD(w.parameters, 0.05, momentum=0.9, weight_decay=0.03)
    inner, outer = (Context(0.5, torch.Generator().manual_seed(1), F.cross_entropy) for _ in range(2))
    train, val = (parts(*batch(6, seed=seed, dtype=torch.float64)) for seed in (1, 2))
    step = Step(
        supernet=pixel,
        objective=Objective(metrics, THREAT, 0.1),
        weights=w,
        w_optimizer=w_optimizer,
        train=train,
        val=val,
        inner=inner,
        outer=outer,
    )
    return step, torch.optim.Adam(step.alpha, 0.01)


METRICS = {
    "plain": (),
    "jacobian": ((1.0, Jacobian()),),
    "certified-bound": ((1.0, CertifiedBound(method="crown-ibp")),),
    "log-float64": ((1.0, CertifiedBound(scale="log", precision="float64")),),
    "adversarial-alpha": ((1.0, AdversarialAlpha()),),
}


@pytest.mark.parametrize(
    ("name", "order"), [*((name, "first") for name in METRICS), ("plain", "cg"), ("adversarial-alpha", "unrolled")]
)
def test_steps_are_the_same(name, order):
    """Weights, alpha and running statistics after three steps of both levels, and what the steps reported."""
    found, metrics = [], METRICS[name]
    for supernet in pair(activation=torch.relu):
        step, alpha_optimizer = step_of(supernet, metrics)
        figures = []
        for _ in range(3):
            with seeding.seeded(0, "step"):
                validation, norm = outer_step(step, ORDERS.load(order)(), alpha_optimizer)
                figures += [validation.loss, validation.accuracy, norm, *inner_step(step, 5.0)]
                figures += [] if validation.robustness is None else [validation.robustness]
        found.append((figures, step.supernet))
    (figures, plain), (again_figures, again) = found
    assert_same(again_figures, figures)
    assert_same_state(again, plain)


@pytest.mark.parametrize("order", ["exact", "neumann"])
def test_graphs_of_gradients_are_the_same(order):
    found = [ORDERS.load(order)().gradient(step_of(supernet)[0]).gradients for supernet in pair(activation=torch.tanh)]
    assert_same(found[1], found[0])


def test_a_darts_supernet_is_the_same():
    images, labels = torch.rand(4, 3, 8, 8, dtype=torch.float64), torch.arange(4) % 3
    plain, again = pair(lambda: Darts(cells=3, channels=2).supernet((3, 8, 8), 3))
    for _ in range(2):
        found = [gradients(network, F.cross_entropy(network(images), labels)) for network in (plain, again)]
        assert_same(found[1], found[0])
    assert_same_state(again, plain)
    assert any(tensor.dtype == torch.int64 and int(tensor) == 2 for tensor in again.state_dict().values())


def test_a_discrete_network_draws_the_same_paths():
    space = Darts(network_cells=3, network_channels=2)

    def make():
        return space.network(space.published["DARTS_V2"], (3, 8, 8), 3, auxiliary=True)

    images, found = torch.rand(4, 3, 8, 8, dtype=torch.float64), []
    networks = pair(make)
    for network in networks:
        network.drop_path = 0.5
        with seeding.seeded(5, "paths"):
            logits, auxiliary = network.with_auxiliary(images)
            slopes = gradients(network, logits.square().sum() + auxiliary.square().sum())
            found.append([*slopes, torch.get_rng_state()])
    assert_same(found[1], found[0])
    assert_same_state(networks[1], networks[0])


def test_it_computes_again_with_what_was_there():
    """Other weights, statistics and another mode between the forward and the backward pass."""
    images, _ = batch(6, dtype=torch.float64)
    found = []
    for network in pair():
        w = weights(PixelSupernet(network, (0.4, 0.4), (0.3, 0.3)))
        values = [(1.1 * p.detach() + 0.01).requires_grad_() for p in w.parameters]
        with replaced(w, values), scratch_statistics(network):
            network(images)
            with frozen_statistics(network):
                loss = network(images).square().sum()
        found.append(torch.autograd.grad(loss, [*values, *network.alpha.values()]))
        assert network.training
    assert_same(found[1], found[0])
    assert any(float(g.abs().max()) > 1e-3 for g in found[0])


class Doubling(TorchFunctionMode):
    """tanh(2 x) for tanh(x)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(2 * args[0]) if func is torch.tanh else func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("forward", "backward"), [(Doubling, nullcontext), (nullcontext, Doubling)])
def test_torch_function_modes_of_the_forward_pass_hold(forward, backward):
    images, found = batch(4, dtype=torch.float64)[0], []
    for network in pair(activation=torch.tanh):
        with forward():
            loss = network(images).square().sum()
        with backward() as mode:
            loss.backward()
            assert torch.overrides._get_current_function_mode_stack() == ([] if mode is None else [mode])
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert_same(found[1], found[0])


def test_it_can_be_computed_a_third_time_after_the_weights_are_back():
    images, _ = batch(4, dtype=torch.float64)
    found = []
    for network in pair(activation=torch.tanh):
        w = weights(PixelSupernet(network, (0.4, 0.4), (0.3, 0.3)))
        values = [(0.9 * p.detach()).requires_grad_() for p in w.parameters]
        with replaced(w, values):
            loss = network(images).square().sum()
            first = torch.autograd.grad(loss, values, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), values, retain_graph=True)
        found.append([*first, *second, *torch.autograd.grad(loss, values)])
    assert_same(found[1], found[0])


def test_batched_gradients_are_the_same():
    images, _ = batch(4, dtype=torch.float64)
    found = []
    for network in pair():
        copies = images.clone().requires_grad_()
        logits = network.eval()(copies)
        unit = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 4, 3)
        found += torch.autograd.grad(logits, copies, unit, is_grads_batched=True)
    assert_same(found[1:], found[:1])


class Counting(nn.Module):
    """A cell whose output depends on a buffer and on an attribute that each of its passes moves."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.register_buffer("seen", torch.ones(3))
        self.passes = 0

    def forward(self, states, scale=1.0):
        self.passes += 1
        out = (self.weight * states[-1]).tanh() * self.seen.clone() * self.passes * scale
        self.seen.mul_(1.5)
        return out.sin()


class Appending(nn.Module):
    """A third-party network: a list of states that grows while cells are given it, and keywords."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList(Counting() for _ in range(3))

    def forward(self, x):
        states = [x]
        for cell in self.cells:
            states.append(cell(states, scale=0.5))
        return states[-1]


def test_cells_with_state_of_their_own_and_lists():
    x, found = torch.rand(2, 3, dtype=torch.float64), []
    networks = pair(Appending)
    for network in networks:
        for _ in range(2):
            found.append(gradients(network, network(x).square().sum()))
    assert_same(found[2], found[0])
    assert_same(found[3], found[1])
    assert_same_state(networks[1], networks[0])
    assert [cell.passes for cell in networks[1].cells] == [2, 2, 2]


@pytest.mark.parametrize("wanted", [True, False])
def test_parameters_may_be_frozen_or_thawed_in_between(wanted):
    """What a product saves depends on which of its factors want a gradient."""
    x, found = torch.rand(2, 3, dtype=torch.float64), []
    for network in pair(Appending):
        copies = x.clone().requires_grad_()
        network.requires_grad_(wanted)
        loss = network(copies).square().sum()
        network.requires_grad_(not wanted)
        found += torch.autograd.grad(loss, copies)
        assert all(p.requires_grad != wanted and p.grad is None for p in network.parameters())
    assert_same(found[1:], found[:1])


def test_a_weight_written_to_in_between_is_told():
    _, network = pair()
    loss = network(batch(4, dtype=torch.float64)[0]).sum()
    with torch.no_grad():
        network.cells[0].convolution.weight.mul_(2)
    with pytest.raises(RunError, match=r"convolution.weight of a cell was changed in place"):
        loss.backward()


def test_less_is_kept():
    """Bytes alive between the passes: the inputs of three cells and the ends of the network."""
    images = torch.rand(4, 3, 8, 8)
    kept = []
    for again in (False, True):
        network = Darts(cells=3, channels=4).supernet((3, 8, 8), 3)
        if again:
            recompute(network, KEY)
        with Tally() as tally:
            loss = network(images).sum()
            kept.append(tally.live)
            loss.backward()
    assert kept[1] < kept[0] / 5


def test_bounds_and_transforms_go_round_it():
    images, labels = batch(4, dtype=torch.float64)
    found = []
    for network in pair(activation=torch.relu):
        network.eval()
        bound = margins(network, images, labels, THREAT, "crown-ibp")
        slope = torch.func.grad(lambda x, network=network: network(x).sum())(images)
        found.append([bound.detach(), *gradients(network, bound.sum()), slope])
        with torch.no_grad():
            found[-1].append(network(images))
    assert_same(found[1], found[0])


def test_classes_names_and_copies():
    plain, again = pair()
    kind = type(plain.cells[0])
    assert all(isinstance(cell, kind) and type(cell) is not kind for cell in again.cells)
    before = [type(cell) for cell in again.cells]
    recompute(again, KEY)
    assert [type(cell) for cell in again.cells] == before
    twin = copy.deepcopy(again)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    images, _ = batch(4, dtype=torch.float64)
    assert_same(gradients(twin, twin(images).sum()), gradients(plain, plain(images).sum()))


@pytest.mark.parametrize("cells", [None, nn.ModuleList(), [nn.Identity()]])
def test_a_network_without_cells_is_refused(cells):
    network = nn.Linear(2, 2)
    if cells is not None:
        network.cells = cells
    for function in (recompute, cells_of):
        with pytest.raises(InputError, match=r"search.recompute_cells: Linear has no cells.* nn.ModuleList"):
            function(network, KEY)
