"""The signs of collapse: the dominant eigenvalue against the whole Hessian, the rule that stops, and the verdict."""

import json

import pytest
import torch
import torch.nn.functional as F
from attrs import Factory, evolve, frozen

from robustnas import search
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.processes import ALONE
from robustnas.search import collapse
from robustnas.search.collapse import dominant_eigenvalue, parameter_free, too_sharp, verdict
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.nas_bench_201 import NasBench201
from search.test_search import CPU, TinySpace, ran, task
from support.searches import make_step, timeless


def hessian(step):
    """Of the validation loss in alpha, as one matrix."""
    tables, (part,) = step.alpha, step.val
    with scratch_statistics(step.supernet, biased=False):
        loss = F.cross_entropy(step.supernet(part.images), part.labels)
        slopes = torch.cat([one.flatten() for one in torch.autograd.grad(loss, tables, create_graph=True)])
        rows = [torch.autograd.grad(slope, tables, retain_graph=True) for slope in slopes]
    return torch.stack([torch.cat([one.flatten() for one in row]) for row in rows])


def test_the_eigenvalue_is_that_of_the_whole_hessian(monkeypatch):
    monkeypatch.setattr(collapse, "TOLERANCE", 1e-9)
    monkeypatch.setattr(collapse, "ITERATIONS", 500)
    step = make_step()
    state = {name: one.clone() for name, one in step.supernet.state_dict().items()}
    found = dominant_eigenvalue(step.supernet, step.weights, step.val[0], ALONE, torch.Generator().manual_seed(0))
    values = torch.linalg.eigvalsh(hessian(step))
    assert found == pytest.approx(float(values[values.abs().argmax()]), rel=1e-4)
    assert found != 0
    assert all(torch.equal(one, state[name]) for name, one in step.supernet.state_dict().items())
    assert all(one.grad is None for one in step.alpha)


def history(*values):
    return [{"eigenvalue": value} for value in values]


@pytest.mark.parametrize(
    ("values", "after"),
    [
        ([1.0] * 12, None),
        ([1.0] * 5 + [1.3] * 5, None),
        ([1.0] * 5 + [1.4] * 5, 5),
        ([1.0] * 7 + [1.4] * 5, 7),
        ([1.0] * 4 + [9.0] * 5, None),
        ([None] * 3 + [1.0] * 4 + [9.0] * 5, None),
        ([None] * 3 + [1.0] * 5 + [9.0] * 5, 8),
        ([-1.0] * 5 + [-9.0] * 5, None),
    ],
    ids=["level", "a little", "too far", "later", "too few", "not measured at first", "after a warm-up", "bends down"],
)
def test_the_rule_compares_means_of_five_epochs(values, after):
    assert too_sharp(history(*values)) == after


def test_the_share_of_operations_without_weights():
    space = Darts()
    assert parameter_free(space, space.published["DARTS_V2"]) == 10 / 16
    bench = NasBench201()
    assert parameter_free(bench, bench.published["AllConv3x3"]) == 0
    assert parameter_free(bench, bench.published["AllIdentity"]) == 1
    assert parameter_free(TinySpace(), {"nothing": "known"}) is None


def test_a_verdict_names_the_signs():
    assert verdict([], None) == {"signs": [], "parameter_free": None}
    assert collapse.of_genotype(verdict([], None)) == [], "a space that does not name its operations"
    assert collapse.of_genotype(verdict([], 1.0)) == collapse.notes(verdict([], 1.0), None) != []
    told = verdict([{"none": 0.6, "eigenvalue": 2.0}], 0.8)
    assert told == {
        "signs": ["parameter-free", "none"], "parameter_free": 0.8, "none": 0.6, "eigenvalue": 2.0, "sharp_after": None
    }  # fmt: skip
    free, none = collapse.notes(told, None)
    assert free.startswith("80 % of the operations")
    assert none.startswith("60 % of the mixing weights")
    sharp = verdict(history(*[1.0] * 5, *[9.0] * 5), 0.0)
    assert (sharp["signs"], sharp["sharp_after"]) == (["sharp"], 10)
    assert collapse.notes(sharp, None)[0].endswith("search: {collapse: stop} would do")
    assert collapse.notes(sharp, 5)[0].endswith("it was stopped, and the genotype is that of epoch 5")


def test_watching_changes_no_search(tmp_path):
    watched = ran(task(collapse="watch", epochs=3), tmp_path / "watched")
    plain = ran(task(epochs=3), tmp_path / "plain")
    assert watched["alpha"] == plain["alpha"]
    records = StageFolder(tmp_path / "watched").history()
    warm = [record["eigenvalue"] for record in records]
    assert warm[0] is None, "before alpha moves"
    assert all(isinstance(one, float) for one in warm[1:])
    assert watched["collapse"]["eigenvalue"] == warm[-1]
    assert "eigenvalue" not in plain["collapse"]
    assert json.dumps(watched["collapse"])


@frozen
class Keen:
    """A space whose genotype is alpha's largest entry, to the last digit."""

    inner: TinySpace = Factory(TinySpace)

    def supernet(self, shape, classes):
        return self.inner.supernet(shape, classes)

    def genotype(self, supernet):
        return {"alpha": [table.tolist() for table in supernet.alpha.values()]}

    def network(self, *given, **named):
        return self.inner.network(*given, **named)


def test_a_search_that_becomes_too_sharp_ends_with_the_genotype_of_five_epochs_before(tmp_path, monkeypatch):
    calls = []

    def rising(*given):
        calls.append(0)
        return 1.0 if len(calls) <= 6 else 9.0

    monkeypatch.setattr(collapse, "dominant_eigenvalue", rising)
    one = task(collapse="stop", epochs=20, warmup_epochs=0, space=Keen())
    found = ran(one, tmp_path)
    records = StageFolder(tmp_path).history()
    assert len(records) == found["epochs"] < 20
    after = found["epochs"] - 5
    assert found["genotype"]["alpha"] == list(records[after - 1]["alpha"].values())
    assert found["alpha"] == records[after - 1]["alpha"]
    assert found["collapse"]["signs"][0] == "sharp"
    assert timeless(search.run(one, StageFolder(tmp_path), CPU)) == timeless(found), "gone on with, it has ended"
    monkeypatch.setattr(collapse, "dominant_eigenvalue", lambda *given: 1.0)
    assert ran(evolve(one, seed=one.seed + 1), tmp_path / "level")["epochs"] == 20
