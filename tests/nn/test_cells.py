"""The parts of cells: mixed operations, search cells, discrete cells, and the graph they share."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.errors import InputError
from robustnas.nn.cells import (
    DepthwiseSeparable,
    DiscreteCell,
    FactorizedReduce,
    ReluConvNorm,
    SharedCell,
    decided_inputs,
    drawn_inputs,
    drop_path,
    edge_index,
    edges,
    input_decisions,
    reduction_cells,
    strongest_inputs,
)
from support.edge_by_edge import SearchCell, assert_same, search_cell

# a stranger's operations: not one of them is from the DARTS space
TABLE = {
    "conv": lambda channels, stride: ReluConvNorm(channels, channels, 3, stride, affine=False),
    "zero": lambda channels, stride: None,
    "mean": lambda channels, stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_edges_are_numbered_in_order():
    assert len(edges(4)) == 14
    for nodes in (1, 2, 4, 5):
        assert [edge_index(source, node) for source, node in edges(nodes)] == list(range(len(edges(nodes))))


def test_every_cell_of_two_nodes_is_one_combination_of_options():
    ops = ("none", "a", "b", "c")
    counts = input_decisions(ops, nodes=2)
    assert counts == (1, 3, 3, 3, 3, 3)
    cells = {decided_inputs(options, ops) for options in product(*map(range, counts))}
    assert len(cells) == math.prod(counts)
    generator = torch.Generator().manual_seed(0)
    assert {drawn_inputs(ops, 2, generator) for _ in range(3000)} == cells


@pytest.mark.parametrize("options", [(1, 0, 0), (0, 3, 0), (0, 0, -1)])
def test_an_option_that_there_is_not_is_refused(options):
    with pytest.raises(InputError, match=r"node 2 has the options .*; numbers from 0 below \[1, 3, 3\] would do"):
        decided_inputs(options, ("none", "a", "b", "c"))


@pytest.mark.parametrize(
    ("cells", "reductions"),
    [(1, set()), (2, {1}), (3, {1, 2}), (4, {1, 2}), (8, {2, 5}), (14, {4, 9}), (20, {6, 13})],
)
def test_reductions_at_thirds(cells, reductions):
    assert reduction_cells(cells) == reductions


@pytest.mark.parametrize("reduction", [False, True])
def test_edges_with_candidates_of_their_own_are_those_of_the_textbook(reduction):
    """Each edge has the same ones, in another order: its columns are turned with them."""
    turned = [dict([*TABLE.items()][turn:] + [*TABLE.items()][:turn]) for turn in (0, 1, 2)]
    tables = [turned[edge % 3] for edge in range(len(edges(3)))]
    cell = SharedCell(tables, (5, 6), 4, 3, reduction=reduction)
    textbook = SearchCell(TABLE, (5, 6), 4, 3, reduction=reduction)
    state = textbook.state_dict()
    for name in cell.state_dict():
        parts = name.split(".")
        if parts[0] == "leaving":
            edge = edge_index(int(parts[1]), cell.targets[int(parts[1])][int(parts[3])])
            cell.state_dict()[name].copy_(state[".".join(["edges", str(edge), "candidates", *parts[4:]])])
        else:
            cell.state_dict()[name].copy_(state[name])
    weights = torch.rand(len(tables), 3)
    own = torch.stack([row.roll(-(edge % 3)) for edge, row in enumerate(weights)])
    inputs = torch.rand(2, 5, 8, 6), torch.rand(2, 6, 8, 6)
    torch.testing.assert_close(cell(*inputs, own), textbook(*inputs, weights))
    chosen = [(edge + 1) % 3 for edge in range(len(tables))]
    ones = torch.eye(3)[chosen]
    torch.testing.assert_close(cell(*inputs, chosen), cell(*inputs, ones))
    with pytest.raises(InputError, match="all operations of an edge output zero"):
        SharedCell([{"zero": TABLE["zero"]}] * len(tables), (5, 6), 4, 3)


@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("halve_first", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_shared_cell_shapes_and_strides(reduction, halve_first, size):
    cell = SharedCell(TABLE, (6, 5), 4, nodes=3, reduction=reduction, halve_first=halve_first)
    rows, columns = size
    first = torch.randn(2, 6, 2 * rows - 1 if halve_first else rows, 2 * columns if halve_first else columns)
    out = cell(first, torch.randn(2, 5, rows, columns), torch.rand(9, 3))
    halved = tuple((side + 1) // 2 for side in size)
    assert out.shape == (2, 12, *(halved if reduction else size))
    assert out.isfinite().all()


def test_the_textbook_s_cell_is_the_sum_over_edges_and_operations_written_out():
    cell = SearchCell(TABLE, (3, 3), 2, nodes=2).double().eval()
    first, second = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    weights = torch.rand(5, 3, dtype=torch.float64)
    a, b = cell.preprocess0(first), cell.preprocess1(second)
    candidates = cell.edges[0].candidates
    assert list(candidates) == ["conv", "mean"], "what is zero has no module"
    mixed = weights[0, 0] * candidates["conv"](a) + weights[0, 2] * candidates["mean"](a)
    node2 = mixed + cell.edges[1](b, weights[1])
    node3 = cell.edges[2](a, weights[2]) + cell.edges[3](b, weights[3]) + cell.edges[4](node2, weights[4])
    torch.testing.assert_close(cell(first, second, weights), torch.cat([node2, node3], 1))


class Grouped:
    """A stranger's table entry that builds all edges of a state at once."""

    def __call__(self, channels, stride):
        return DepthwiseSeparable(channels, 3, stride, affine=True)

    def for_edges(self, channels, stride, edges):
        return DepthwiseSeparable(channels, 3, stride, affine=True, edges=edges, rectify=False)


class TestSharedCell:
    """Computed state by state, a cell is the one computed edge by edge, to rounding in float64."""

    @pytest.mark.parametrize("table", [TABLE, {**TABLE, "group": Grouped()}, {"group": Grouped()}])
    @pytest.mark.parametrize("reduction", [False, True])
    @pytest.mark.parametrize("training", [False, True])
    def test_is_the_search_cell(self, table, reduction, training):
        shared = SharedCell(table, (3, 2), 4, nodes=3, reduction=reduction).double().train(training)
        first, second = (torch.randn(4, c, 5, 6, dtype=torch.float64) for c in (3, 2))
        weights = torch.rand(9, len(table), dtype=torch.float64, requires_grad=True)
        assert_same(shared, search_cell(shared, table), first, second, weights)

    def test_a_table_of_zeros_is_refused(self):
        with pytest.raises(InputError, match="zero, other all output zero"):
            SharedCell({"zero": lambda c, s: None, "other": lambda c, s: None}, (2, 2), 2)
        with pytest.raises(InputError, match="none given"):
            SharedCell({}, (2, 2), 2)


def test_discrete_cell_is_the_sum_written_out():
    genes = [
        ("conv", 1),
        ("mean", 1),
        ("zero", 0),
        ("conv", 2),
    ]  # one state twice in a node, as NASNet has it
    cell = DiscreteCell(TABLE, genes, (3, 2), (3, 3), 2).double().eval()
    first, second = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    b = cell.preprocess1(second)
    node2 = cell.ops[0](b) + cell.ops[1](b)
    torch.testing.assert_close(cell(first, second), torch.cat([cell.ops[3](node2), node2], 1))


def test_discrete_cell_refuses_an_operation_it_does_not_know():
    with pytest.raises(InputError, match="no operation is called 'noise'; there are conv, zero, mean"):
        DiscreteCell(TABLE, [("conv", 0), ("noise", 1)], (2,), (3, 3), 2)


class TestFactorizedReduce:
    def test_even_sizes_are_the_published_operation(self):
        reduce = FactorizedReduce(3, 5, affine=True).double()
        x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
        rectified = F.relu(x)
        halves = [F.conv2d(rectified, reduce.even.weight, stride=2)]
        halves.append(F.conv2d(rectified[:, :, 1:, 1:], reduce.odd.weight, stride=2))
        published = F.batch_norm(torch.cat(halves, 1), None, None, training=True)
        torch.testing.assert_close(reduce(x), published)

    @pytest.mark.parametrize("size", [(1, 1), (7, 7), (5, 6), (6, 5), (2, 2)])
    def test_any_size_halves_upwards_and_sees_both_diagonals(self, size):
        reduce = FactorizedReduce(2, 4, affine=True).eval()
        x = torch.rand(1, 2, *size, requires_grad=True)
        out = reduce(x)
        assert out.shape[-2:] == tuple((side + 1) // 2 for side in size)
        out.sum().backward()
        diagonal = torch.arange(size[0])[:, None] % 2 == torch.arange(size[1]) % 2
        assert ((x.grad != 0).any(1)[0] == diagonal).all()  # pixels of even or of odd row and column


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_depthwise_separable_halves_upwards(kernel, dilation):
    for side in (1, 2, 7, 8):
        for stride in (1, 2):
            layer = DepthwiseSeparable(3, kernel, stride, dilation, affine=False)
            assert layer(torch.randn(2, 3, side, side)).shape[-1] == -(-side // stride)


class TestDropPath:
    def test_is_all_or_nothing_an_image(self):
        x = torch.rand(400, 2, 3, 3) + 0.5
        dropped = drop_path(x, 0.25)
        ratio = (dropped / x).flatten(1)
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio))
        assert {round(value, 4) for value in ratio[:, 0].tolist()} == {0.0, 1.3333}

    def test_keeps_the_mean(self):
        share = drop_path(torch.ones(20_000, 1, 1, 1), 0.3).mean().item()
        assert share == pytest.approx(1.0, abs=5 * (0.3 / 0.7 / 20_000) ** 0.5)

    def test_acts_in_training_only_and_not_on_identities(self):
        table = {"same": lambda channels, stride: nn.Identity(), **TABLE}
        kept = DiscreteCell(table, [("same", 0), ("same", 1)], (2,), (3, 3), 2)
        moved = DiscreteCell(table, [("same", 0), ("mean", 1)], (2,), (3, 3), 2)
        images = torch.randn(2, 8, 3, 4, 4)
        assert torch.equal(kept(*images, 0.9), kept(*images))
        assert not torch.equal(moved(*images, 0.9), moved(*images))
        moved.eval()
        assert torch.equal(moved(*images, 0.9), moved(*images))


class TestStrongestInputs:
    OPS = ("none", "a", "b")

    def test_keeps_the_two_strongest_and_never_none(self):
        mixing = torch.tensor(
            [
                [0.90, 0.04, 0.06],  # none is strongest and does not count
                [0.10, 0.70, 0.20],
                [0.00, 0.45, 0.55],
                [0.98, 0.01, 0.01],
                [0.30, 0.60, 0.10],
            ]
        )
        assert strongest_inputs(mixing, self.OPS, 2) == (("b", 0), ("a", 1), ("b", 0), ("a", 2))

    def test_an_input_that_is_mostly_none_comes_last_where_none_competes(self):
        mixing = torch.tensor(
            [
                [0.10, 0.80, 0.10],
                [0.10, 0.70, 0.20],
                [0.50, 0.49, 0.01],  # has the strongest operation but one, and is best left out
                [0.30, 0.32, 0.38],
                [0.30, 0.60, 0.10],
            ]
        )
        assert strongest_inputs(mixing, self.OPS, 2)[2:] == (("a", 0), ("a", 2))
        assert strongest_inputs(mixing, self.OPS, 2, none_competes=True)[2:] == (("b", 1), ("a", 2))
        most = torch.tensor([[0.98, 0.02, 0.0], [0.98, 0.0, 0.02], [0.6, 0.3, 0.1], [0.6, 0.1, 0.3], [0.7, 0.2, 0.1]])
        ranked = strongest_inputs(most, self.OPS, 2, none_competes=True)
        assert ranked == strongest_inputs(most, self.OPS, 2)  # all alike: as if none did not count

    def test_reads_back_any_genotype_from_one_hot_weights(self):
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            genes, mixing = [], torch.tensor([[1.0, 0.0, 0.0]]).repeat(14, 1)
            for node in range(2, 6):
                for source in sorted(torch.randperm(node, generator=generator)[:2].tolist()):
                    op = int(torch.randint(1, 3, (), generator=generator))
                    mixing[edge_index(source, node)] = F.one_hot(torch.tensor(op), 3).float()
                    genes.append((self.OPS[op], source))
            assert strongest_inputs(mixing, self.OPS, 4) == tuple(genes)

    def test_what_is_drawn_can_be_kept_and_every_choice_is_equally_likely(self):
        generator = torch.Generator().manual_seed(0)
        draws = [drawn_inputs(self.OPS, 2, generator) for _ in range(4000)]
        for genes in draws[:50]:
            mixing = torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1)
            for place, (op, source) in enumerate(genes):
                mixing[edge_index(source, place // 2 + 2)] = F.one_hot(torch.tensor(self.OPS.index(op)), 3).float()
            assert strongest_inputs(mixing, self.OPS, 2) == genes
        counts = Counter(draws)
        assert len(counts) == 2**4 * 3  # one pair of states for the first node, three for the second
        # the 1e-4 quantile of chi-squared with 47 degrees of freedom
        assert sum((count - 4000 / 48) ** 2 / (4000 / 48) for count in counts.values()) < 91.9

    def test_equals_go_to_the_earlier(self):
        assert strongest_inputs(torch.full((5, 3), 1 / 3), self.OPS, 2) == (("a", 0), ("a", 1)) * 2
