"""Switches that change speed, memory or rounding: with and without them a search finds the same, within a tolerance."""

from pathlib import Path

import pytest
import torch
from attrs import evolve
from test_search import CPU, ran, task

from robustnas import search
from robustnas.errors import InputError, RunError
from robustnas.registry import ORDERS
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.precision import mixed, policy, single
from robustnas.search import loop
from robustnas.search.compiled import Compiled
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.random_noise import RandomNoise
from robustnas_plugins.search_spaces.darts import Darts
from support.networks import Bars, TinyDataset


def alpha(one, folder: Path) -> torch.Tensor:
    result = ran(one, folder)
    return torch.cat([torch.tensor(table) for table in result["alpha"].values()])


def change(one, other, tmp_path: Path) -> float:
    """The largest difference in alpha, as a share of how far alpha has moved."""
    still = alpha(evolve(one, settings=evolve(one.settings, warmup_epochs=one.settings.epochs)), tmp_path / "still")
    a, b = alpha(one, tmp_path / "one"), alpha(other, tmp_path / "other")
    moved = (a - still).abs().max()
    assert moved > 0.01, "the search moved alpha"
    return float((a - b).abs().max() / moved)


def with_settings(one, **settings):
    return evolve(one, settings=evolve(one.settings, **settings))


@pytest.mark.parametrize(
    ("order", "backend"), [("first", "eager"), pytest.param("unrolled", "aot_eager", marks=pytest.mark.slow)]
)
def test_compiled_passes_compute_the_same(order, backend, tmp_path, monkeypatch):
    """Through torch.compile's tracing, and its splitting of backward passes, without code generation (which takes
    minutes): the statistics that a score sees are among what could differ."""
    compiled = []
    monkeypatch.setattr(loop, "Compiled", lambda supernet: compiled.append(Compiled(supernet, backend)) or compiled[-1])
    one = task(Jacobian(rows=1), order=order, epochs=1, warmup_epochs=0)
    assert change(one, with_settings(one, compile=True), tmp_path) < 1e-4
    assert [attempt.why_not for attempt in compiled] == [None]


def test_where_it_cannot_be_compiled_the_search_goes_on_and_says_why(tmp_path, monkeypatch, capsys):
    class InductorError(Exception):
        __module__ = "torch._inductor.exc"

    def cannot(function, **options):
        def fails(*args):
            raise InductorError("no compiler here")

        return fails

    monkeypatch.setattr(torch, "compile", cannot)
    one = task(epochs=1, warmup_epochs=0)
    result = ran(with_settings(one, compile=True), tmp_path / "a")
    assert "no compiler here" in result["compiled"]
    assert "search.compile: going on without" in capsys.readouterr().err
    assert result["alpha"] == ran(one, tmp_path / "b")["alpha"]


def test_a_fault_of_the_network_is_no_fault_of_the_compiler(tmp_path, monkeypatch):
    def broken(function, **options):
        def fails(*args):
            raise RunError("the network is broken")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(RunError, match="the network is broken"):
        ran(with_settings(task(warmup_epochs=0), compile=True), tmp_path)


@pytest.mark.parametrize(
    "order", [order for order in ORDERS.names() if order != "cg"]
)  # cg branches on a curvature's sign
def test_bfloat16_passes_agree_to_their_precision(order, tmp_path):
    """8 bits of mantissa: a few percent of what a search of 2 epochs moves."""
    one = task(Jacobian(), order=order, epochs=2, warmup_epochs=0)
    found = change(one, with_settings(one, precision="bfloat16"), tmp_path)
    assert 0 < found < 0.25, found


def test_what_is_single_precision_stays_so(tmp_path):
    """Scores and the passes of Hessian-vector products are float32 in a bfloat16 search; plain passes are not."""
    seen = []

    class Witness:
        def score(self, network, images, labels, threat):
            logits = network(images)
            seen.append(("score", logits.dtype))
            return -logits.square().mean(dim=1)

        def inner_loss(self, supernet, images, labels, threat, context):
            logits = supernet(images)
            seen.append(("inner", logits.dtype))
            return context.loss(logits, labels)

    search.run(
        task(Witness(), order="unrolled", epochs=1, warmup_epochs=0, precision="bfloat16"), StageFolder(tmp_path), CPU
    )
    scores = {dtype for what, dtype in seen if what == "score"}
    inner = [dtype for what, dtype in seen if what == "inner"]
    assert scores == {torch.float32}
    # a step of `unrolled`: the virtual step, the two ends of the difference in float32, and the inner step
    assert inner[:4] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]


def test_the_policy_puts_back_what_it_found():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for precision in ("float32", "tf32", "bfloat16"):
        with policy(precision):
            pass
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    with mixed("bfloat16", CPU):
        assert torch.is_autocast_enabled("cpu")
        with single(CPU):
            assert not torch.is_autocast_enabled("cpu")
    with mixed("tf32", CPU):
        assert not torch.is_autocast_enabled("cpu")


def test_cells_that_are_computed_again_change_nothing(tmp_path):
    one = task(
        Jacobian(rows=1),
        RandomNoise(),
        order="unrolled",
        epochs=1,
        warmup_epochs=0,
        batch=12,
        space=Darts(cells=2, channels=2),
        dataset=Bars(24),
    )
    a = ran(one, tmp_path / "a")
    b = ran(with_settings(one, recompute_cells=True), tmp_path / "b")
    for name, table in a["alpha"].items():
        torch.testing.assert_close(torch.tensor(b["alpha"][name]), torch.tensor(table), rtol=1e-4, atol=1e-5)


def test_a_supernet_without_cells_cannot_compute_them_again(tmp_path):
    with pytest.raises(InputError, match=r"search.recompute_cells.*has no cells"):
        ran(task(recompute_cells=True), tmp_path)


def test_a_batch_in_parts_is_another_search_than_whole_for_batch_norm_alone(tmp_path):
    """The parts see other statistics; the figures stay close."""
    one = task(epochs=2, warmup_epochs=0, batch=12, dataset=TinyDataset(96))
    assert 1e-6 < change(one, with_settings(one, accumulate=2), tmp_path) < 0.5
