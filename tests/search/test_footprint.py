"""What a step of a search holds is estimated before it runs, and shown where it is asked for."""

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
from robustnas.plan import MethodPlan
from robustnas.recipe.faults import Faults
from robustnas.recipe.noting import Noting
from robustnas.run.checks import check_networks
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

MB = 1_000_000


def task(metrics=(), space=None, **search):
    """A search on 8x8 digits."""
    settings = Search(**{"batch": 12, "gamma": 0.1, **search})
    threat = ThreatModel("linf", "1/255")
    return SearchTask(Digits(), space or Darts(cells=1, channels=2), metrics, threat, settings, 0)


METRICS = {
    "plain": (),
    "jacobian": ((1.0, Jacobian(rows=2)),),
    "certified-bound": ((1.0, CertifiedBound()),),
    "adversarial-alpha": ((1.0, AdversarialAlpha(steps=2)),),
}


@pytest.mark.parametrize("metrics", METRICS.values(), ids=METRICS)
def test_the_estimate_is_what_a_step_of_that_size_takes(metrics):
    of, before = task(metrics), torch.get_rng_state()
    assert step_bytes(of) == pytest.approx(max(trace(of, of.settings.batch)), rel=0.02)
    assert torch.equal(torch.get_rng_state(), before)


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
        method = MethodPlan("m", ThreatModel("linf", 0.1), search, train, space)  # type: ignore[arg-type]
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
