"""Weights that all networks share, trained one path at a time: resume, what a step moves, the loss, bad input."""

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen

from robustnas.errors import DataError, InputError, RunError
from robustnas.nn.cells import SinglePath
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.report import silent
from robustnas.search import SinglePathTask, single_path
from robustnas.search.settings import Search
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.nas_bench_201 import NasBench201
from robustnas_plugins.search_spaces.ops import SEARCH
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from support.edge_by_edge import per_edge
from support.networks import TinyDataset, TinySpace
from support.searches import timeless

CPU = torch.device("cpu")
SETTINGS = Search(epochs=2, batch=9, w_lr=0.1, crop=1, flip=True, cutout=2)
DARTS = Darts(cells=2, channels=2)


@frozen
class Drawn(TinySpace):
    """The smallest space with paths; its supernet computes every operation, whatever it is weighed with."""

    def sample(self, generator):
        return {"edges": torch.randint(3, (2,), generator=generator).tolist()}

    def path(self, genotype):
        return {"normal": F.one_hot(torch.tensor(genotype["edges"]), 3).float()}


def task(space=DARTS, dataset=None, seed=3, **settings):
    return SinglePathTask(dataset or TinyDataset(), space, evolve(SETTINGS, **settings), seed)


def ran(one, folder, report=silent):
    return single_path.run(one, StageFolder(folder), CPU, report)


def same(a, b):
    """Everything two checkpoints hold, bit for bit."""
    torch.testing.assert_close(dict(a["supernet"]), dict(b["supernet"]), rtol=0, atol=0)
    torch.testing.assert_close(a["w_optimizer"], b["w_optimizer"], rtol=0, atol=0)
    assert list(map(timeless, a["records"])) == list(map(timeless, b["records"]))


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    found = {}
    for space in (DARTS, Drawn()):
        folder = StageFolder(tmp_path_factory.mktemp("whole"))
        result = single_path.run(task(space), folder, CPU)
        found[space] = result, folder.load_tensors("checkpoint.pt"), folder.load_tensors("supernet.pt")
    return found


@pytest.mark.parametrize(("space", "after"), [(Drawn(), after) for after in range(1, 7)] + [(DARTS, 2), (DARTS, 3)])
def test_stopped_after_any_step_it_goes_on_as_if_nothing_had_happened(
    space, after, never_stopped, tmp_path, monkeypatch
):
    """3 steps an epoch, 2 epochs."""
    folder, asked = StageFolder(tmp_path), []
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: asked.append(0) or len(asked) == after)
        with pytest.raises(interrupt.Interrupted):
            ran(task(space), tmp_path)
    assert (folder.load_tensors("checkpoint.pt")["middle"] is None) == (after % 3 == 0)
    torch.rand(5)
    result, checkpoint, supernet = never_stopped[space]
    assert timeless(ran(task(space), tmp_path)) == timeless(result)
    same(folder.load_tensors("checkpoint.pt"), checkpoint)
    torch.testing.assert_close(folder.load_tensors("supernet.pt"), supernet, rtol=0, atol=0)


def test_what_it_returns_and_records_and_that_the_seed_decides(never_stopped, tmp_path):
    result, _, supernet = never_stopped[DARTS]
    assert set(result) == {"epochs", "parameters", "search_seconds", "peak_memory", "notes"}
    assert result["epochs"] == 2
    weights = sum(p.numel() for name, p in DARTS.supernet((2, 6, 6), 3).named_parameters() if "alpha" not in name)
    assert result["parameters"] == weights
    folder = StageFolder(tmp_path)
    folder.finish(ran(task(seed=4), tmp_path))  # plain data
    assert [record["w_lr"] for record in folder.history()] == pytest.approx([0.1, (0.1 + 0.001) / 2])
    assert all(record["loss"] > 0 for record in folder.history())
    other = folder.load_tensors("supernet.pt")
    assert any(not torch.equal(value, other[name]) for name, value in supernet.items() if "running" in name)


@pytest.mark.parametrize("recompute_cells", [False, True])
def test_a_step_moves_the_weights_of_its_path_alone(recompute_cells, tmp_path, monkeypatch):
    """Momentum and decay do not move the others either, nor do running statistics of what is not on the path."""
    paths, states = [], []
    draw, step = single_path._Training.path, single_path.PathSgd.step

    def path(training, generator):
        paths.append(draw(training, generator))
        states.append((state := snapshot(training), state))
        return paths[-1]

    def stepped(optimizer, closure=None):
        step(optimizer, closure)
        states[-1] = states[-1][0], snapshot(seen[0])

    def snapshot(training):
        seen[:] = [training]
        supernet = training.supernet.supernet
        return {name: one.clone() for name, one in per_edge(supernet, supernet.state_dict()).items()}

    seen: list = []
    monkeypatch.setattr(single_path._Training, "path", path)
    monkeypatch.setattr(single_path.PathSgd, "step", stepped)
    ran(task(w_decay=0.1, recompute_cells=recompute_cells), tmp_path)
    assert len(paths) == len(states) == 6
    names = list(SEARCH)
    for mixing, (before, after) in zip(paths, states, strict=True):
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert {"stem.layers.0.weight", "classifier.weight", "cells.0.preprocess1.conv.weight"} <= moved
        assert not {name for name in moved if "alpha" in name}
        for name in before:
            if ".candidates." not in name or name.endswith("num_batches_tracked"):
                continue
            _, cell, _, edge, _, op, *_ = name.split(".")
            column = mixing.columns["reduce" if cell == "1" else "normal"][int(edge)]
            on_path = op == names[column]
            if "pool" in op:  # poolings have statistics alone, and of edges that leave one state they are the same
                continue
            assert (name in moved) == on_path, name


def test_a_supernet_that_computes_everything_is_moved_on_the_path_alone_too(tmp_path):
    folder = StageFolder(tmp_path)
    ran(task(Drawn(), TinyDataset(count=9), epochs=1), tmp_path)
    started = single_path._Training(task(Drawn(), TinyDataset(count=9), epochs=1), CPU, single_path.ALONE)
    drawn = Drawn().sample(single_path._Epoch(started, 0).generators["draw"])["edges"]
    before, after = started.supernet.state_dict(), folder.load_tensors("supernet.pt")
    for edge, op in enumerate(drawn):
        name = f"supernet.edges.{edge}.convolution.weight"
        assert torch.equal(before[name], after[name]) == (op != 0)


def test_the_optimiser_is_sgd_where_no_gradient_is_zero():
    torch.manual_seed(0)
    start = torch.randn(5)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = single_path.PathSgd([ours], **options), torch.optim.SGD([theirs], **options)
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(5)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)
    kept, momentum = ours.detach().clone(), optimizers[0].state[ours]["momentum_buffer"].clone()
    ours.grad = torch.tensor([0.0, 1, 0, 1, 0])
    optimizers[0].step()
    assert (ours == kept).tolist() == [True, False, True, False, True]
    assert (optimizers[0].state[ours]["momentum_buffer"] == momentum).tolist() == [True, False, True, False, True]


def test_alone_an_operation_costs_and_moves_what_it_does_edge_by_edge():
    """Buffers of the other operations stay, in training mode too."""
    supernet = DARTS.supernet((1, 8, 8), 3)
    before = {name: value.clone() for name, value in per_edge(supernet, supernet.state_dict()).items()}
    genotype = {"normal": 4 * [["sep_conv_3x3", 0], ["dil_conv_5x5", 1]], "normal_concat": [2, 3, 4, 5]}
    genotype |= {"reduce": 4 * [["skip_connect", 0], ["max_pool_3x3", 1]], "reduce_concat": [2, 3, 4, 5]}
    supernet(torch.rand(4, 1, 8, 8), SinglePath(DARTS.path(genotype)))
    after = per_edge(supernet, supernet.state_dict())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name]) and "running" in name}
    ops = {name.split(".")[5] for name in moved if ".candidates." in name}
    assert ops == {"sep_conv_3x3", "dil_conv_5x5", "skip_connect", "max_pool_3x3"}


@pytest.mark.parametrize("space", [Darts(cells=1, channels=4), NasBench201(cells=1, channels=4)])
def test_the_loss_falls(space, tmp_path):
    ran(task(space, Digits(), epochs=3, batch=64, crop=0, flip=False, cutout=0), tmp_path)
    losses = [record["loss"] for record in StageFolder(tmp_path).history()]
    assert 2.1 > losses[2] < losses[1] < losses[0] < 2.4


def test_a_space_without_paths_or_a_sampler_is_refused():
    with pytest.raises(InputError, match="TinySpace has no `sample` and no `path`, so no weights can be trained"):
        task(TinySpace())
    with pytest.raises(InputError, match="PcDarts has no `path`, so"):
        task(PcDarts())


def test_one_image_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"found 1 training image\(s\); batch norm needs"):
        ran(task(dataset=TinyDataset(count=1)), tmp_path)


def test_training_that_diverges_says_so(tmp_path):
    with pytest.raises(RunError, match=r"diverged: in epoch 1 of 2, step . of 3, the training loss is nan"):
        ran(task(Drawn(), w_lr=1e38, w_clip=1e30), tmp_path)
