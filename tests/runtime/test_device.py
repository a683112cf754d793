"""Which devices a run computes on."""

from __future__ import annotations

import pytest
import torch

from robustnas.errors import DeviceError
from robustnas.runtime.device import resolve, spread


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "places"),
    [("auto", [0, 1, 0]), ("cuda", [0, 1, 0]), ("cuda:1", [1, 1, 1]), ("cuda:0", [0, 0, 0])],
)
def test_jobs_take_the_devices_in_turn_unless_one_is_named(name: str, places: list[int], two_devices: None) -> None:
    assert spread(name, 3) == [torch.device("cuda", place) for place in places]
    assert spread(name, 1) == [resolve(name)]


def test_jobs_of_the_cpu_share_it(two_devices: None) -> None:
    assert spread("cpu", 2) == [torch.device("cpu")] * 2


def test_a_device_that_is_not_there_is_refused(two_devices: None) -> None:
    with pytest.raises(DeviceError, match=r"cuda:2: this machine has cpu, cuda:0, cuda:1"):
        spread("cuda:2", 2)
