"""Operations computed together: stages and joined batch norm; equal to one by one, in every derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.cells import DepthwiseSeparable, SharedCell
from robustnas.nn.cells.separable_ops import SeparableOps, Stack
from robustnas.nn.fast import JoinedNorm, StageShape, scaled, stage
from robustnas.nn.fast import separable_stage as stages
from robustnas.nn.synchronised import SynchronisedBatchNorm
from support.edge_by_edge import assert_same, search_cell

FOUR = ((3, 1), (5, 1), (3, 2), (5, 2))
"""Kernel and dilation of the DARTS space's operations."""


class Separable:
    """A table entry: a stack of depthwise-separable layers."""

    def __init__(self, kernel, dilation=1, layers=1, affine=False, momentum=0.1):
        self.kernel, self.dilation, self.layers = kernel, dilation, layers
        self.affine, self.momentum = affine, momentum

    def __call__(self, channels, stride):
        return self.built(channels, stride, 1, True)

    def for_edges(self, channels, stride, edges):
        return self.built(channels, stride, edges, False)

    def built(self, channels, stride, edges, rectify):
        layers = []
        for later in range(self.layers):
            layer = DepthwiseSeparable(
                channels, self.kernel, 1 if later else stride, self.dilation,
                affine=self.affine, edges=edges, rectify=bool(later) or rectify,
            )  # fmt: skip
            layer.norm.momentum = self.momentum
            layers.append(layer)
        return nn.Sequential(*layers) if self.layers > 1 else layers[0]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tensor(*shape, channels_last=False):
    made = torch.randn(shape, dtype=torch.float64)
    return made.contiguous(memory_format=torch.channels_last) if channels_last else made


def one_by_one(plan, inputs, depthwise, pointwise):
    """What a stage computes, by torch's functions on one operation and one edge at a time."""
    count, edges = len(depthwise), plan.edges
    seen = list(inputs) if plan.shared or len(inputs) == count else list(inputs[0].chunk(count, dim=1))
    outputs = []
    for op in range(count):
        for edge in range(edges):
            x = F.relu(seen[0] if plan.shared else seen[op].chunk(edges, dim=1)[edge])
            weight = depthwise[op].chunk(edges)[edge]
            padding = plan.dilations[op] * (weight.shape[2] // 2)
            x = F.conv2d(x, weight, None, plan.stride, padding, plan.dilations[op], len(weight))
            outputs.append(F.conv2d(x, pointwise.chunk(count)[op].chunk(edges)[edge]))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("ops", [FOUR, FOUR[1:2]], ids=len)
@pytest.mark.parametrize("given", ["shared", "parts", "joined"])
@pytest.mark.parametrize(("size", "channels"), [((5, 4), 2), ((2, 2), 9), ((1, 1), 2), ((7, 6), 2)])
@pytest.mark.parametrize("stride", [1, 2])
class TestStage:
    """A stage is its operations one by one, to rounding."""

    @pytest.mark.parametrize("joined", [0, 2**17])
    def test_in_output_and_derivatives(self, ops, given, size, channels, stride, joined, monkeypatch):
        monkeypatch.setattr(stages, "JOINED", joined)
        edges, shared = 3, given == "shared"
        plan = StageShape(edges, stride, tuple(dilation for _, dilation in ops), shared)
        wide = channels if shared else edges * channels
        inputs = [tensor(2, wide, *size, channels_last=True) for _ in range(1 if shared else len(ops))]
        inputs = [torch.cat(inputs, 1)] if given == "joined" else inputs
        depthwise = [tensor(edges * channels, 1, kernel, kernel) for kernel, _ in ops]
        pointwise = tensor(len(ops) * edges * channels, channels, 1, 1)
        everything = [one.requires_grad_() for one in (*inputs, *depthwise, pointwise)]

        expected = one_by_one(plan, inputs, depthwise, pointwise)
        outputs = stage(plan, inputs, depthwise, pointwise)
        assert len(outputs) in (1, len(ops))
        out = torch.cat(outputs, 1)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)

        slope = torch.randn_like(expected).requires_grad_()
        plain = torch.autograd.grad(out, everything, slope, retain_graph=True)
        first = torch.autograd.grad(expected, everything, slope, create_graph=True)
        again = torch.autograd.grad(out, everything, slope, create_graph=True)
        torch.testing.assert_close(again, first, rtol=0, atol=1e-10)
        torch.testing.assert_close(plain, first, rtol=0, atol=1e-10)
        directions = [torch.randn_like(one) for one in first]
        second = [torch.autograd.grad(found, [*everything, slope], directions) for found in (first, again)]
        torch.testing.assert_close(*second, rtol=0, atol=1e-9)

    def test_gives_only_the_gradients_that_are_asked_for(self, ops, given, size, channels, stride):
        shared = given == "shared"
        plan = StageShape(2, stride, tuple(dilation for _, dilation in ops), shared)
        x = tensor(2, channels if shared else len(ops) * 2 * channels, *size)
        depthwise = [tensor(2 * channels, 1, kernel, kernel) for kernel, _ in ops]
        pointwise = tensor(len(ops) * 2 * channels, channels, 1, 1)
        for wanted in ([x], [pointwise], [depthwise[0]]):
            for one in (x, pointwise, *depthwise):
                one.requires_grad_(any(one is other for other in wanted))
            found = torch.autograd.grad(torch.cat(stage(plan, [x], depthwise, pointwise), 1).sum(), wanted)
            expected = torch.autograd.grad(one_by_one(plan, [x], depthwise, pointwise).sum(), wanted)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_small_image_is_convolved_with_onejoined_kernel(monkeypatch):
    """The joined kernel is used where it is meant to be: else nothing above has tested it."""
    made = []
    whole = stages.joined_kernel
    monkeypatch.setattr(stages, "joined_kernel", lambda *given: made.append(whole(*given)) or made[-1])
    depthwise = [torch.randn(4, 1, kernel, kernel) for kernel, _ in FOUR]
    for size in (4, 8):
        plan = StageShape(2, 1, tuple(dilation for _, dilation in FOUR), True)
        stage(plan, [torch.randn(2, 2, size, size)], depthwise, torch.randn(16, 2, 1, 1))
    small, large = made
    assert small.shape == (16, 1, 5, 5)
    assert large is None


class TestJoinedNorm:
    @pytest.mark.parametrize("affine", [False, True])
    @pytest.mark.parametrize("momentum", [0.1, None])
    @pytest.mark.parametrize("tracks", [False, True])
    def test_is_the_layers_side_by_side(self, affine, momentum, tracks):
        layers = [nn.BatchNorm2d(3, 1e-3, momentum, affine, tracks).double() for _ in range(2)]
        for parameter in (one for layer in layers for one in layer.parameters()):
            nn.init.normal_(parameter)
        joined = JoinedNorm.of(layers).double()
        for training in (True, True, False):
            parts = [tensor(4, 3, 2, 2) for _ in layers]
            expected = [layer.train(training)(part) for layer, part in zip(layers, parts, strict=True)]
            joined.train(training)
            before = {name: one.clone() for name, one in joined.state_dict().items()}
            torch.testing.assert_close(joined(torch.cat(parts, 1)), torch.cat(expected, 1))
            joined.load_state_dict(before)
            torch.testing.assert_close(joined(*parts), expected)
        if tracks:
            for name in ("running_mean", "running_var"):
                torch.testing.assert_close(getattr(joined, name), torch.cat([getattr(one, name) for one in layers]))
            assert joined.num_batches_tracked == layers[0].num_batches_tracked == 2

    @pytest.mark.parametrize("affine", [False, True])
    def test_factors_are_a_scale_that_leaves_no_trace(self, affine):
        norm = JoinedNorm(4, affine=affine).double()
        if affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        x, factors = tensor(3, 4, 2, 2), tensor(4).requires_grad_()
        names = list(norm.state_dict())
        found = scaled(norm, factors, x)
        expected = norm(x) * factors.view(1, -1, 1, 1)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad((out * x).sum(), factors)[0] for out in (found, expected)]
        torch.testing.assert_close(*slopes)
        assert list(norm.state_dict()) == names
        with pytest.raises(ValueError, match="expected 4D"):
            scaled(norm, factors, x[0])
        assert (norm.weight is None) != affine


TABLE = {
    "skip": lambda channels, stride: nn.AvgPool2d(stride),
    "two": Separable(3, layers=2),
    "one": Separable(5, dilation=2),
    "three": Separable(5, layers=3),
}


class TestCell:
    """Cells of stacks of several depths: the shared cell is the search cell, whichever stacks are joined."""

    def cell(self, table, training=True):
        return SharedCell(table, (3, 2), 2, nodes=2, reduction=True).double().train(training)

    def inputs(self, table):
        return tensor(3, 3, 6, 6), tensor(3, 2, 6, 6), torch.rand(5, len(table), dtype=torch.float64)

    @pytest.mark.parametrize(
        ("table", "joined"),
        [
            (TABLE, {"one", "two", "three"}),
            ({**TABLE, "affine": Separable(3, affine=True)}, {"one", "two", "three"}),
            ({**TABLE, "slow": Separable(3, layers=2, momentum=0.01)}, {"one", "two", "three"}),
            ({"affine": Separable(3, affine=True), "more": Separable(5, 2, 2, affine=True)}, {"affine", "more"}),
        ],
    )
    @pytest.mark.parametrize("training", [True, False])
    def test_of_stacks(self, table, joined, training):
        shared = self.cell(table, training)
        leaving = shared.leaving[0]
        assert set(leaving.separable.names) == joined
        assert set(leaving.grouped) == {name for name in table if name in ("affine", "slow")} - joined
        assert_same(shared, search_cell(shared, table), *self.inputs(table))

    def test_scratch_statistics_are_those_of_the_batch(self):
        """A pass in eval mode with the statistics just noted computes what the training pass computed."""
        shared, given = self.cell(TABLE), self.inputs(TABLE)
        before = {name: one.clone() for name, one in shared.state_dict().items()}
        with torch.no_grad(), scratch_statistics(shared):
            trained = shared(*given)
            with frozen_statistics(shared):
                judged = shared(*given)
        torch.testing.assert_close(judged, trained, rtol=0, atol=1e-11)
        for name, one in shared.state_dict().items():
            assert torch.equal(one, before[name])

    def test_a_synchronised_layer_may_stand_for_the_joined_one(self, monkeypatch):
        """It takes one tensor: parts are joined for it.  In eval mode it needs no other process."""
        monkeypatch.setattr(stages, "JOINED", 0)
        ops = SeparableOps({"two": Stack.of(Separable(3, layers=2).for_edges(2, 1, 2)),
                            "more": Stack.of(Separable(5, layers=2).for_edges(2, 1, 2))}, 2).double()  # fmt: skip
        first, shares = ops.stages[0], {name: torch.rand(2, dtype=torch.float64) for name in ("two", "more")}
        x = tensor(2, 2, 7, 7)
        first.norm.eval()
        expected = ops(x, shares)
        first.norm = SynchronisedBatchNorm(first.norm)
        torch.testing.assert_close(ops(x, shares), expected)


def test_no_stack():
    layer = DepthwiseSeparable(2, 3, affine=False)
    raw = DepthwiseSeparable(2, 3, affine=False, rectify=False)
    assert Stack.of(nn.Sequential(layer, layer)).nested
    assert not Stack.of(raw).nested
    assert Stack.of(nn.Sequential(layer, raw)) is None
    assert Stack.of(nn.Sequential(layer, nn.Identity())) is None
    assert Stack.of(nn.Sequential()) is None
    assert Stack.of(nn.Identity()) is None
