"""Training on the device: every regime is the CPU's to rounding, and to the bit itself when stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from data.test_prefetch import LABELS, ORDER, Source
from robustnas import train
from robustnas.data.images import Streamed
from robustnas.data.prefetch import Prefetcher
from robustnas.registry import REGIMES
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.report import silent
from robustnas.threat import ThreatModel
from support.networks import Bars
from support.shared_batches import TRAINING, StillSpace

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what libraries of a device warn of

FEW = {"adversarial": {"steps": 2}, "trades": {"steps": 2}, "certified": {"warmup_epochs": 0.5, "ramp_epochs": 1}}


def task(regime: str, **settings: Any) -> train.TrainTask:
    changed = evolve(TRAINING, regime=REGIMES.load(regime)(**FEW.get(regime, {})), **settings)
    return train.TrainTask(Bars(), StillSpace(), {"width": 4}, ThreatModel("linf", 0.1), changed, seed=3)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = StageFolder(folder).load_tensors("network.pt")
    assert found is not None
    return {name: tensor.cpu() for name, tensor in found.items()}


@pytest.mark.parametrize("regime", REGIMES.names())
def test_every_regime_is_the_cpu_s(regime: str, device: torch.device, tmp_path: Path) -> None:
    for name, place in (("here", torch.device("cpu")), ("there", device)):
        train.run(task(regime), StageFolder(tmp_path / name), place, silent)
    here, there = (weights(tmp_path / name) for name in ("here", "there"))
    assert here.keys() == there.keys()
    # steps along signs of gradients grow rounding where a gradient is 0
    close = 1e-4 if regime in ("standard", "certified") else 3e-2
    for name, tensor in here.items():
        torch.testing.assert_close(there[name], tensor, rtol=close, atol=close)


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16", "accumulate": 2}], ids=["plain", "bfloat16"])
@pytest.mark.parametrize("regime", REGIMES.names())
def test_a_training_that_was_stopped_is_to_the_bit_one_that_was_not(
    regime: str, settings: dict[str, Any], device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(regime, **settings)
    train.run(one, StageFolder(tmp_path / "whole"), device, silent)
    asked: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "asked", lambda: asked.append(0) or len(asked) == 2)
        with pytest.raises(interrupt.Interrupted):
            train.run(one, StageFolder(tmp_path / "parts"), device, silent)
    torch.rand(7, device=device)
    train.run(one, StageFolder(tmp_path / "parts"), device, silent)
    whole, parts = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_images_that_workers_read_arrive_unchanged(device: torch.device) -> None:
    """Through pinned memory, while the device computes."""
    with Prefetcher(Streamed(Source(), LABELS, 2), device) as feed:
        busy = torch.rand(512, 512, device=device)
        for (images, labels), places in zip(feed.batches(ORDER), ORDER, strict=True):
            busy = busy @ busy / 256
            expected = torch.stack([Source()[int(place)] for place in places]).float() / 255
            assert torch.equal(images.cpu(), expected)
            assert torch.equal(labels.cpu(), LABELS[places])
