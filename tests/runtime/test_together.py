"""What two processes tell each other, played by two threads; `tests/whole/test_processes.py` starts real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustnas.data.batches import check_fit
from robustnas.errors import DeviceError, InputError
from robustnas.runtime.processes import ALONE, Processes, joined, other_processes, own_device
from support.two_processes import gradients_of_layer, messages
from support.two_threads import in_two_threads


def test_shares_are_contiguous_and_nearly_equal():
    for count in (0, 1, 9, 10):
        for size in (1, 2, 3):
            taken = [list(range(count))[Processes(rank, size).share(count)] for rank in range(size)]
            assert [index for some in taken for index in some] == list(range(count))
            assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_one_process_tells_itself():
    with joined(torch.device("cpu")) as processes:
        assert processes is ALONE
    assert ALONE.gather(3) == ALONE.run_together(lambda: 3) == [3]
    assert (ALONE.broadcast(3), ALONE.any(True)) == (3, True)
    assert ALONE.sum([torch.ones(2)])[0].tolist() == [1.0, 1.0]


def test_two_processes_sum_agree_and_fail_together(monkeypatch: pytest.MonkeyPatch):
    for told in in_two_threads(messages, monkeypatch):
        assert bool(told["told"].all())
        assert len(told["told"]) == 7
        assert told["sum"].tolist() == [3.0]
        assert told["sum64"].tolist() == [[2.0, 2.0], [2.0, 2.0]]
        assert float(told["average"]) == pytest.approx(0.75)  # (1 * 0 + 3 * 1) / 4


def test_batch_norm_over_two_halves_is_batch_norm_over_the_whole(monkeypatch: pytest.MonkeyPatch):
    expected = gradients_of_layer(ALONE)
    for found in in_two_threads(gradients_of_layer, monkeypatch):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_of_another_number_of_processes_says_how_to_go_on():
    text = other_processes(Path("run/search/a/checkpoint.pt"), 2, ALONE)
    assert "was written by 2 process(es) and here are 1" in text
    assert "--nproc-per-node 2, or delete the folder run/search/a" in text


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch):
    assert own_device("cuda:3") == "cuda:3", "alone one says which"
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (own_device("auto"), own_device("cuda"), own_device("cpu")) == ("cuda:1", "cuda:1", "cpu")
    with pytest.raises(DeviceError, match="several processes need a device each"):
        own_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match=r"started at least 2 processes here and torch sees 1 CUDA device"):
        own_device("cuda")


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(
        InputError, match=r"search\.batch 251 cannot be shared equally by 2 processes; search\.batch 250"
    ):
        check_fit([], 251, 1, Processes(0, 2), "search")
