"""Memory: what the tally counts, the peak of a process, and bytes in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustnas.runtime import memory
from robustnas.runtime.memory import Peak, highest, text
from robustnas.runtime.tally import Tally, extrapolated

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


def test_the_highest_of_the_epochs():
    records = [{"loss": 1.0}, {"peak_memory": 5, "peak_memory_reserved": 9}, {"peak_memory": 7}]
    assert highest(records) == {"peak_memory": 7, "peak_memory_reserved": 9}
    assert highest([{"loss": 1.0}]) == {}
