"""Searches on the device: stopped and resumed, in less precision, compiled, and what memory they say they took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from robustnas import search
from robustnas.registry import ORDERS
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.memory import Peak
from robustnas.runtime.report import silent
from robustnas.search.balance import Balance
from robustnas.search.footprint import step_bytes
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.random_noise import RandomNoise
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from support.networks import Bars, TinyDataset
from support.shared_batches import SmoothSpace

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what libraries of a device warn of

MB = 2**20
SETTINGS = Search(epochs=2, batch=6, gamma=0.05, alpha_lr=0.05, crop=1, flip=True, cutout=2)
SPACE = Darts(cells=2, channels=4)
METRICS = (Jacobian(rows=1), RandomNoise())


def task(
    *metrics: Any, space: Any = SPACE, data: Any = None, order: str = "first", **settings: Any
) -> search.SearchTask:
    pairs = tuple((1.0, metric) for metric in metrics)
    changed = evolve(SETTINGS, order=ORDERS.load(order)(), **settings)
    return search.SearchTask(data or Bars(36), space, pairs, ThreatModel("linf", "8/255"), changed, 7)


def tables(result: dict[str, Any]) -> torch.Tensor:
    return torch.cat([torch.tensor(table).flatten() for table in result["alpha"].values()])


@pytest.mark.parametrize(
    "one",
    [
        task(*METRICS, order="unrolled"),
        task(AdversarialAlpha(steps=1), order="neumann"),
        task(*METRICS, space=PcDarts(cells=2, channels=4, partial=2), recompute_cells=True),
        task(*METRICS, precision="bfloat16", accumulate=2),
        task(*METRICS, gamma=Balance(0.5)),
    ],
    ids=["unrolled", "neumann", "pc-darts, computed again", "bfloat16, in parts", "balanced"],
)
def test_a_search_that_was_stopped_is_to_the_bit_one_that_was_not(
    one: search.SearchTask, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the first epoch, and after it."""
    expected = search.run(one, StageFolder(tmp_path / "whole"), device, silent)
    folder = StageFolder(tmp_path / "parts")
    for after in (2, 1):
        asked: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr(interrupt, "asked", lambda asked=asked, after=after: asked.append(0) or len(asked) == after)
            with pytest.raises(interrupt.Interrupted):
                search.run(one, folder, device, silent)
        torch.rand(5, device=device)
    found = search.run(one, folder, device, silent)
    assert found["alpha"] == expected["alpha"]
    whole, parts = (StageFolder(tmp_path / name).load_tensors("checkpoint.pt") for name in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    assert all(torch.equal(tensor, parts["supernet"][name]) for name, tensor in whole["supernet"].items())


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_less_precision_changes_little(precision: str, device: torch.device, tmp_path: Path) -> None:
    still, exact, less = (
        tables(search.run(task(*METRICS, **settings), StageFolder(tmp_path / str(number)), device, silent))
        for number, settings in enumerate(({"warmup_epochs": 2}, {}, {"precision": precision}))
    )
    moved = float((exact - still).abs().max())
    assert moved > 0.01
    assert float((exact - less).abs().mean()) < 0.25 * moved


@pytest.mark.parametrize("order", ["first", "unrolled"])
def test_compiled_passes_find_the_same(order: str, device: torch.device, tmp_path: Path) -> None:
    """With generated kernels, and CUDA graphs where there is CUDA; a Jacobian's own passes are not compiled."""
    one = task(Jacobian(rows=1), order=order, space=SmoothSpace(), data=TinyDataset())
    plain = search.run(one, StageFolder(tmp_path / "plain"), device, silent)
    compiled = evolve(one, settings=evolve(one.settings, compile=True))
    found = search.run(compiled, StageFolder(tmp_path / "compiled"), device, silent)
    assert found["compiled"] == "yes"
    torch.testing.assert_close(tables(found), tables(plain), rtol=0, atol=1e-3)


def test_the_memory_of_a_search_is_noted_and_was_foreseen(device: torch.device, tmp_path: Path) -> None:
    if device.type != "cuda":
        pytest.skip("memory of the CPU is told otherwise")
    one = task(Jacobian(rows=1), space=Darts(cells=4, channels=16), data=Bars(512), batch=128, epochs=1)
    result = search.run(one, StageFolder(tmp_path), device, silent)
    assert result["peak_memory_reserved"] >= result["peak_memory"]
    foreseen = step_bytes(one)
    assert 0.7 * foreseen < result["peak_memory"] < 1.3 * foreseen


def test_the_peak_of_a_device(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("memory of the CPU is told otherwise")
    peak = Peak(device)
    before = peak.read()["peak_memory"]
    block = torch.empty(16_000_000, device=device)
    del block
    found = peak.read()
    assert found["peak_memory"] >= before + 61 * MB
    assert found["peak_memory_reserved"] >= found["peak_memory"]
    peak.reset()
    assert peak.read()["peak_memory"] < before + 61 * MB
