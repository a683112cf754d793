"""Memory: what the tally counts, what the estimate says of a step, the peak of a process, and faults in plain words."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve
from torch import nn

from robustnas.cli import main
from robustnas.errors import InputError, OptionError
from robustnas.nn.recompute import recompute
from robustnas.recipe.faults import Faults
from robustnas.recipe.noting import Noting
from robustnas.run.checks import check_networks
from robustnas.runtime import memory
from robustnas.runtime.memory import Peak, highest, text
from robustnas.runtime.tally import Tally, extrapolated
from robustnas.search import SearchTask
from robustnas.search.footprint import step_bytes, trace
from robustnas.search.hypergradient.conjugate_gradient import ConjugateGradient
from robustnas.search.hypergradient.exact import Exact
from robustnas.search.hypergradient.neumann import Neumann
from robustnas.search.hypergradient.unrolled import Unrolled
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas.train.settings import Train
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.certified_bound import CertifiedBound
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.search_spaces.darts import Darts
from support.networks import CellSupernet, TinyDataset, TinySpace

CPU = torch.device("cpu")
MB = 1_000_000


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tally_counts_storages_while_they_live(device):
    with Tally() as tally:
        a = torch.empty(250, 1000, device=device)
        assert tally.live == MB
        view = a.view(-1)[:10]
        a.add_(1.0)
        assert tally.live == MB
        del a
        assert tally.live == MB
        b = torch.zeros(1000, dtype=torch.float64, device=device)
        assert tally.live == MB + 8000
        del view
        assert tally.live == 8000
        assert tally.peak == MB + 8000
        tally.restart()
        assert tally.peak == 8000
        del b
    assert tally.live == 0


def test_a_tally_sees_what_autograd_saves():
    """As the hooks of autograd count it, which know nothing of operations: the bytes of distinct storages."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    images, saved = torch.rand(8, 3, 16, 16), {}
    before = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers(), images)}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with Tally() as tally, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(images).square()
        alive = tally.live - out.nbytes  # the result itself is alive and not saved
        total = sum(size for place, size in saved.items() if place not in before)
        assert total > 30_000
        assert alive == pytest.approx(total, rel=0.01)
        out.sum().backward()
        del out
        assert sum(p.nbytes for p in network.parameters()) <= tally.live < 2000
        assert tally.peak > total


def test_traces_are_continued_moment_by_moment():
    # the highest moment of the small ones is not that of the large one
    assert extrapolated((2, [100, 20, 30]), (3, [100, 40, 30]), 10) == 180
    assert extrapolated((2, [100, 20]), (3, [100]), 10) == 100
    assert extrapolated((2, [7, 20]), (4, [9, 30]), 2) == 20


def task(metrics=(), space=None, **search):
    """A search on 8x8 digits."""
    settings = Search(**{"batch": 12, "gamma": 0.1, **search})
    threat = ThreatModel("linf", "1/255")
    return SearchTask(Digits(), space or Darts(cells=2, channels=2), metrics, threat, settings, 0)


METRICS = {
    "plain": (),
    "jacobian": ((1.0, Jacobian(rows=2)),),
    "certified-bound": ((1.0, CertifiedBound()),),
    "adversarial-alpha": ((1.0, AdversarialAlpha(steps=2)),),
}


@pytest.mark.parametrize("metrics", METRICS.values(), ids=METRICS)
def test_the_estimate_is_what_a_step_of_that_size_takes(metrics):
    of = task(metrics)
    assert step_bytes(of) == pytest.approx(max(trace(of, of.settings.batch)), rel=0.02)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_continued_is_what_the_meta_device_says(again):
    """At a size that is computed nowhere: forward and backward pass of 512 images."""

    def pass_of(images, device):
        tally = Tally()
        with tally:
            network = CellSupernet(channels=8).to(device)
            if again:
                recompute(network, "search.recompute_cells")
            tally.restart()
            network(torch.rand(images, 2, 6, 6, device=device)).square().sum().backward()
        return tally.trace

    continued = extrapolated((2, pass_of(2, "cpu")), (3, pass_of(3, "cpu")), 512)
    assert continued > 5 * MB
    assert continued == pytest.approx(max(pass_of(512, "meta")), rel=0.01)


def test_a_step_holds_weights_and_their_state():
    """Three copies of w at least (weights, momentum, gradient), and all of what the images add."""
    of = task(batch=2, space=Darts(cells=1, channels=16))
    supernet = of.space.supernet(of.dataset.shape, of.dataset.classes)
    w = sum(p.nbytes for p in supernet.parameters())
    assert step_bytes(of) > 3 * w
    assert step_bytes(task(batch=64, space=of.space)) > 10 * step_bytes(of)


def test_what_makes_a_step_smaller_or_larger():
    def needed(**keys):
        space = SimpleNamespace(supernet=lambda shape, classes: CellSupernet(shape, classes, channels=8))
        return step_bytes(evolve(task(batch=64, space=space, **keys), dataset=TinyDataset()))

    plain = needed()
    assert needed(accumulate=2) == pytest.approx(plain / 2, rel=0.1)
    assert needed(recompute_cells=True) < 0.9 * plain
    assert needed(order=Unrolled()) >= plain
    for order in (Exact(), Neumann(terms=1), ConjugateGradient(iterations=1)):
        assert needed(order=order) > 1.3 * plain


def test_an_estimate_leaves_the_generators_alone():
    before = torch.get_rng_state()
    step_bytes(task())
    assert torch.equal(torch.get_rng_state(), before)


def test_cells_that_are_not_there_are_refused_before_anything_runs():
    with pytest.raises(InputError, match=r"search\.recompute_cells: TinySupernet has no cells"):
        step_bytes(evolve(task(space=TinySpace(), recompute_cells=True), dataset=TinyDataset()))
    for section, key in ((Search(recompute_cells=True), "search"), (Train(recompute_cells=True), "train")):
        train = evolve(section if key == "train" else Train(), auxiliary=0.0, drop_path=0.0)
        search = section if key == "search" else Search()
        space = SimpleNamespace(
            supernet=TinySpace().supernet,
            genotype=TinySpace().genotype,
            network=lambda genotype, shape, classes, auxiliary=False: nn.Linear(2, 2),
        )
        method = SimpleNamespace(name="m", network=None, genotype=None, space=space, search=search, train=train)
        faults = Faults()
        check_networks(SimpleNamespace(methods={"m": method}, dataset=TinyDataset()), Noting({}, "r.yaml", faults))
        (fault,) = faults.found
        assert re.fullmatch(rf"{key}.recompute_cells: \w+ has no cells .*", f"{fault.path}: {fault.text}")


RECIPE = """\
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.01}
search: {epochs: 1, batch: 16}
methods:
  darts: {}
  jac: {metric: jacobian}
  published: {genotype: DARTS_V2}
train: {epochs: 1, auxiliary: 0, drop_path: 0}
attacks: []
"""


def test_a_plan_shows_the_estimate_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def refused(self: object, network: object, images: object, labels: object, threat: object) -> None:
        raise OptionError("no score of these images")

    monkeypatch.setattr("robustnas_plugins.metrics.jacobian.Jacobian.score", refused)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    assert main(["plan", str(recipe)]) == 0
    assert "memory" not in capsys.readouterr().out
    assert main(["plan", str(recipe), "--memory"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [line for line in lines if line.startswith("method ")]
    assert head.split()[-1] == "memory"
    rows = {line.split()[0]: line.rstrip() for line in lines if line.split()[0] in ("darts", "jac", "published")}
    assert rows["darts"].endswith("MB")
    assert "  ~" in rows["darts"]
    assert rows["jac"].endswith("  -")
    assert "~" not in rows["published"]
    assert any(line.startswith("the memory of jac is not known: no score of these images") for line in lines)


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (12, "12 B"), (1234, "1.2 kB"), (999_400, "999 kB"), (999_600, "1.0 MB"), (12_345_678, "12 MB"),
     (7.96e9, "8.0 GB"), (1.2e11, "120 GB"), (2**60, "1152922 TB")],
)  # fmt: skip
def test_bytes_for_people(count, said):
    assert text(count) == said


def test_the_peak_of_the_process_rises_and_is_set_back(monkeypatch):
    peak = Peak(CPU)
    start = peak.read()["peak_memory"]
    block = torch.ones(50_000_000)  # written to, so that it is resident; four times what is asked for
    assert peak.read()["peak_memory"] > start + 50 * MB
    del block
    assert peak.read()["peak_memory"] > start + 50 * MB
    if memory._status("VmHWM") is not None:
        try:
            memory.CLEAR.write_text("5")
        except OSError:
            pytest.skip("this system does not let a process set its mark back")
        peak.reset()
        assert peak.read()["peak_memory"] < start + 40 * MB
    # a system without the files: growth of a mark that only rises
    monkeypatch.setattr(memory, "STATUS", Path("nowhere"))
    monkeypatch.setattr(memory, "CLEAR", Path("nowhere/else"))
    elsewhere = Peak(CPU)
    assert elsewhere.base > 0
    assert elsewhere.read()["peak_memory"] >= 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_a_cuda_device():
    peak = Peak(torch.device("cuda:0"))
    before = peak.read()["peak_memory"]
    block = torch.empty(16_000_000, device="cuda:0")
    del block
    found = peak.read()
    assert found["peak_memory"] >= before + 64 * MB
    assert found["peak_memory_reserved"] >= found["peak_memory"]
    peak.reset()
    assert peak.read()["peak_memory"] < before + 64 * MB


def test_the_highest_of_the_epochs():
    records = [{"loss": 1.0}, {"peak_memory": 5, "peak_memory_reserved": 9}, {"peak_memory": 7}]
    assert highest(records) == {"peak_memory": 7, "peak_memory_reserved": 9}
    assert highest([{"loss": 1.0}]) == {}
