"""The PC-DARTS space: partial channels, edge weights, and what it shares with the space of DARTS."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustnas.bounds import margins
from robustnas.contracts import Context
from robustnas.errors import InputError
from robustnas.nn.cells import ReluConvNorm, SharedCell, edge_index, edges, strongest_inputs
from robustnas.nn.cells.partial_channels import parted
from robustnas.plan import make
from robustnas.recipe.load import load
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.random_noise import RandomNoise
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.ops import SEARCH
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from robustnas_plugins.search_spaces.supernet import DartsSupernet
from support.edge_by_edge import assert_same, search_cell, textbook

SMALL = PcDarts(cells=3, channels=8, network_cells=2, network_channels=4)
OPS = list(SEARCH)

# a stranger's operations
TABLE = {
    "conv": lambda channels, stride: ReluConvNorm(channels, channels, 3, stride, affine=False),
    "zero": lambda channels, stride: None,
    "mean": lambda channels, stride: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settled(network, images):
    """The network with the batch norm statistics of the images."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(images)
    for norm in norms:
        norm.momentum = 0.1
    return network


def spread(supernet):
    """The supernet with an alpha and beta that are far from even."""
    with torch.no_grad():
        for table in supernet.alpha.values():
            table.normal_()
    return supernet


def pair(partial=4, channels=8, beta=True):
    """A supernet computed state by state, and the textbook's with the same tensors; float64."""
    shared = DartsSupernet(SEARCH, 3, 5, cells=3, channels=channels, partial=partial, beta=beta).double()
    settled(spread(shared), torch.rand(6, 3, 9, 7, dtype=torch.float64))
    return shared, textbook(shared, SEARCH)


class TestStateByState:
    """Computed state by state, a supernet is the textbook's to rounding in float64."""

    @pytest.mark.parametrize(
        ("partial", "beta", "training", "layout"),
        [  # each with each other
            (4, True, True, torch.channels_last),
            (4, True, False, torch.contiguous_format),
            (2, False, True, torch.contiguous_format),
            (2, False, False, torch.channels_last),
            (1, True, True, torch.channels_last),
            (1, True, False, torch.contiguous_format),
        ],
    )
    def test_outputs_gradients_and_statistics(self, partial, beta, training, layout):
        shared, naive = pair(partial, 4 if partial < 4 else 8, beta)
        images = torch.rand(4, 3, 9, 7, dtype=torch.float64).contiguous(memory_format=layout)
        for supernet in (shared, naive):
            supernet.to(memory_format=layout).train(training)
        grads = assert_same(shared, naive, images)
        assert {"alpha.normal", "cells.0.edges.13.candidates.sep_conv_3x3.1.pointwise.weight"} <= grads.keys()
        assert ("alpha.reduce_beta_3" in grads) == beta
        assert all(grad.abs().max() > 1e-6 for name, grad in grads.items() if "alpha" in name)

    @pytest.mark.parametrize("weighted", [True, False])
    @pytest.mark.parametrize("reduction", [True, False])
    def test_a_stranger_gets_it_from_the_same_cell(self, weighted, reduction):
        shared = SharedCell(TABLE, (3, 2), 6, nodes=3, reduction=reduction, partial=3).double()
        first, second = (torch.randn(4, c, 5, 6, dtype=torch.float64) for c in (3, 2))
        weights = torch.rand(9, 3, dtype=torch.float64, requires_grad=True)
        factors = [torch.rand(9, dtype=torch.float64, requires_grad=True)] * weighted
        assert_same(shared, search_cell(shared, TABLE), first, second, weights, *factors)

    def test_second_derivatives_agree(self):
        """Exact second order and the gradient of the Jacobian norm pass through the shuffle twice."""
        shared, naive = pair()
        found = []
        for supernet in (shared, naive):
            images = torch.rand(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            (slope,) = torch.autograd.grad(supernet(images.requires_grad_()).square().sum(), images, create_graph=True)
            found.append(torch.autograd.grad(slope.abs().sum(), list(supernet.alpha.values())))
        for one, other in zip(*found, strict=True):
            assert other.abs().max() > 0
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def choice(seed):
    """One-hot mixing weights of both cells, and what they choose: an op an edge, an edge a node."""
    draw = torch.Generator().manual_seed(seed)
    mixing, ops, sources = {}, {}, {}
    for kind in ("normal", "reduce"):
        # not `none`, so that what is computed by hand is not mostly zeros; it has a test of its own
        ops[kind] = torch.randint(1, len(OPS), (14,), generator=draw)
        mixing[kind] = F.one_hot(ops[kind], len(OPS)).double()
        sources[kind] = [int(torch.randint(node, (), generator=draw)) for node in range(2, 6)]
        for node, source in enumerate(sources[kind]):
            mixing[f"{kind}_beta_{node}"] = F.one_hot(torch.tensor([source]), node + 2).double()
    return mixing, ops, sources


def by_hand(naive, images, ops, sources):
    """The logits of one operation on one edge into each node, with partial channels written out."""
    before, last = naive.stem(images)
    for index, cell in enumerate(naive.cells):
        reduction = naive.places[index].reduction
        kind = "reduce" if reduction else "normal"
        states = [cell.preprocess0(before), cell.preprocess1(last)]
        for node, source in enumerate(sources[kind], 2):
            edge, x = edge_index(source, node), states[source]
            c = x.shape[1] // 4
            op = cell.edges[edge].candidates[OPS[ops[kind][edge]]]
            rest = x[:, c:]
            if reduction and source < 2:
                rest = F.max_pool2d(rest, 2, ceil_mode=True)
            joined = torch.cat([op(x[:, :c]), rest], dim=1)
            states.append(joined[:, [group * c + i for i in range(c) for group in range(4)]])
        before, last = last, torch.cat(states[2:], dim=1)
    return naive.classifier(last.mean(dim=(2, 3)))


class TestOneHot:
    """With one-hot alpha and beta a supernet computes just those operations on just those edges."""

    @pytest.mark.parametrize(("size", "training"), [((8, 8), False), ((7, 5), True)])
    def test_is_the_chosen_operations_by_hand(self, training, size):
        shared, naive = pair()
        images = torch.rand(3, 3, *size, dtype=torch.float64, requires_grad=True)
        seen = set()
        for seed in range(5):
            mixing, ops, sources = choice(seed)
            outputs = [
                shared.train(training)(images, mixing),
                by_hand(naive.train(training), images, ops, sources),
            ]
            torch.testing.assert_close(*outputs, rtol=0, atol=1e-11)
            slopes = [torch.autograd.grad(out[:, 0].sum(), images)[0] for out in outputs]
            torch.testing.assert_close(*slopes, rtol=0, atol=1e-11)
            for kind in ("normal", "reduce"):
                seen |= {OPS[ops[kind][edge_index(source, node)]] for node, source in enumerate(sources[kind], 2)}
        assert seen == set(OPS) - {"none"}

    def test_none_lets_the_other_channels_pass(self):
        cell = SharedCell(SEARCH, (8, 8), 8, nodes=1, partial=4).eval()
        state = torch.rand(2, 8, 4, 4)
        rows = F.one_hot(torch.tensor([OPS.index("none")] * 2), len(OPS)).float()
        out = cell(state, state, rows, torch.tensor([0.0, 1.0]))
        assert (out[:, 0::4] == 0).all()
        _, others = parted(cell.preprocess1(state), 4)
        torch.testing.assert_close(out[:, [1, 5, 2, 6, 3, 7]], others)


def test_all_channels_and_edge_weights_of_one_are_darts():
    space, darts = (kind(cells=3, channels=4) for kind in (lambda **sizes: PcDarts(partial=1, **sizes), Darts))
    supernet, plain = space.supernet((3, 7, 7), 4).double(), darts.supernet((3, 7, 7), 4).double()
    state = {name: one for name, one in supernet.state_dict().items() if "beta" not in name}
    plain.load_state_dict(state)
    mixing = {name: torch.ones_like(one) if "beta" in name else one for name, one in supernet.mixing().items()}
    images = torch.rand(3, 3, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(supernet(images, mixing), plain(images), rtol=0, atol=1e-12)


class TestGenotype:
    def test_edges_count_by_their_weight_times_their_strongest_operation(self):
        mixing = torch.tensor([[0.1, 0.9, 0.0], [0.3, 0.3, 0.4], [0.9, 0.05, 0.05], [0.2, 0.3, 0.5], [0.1, 0.5, 0.4]])
        ops = ("none", "a", "b")
        assert strongest_inputs(mixing, ops, 2) == (("a", 0), ("b", 1), ("b", 1), ("a", 2))
        # 0.9 * 0.05 > 0.05 * 0.5; `none` counts nowhere, 0.9 or not
        factors = torch.tensor([0.5, 0.5, 0.9, 0.05, 0.05])
        assert strongest_inputs(mixing, ops, 2, edge_weights=factors)[2:] == (("a", 0), ("b", 1))
        assert strongest_inputs(mixing, ops, 2, edge_weights=torch.ones(5)) == strongest_inputs(mixing, ops, 2)

    def test_reads_alpha_and_beta(self):
        """Each node keeps the two inputs that beta prefers and there the operation that alpha prefers."""
        supernet = SMALL.supernet((1, 8, 8), 3)
        draw = torch.Generator().manual_seed(3)
        expected = {}
        with torch.no_grad():
            for kind in ("normal", "reduce"):
                supernet.alpha[kind].copy_(torch.randn(14, 8, generator=draw))
                genes = []
                for node in range(2, 6):
                    kept = sorted(torch.randperm(node, generator=draw)[:2].tolist())
                    beta = supernet.alpha[f"{kind}_beta_{node - 2}"]
                    beta.fill_(-20.0)[0, kept] = 20.0
                    rows = [supernet.alpha[kind][edge_index(source, node), 1:] for source in kept]
                    genes += [[OPS[1 + int(row.argmax())], source] for row, source in zip(rows, kept, strict=True)]
                expected[kind] = genes
        found = SMALL.genotype(supernet)
        assert {kind: found[kind] for kind in expected} == expected
        assert found["normal_concat"] == found["reduce_concat"] == [2, 3, 4, 5]

    def test_even_beta_leaves_the_darts_rule_within_a_node(self):
        supernet = spread(SMALL.supernet((1, 8, 8), 3))
        with torch.no_grad():
            for name, table in supernet.alpha.items():
                table.mul_(0.0 if "beta" in name else 1.0)
        plain = {kind: strongest_inputs(supernet.mixing()[kind], OPS, 4) for kind in ("normal", "reduce")}
        found = SMALL.genotype(supernet)
        assert {kind: [tuple(gene) for gene in found[kind]] for kind in plain} == {
            kind: list(genes) for kind, genes in plain.items()
        }

    def test_networks_and_published_cells_are_those_of_darts(self):
        darts = Darts(network_cells=2, network_channels=4)
        assert SMALL.published == darts.published
        networks = []
        for space in (SMALL, darts):
            torch.manual_seed(5)
            networks.append(space.network(SMALL.published["PC_DARTS_CIFAR"], (3, 8, 8), 4, auxiliary=True))
        first, second = (network.state_dict() for network in networks)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


class TestSupernet:
    def test_size(self):
        """Counted from the shapes of the layers: acting channels c = C / 4, everything else as in DARTS."""
        with torch.device("meta"):
            supernet = PcDarts().supernet((3, 32, 32), 10)
        count = 3 * 48 * 9 + 2 * 48  # the stem and its batch norm
        inputs, C = [48, 48], 16
        for cell in range(8):
            reduction = cell in (2, 5)
            C = 2 * C if reduction else C
            c = C // 4
            count += C * sum(inputs)  # both preprocessings, by reduction or not
            sep, dil = (2 * (k * k * c + c * c) for k in (3, 5)), ((k * k * c + c * c) for k in (3, 5))
            count += 14 * (sum(sep) + sum(dil))
            count += 8 * c * c if reduction else 0  # a skip that halves, on the 8 edges from the inputs
            inputs = [inputs[1], 4 * C]
        count += 10 * inputs[1] + 10
        weights = sum(one.numel() for name, one in supernet.named_parameters() if not name.startswith("alpha."))
        assert weights == count == 299_578

    def test_alpha(self):
        supernet = SMALL.supernet((1, 8, 8), 3)
        shapes = {name: tuple(table.shape) for name, table in supernet.alpha.items()}
        assert shapes == {
            kind + suffix: shape
            for kind in ("normal", "reduce")
            for suffix, shape in [("", (14, 8)), *((f"_beta_{node}", (1, node + 2)) for node in range(4))]
        }
        assert {f"alpha.{name}" for name in shapes} <= set(supernet.state_dict())

    def test_edges_are_weighted_in_their_order(self):
        """A beta that picks the last input of every node: the gradient of every other edge's row is zero."""
        supernet = SMALL.supernet((1, 8, 8), 3)
        mixing = {name: one.detach() for name, one in supernet.mixing().items()}
        for kind in ("normal", "reduce"):
            mixing[kind].requires_grad_()
            for node in range(4):
                mixing[f"{kind}_beta_{node}"] = F.one_hot(torch.tensor([node + 1]), node + 2).float()
        supernet(torch.rand(3, 1, 8, 8), mixing).square().sum().backward()
        moved = (mixing["normal"].grad != 0).any(dim=1).tolist()
        assert moved == [source == node - 1 for source, node in edges(4)]


@pytest.mark.parametrize(
    "metric", [AdversarialAlpha(steps=2), RandomNoise()], ids=["adversarial-alpha", "random-noise"]
)
def test_sdarts_disturbs_beta_too(metric):
    supernet = SMALL.supernet((1, 8, 8), 3)
    given = []
    supernet.register_forward_pre_hook(lambda module, call, named: given.append(named.get("mixing")), with_kwargs=True)
    context = Context(1.0, torch.Generator().manual_seed(0), F.cross_entropy)
    loss = metric.inner_loss(supernet, torch.rand(6, 1, 8, 8), torch.arange(6) % 3, ThreatModel("linf", 0.1), context)
    clean, used = supernet.mixing(), given[-1]
    assert used.keys() == clean.keys()
    for name, table in clean.items():
        torch.testing.assert_close(used[name].sum(dim=1), torch.ones(len(table)))
        assert (used[name] - table).abs().max() > 0.005
    loss.backward()
    assert all(table.grad is not None for table in supernet.alpha.values())


class TestBounds:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_hold_for_sampled_images(self, norm):
        """An odd size, so that windows of the pool of what passes by are cut."""
        images = torch.rand(2, 1, 3, 3, dtype=torch.float64)
        supernet = PcDarts(cells=2, channels=2, partial=2).supernet((1, 3, 3), 3).double()
        settled(spread(supernet), images.repeat(4, 1, 1, 1)).eval()
        labels, threat = torch.tensor([0, 1]), ThreatModel(norm, 0.02)
        others = torch.tensor([[1, 2], [0, 2]])
        sampled = torch.full((2, 2), torch.inf, dtype=torch.float64)
        with torch.no_grad():
            for trial in range(20):
                step = torch.randn_like(images).sign() if trial % 2 else torch.randn_like(images)
                length = step.flatten(1).abs().amax(1) if norm == "linf" else step.flatten(1).norm(dim=1)
                logits = supernet((images + threat.epsilon * step / length.view(-1, 1, 1, 1)).clamp(0, 1))
                margin = logits.gather(1, labels[:, None]) - logits.gather(1, others)
                sampled = torch.minimum(sampled, margin)
        methods = ("ibp", "crown-ibp", "crown") if norm == "linf" else ("ibp", "crown-ibp")  # crown takes seconds
        bounds = [margins(supernet, images, labels, threat, method) for method in methods]
        for loose, tight in zip(bounds, [*bounds[1:], sampled + 1e-9], strict=True):
            assert loose.isfinite().all()
            assert (loose <= tight).all()
        assert (bounds[0] < bounds[1]).any()


class TestOptions:
    @pytest.mark.parametrize("written", ["{name: pc-darts, channels: 10}", "{name: pc-darts, partial: 3}"])
    def test_a_recipe_says_where(self, written, tmp_path):
        path = tmp_path / "r.yaml"
        text = f"dataset: digits\nsearch_space: {written}\nthreat: {{norm: linf, epsilon: 0.1}}\nmethods: {{a: {{}}}}\n"
        path.write_text(text)
        with pytest.raises(InputError, match=r"r\.yaml:2:\d+: search_space.*a multiple of partial, which is \d, would"):
            load(path)

    @pytest.mark.parametrize("name", ["cifar10", "mnist"])
    def test_the_recipes_at_the_papers_settings_search_in_it(self, name, tmp_path):
        loaded = load(name, [f"dataset.folder={tmp_path}"])
        recipe = loaded.recipe
        assert recipe.search_space.plugin == PcDarts()
        search = recipe.search
        assert (search.batch, search.warmup_epochs, search.epochs) == (256, 15, 50)
        assert (search.w_lr, search.w_lr_min, search.alpha_lr) == (0.1, 0.0, 6e-4)
        assert (recipe.train.batch, recipe.train.lr) == (128, 0.025)
        assert make(loaded).stages
