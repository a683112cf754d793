"""Files of torch.save are read as data in every form, and what is damaged or boundless is refused."""

from __future__ import annotations

import functools
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustnas.errors import InputError
from robustnas.foreign import digest, pickled
from robustnas.foreign.settings import Weights
from support.their_nets import Thing, get, images, trained


@pytest.mark.parametrize("old", [False, True])
def test_a_module_that_was_pickled_whole_is_read_as_data(here, old, monkeypatch):
    network = trained()
    torch.save({"ema": nn.DataParallel(network), "updates": 3}, "w.pt", _use_new_zipfile_serialization=not old)
    monkeypatch.delitem(sys.modules, "their_nets")
    assert torch.equal(get(weights=here / "w.pt")(images()), network(images()))


def test_tensors_are_read_in_every_form_they_are_saved_in(here):
    network = trained()
    state = network.state_dict()
    whole = torch.cat([value.flatten().float() for value in state.values()])
    at, views = 0, {}
    for name, value in state.items():
        views[name] = whole[at : at + value.numel()].view(value.shape)
        at += value.numel()
    views["features.0.weight"] = views["features.0.weight"].to(memory_format=torch.channels_last)
    views["head.weight"] = nn.Parameter(views["head.weight"].T.contiguous().T)
    for old in (False, True):
        for protocol in (2, 4, 5) if not old else (2,):
            torch.save(views, "w.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
            loaded = get(weights=here / "w.pt").state_dict()
            assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is not a file of torch.save"),
        (b"hello", "w.pt is"),
        (bytes(range(256)), "w.pt is"),
        (Thing(), r"holds an object of support\.their_nets\.Thing, and no mapping of names to tensors"),
        (torch.zeros(3), r"holds a tensor of shape \(3,\), and no mapping"),
        ([1, 2], "holds a list of 2, and no mapping"),
        ({"epoch": 1, "model": {"a": 1}}, "holds a dict with epoch, model, and no mapping"),
        ({1: torch.zeros(1)}, "no mapping"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{}', "is a safetensors file, which is not read here"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused(here, content, message):
    if isinstance(content, bytes):
        (here / "w.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, here / "w.pt")
    with pytest.raises(InputError, match=message) as raised:
        get(weights=here / "w.pt")
    assert re.search(r"torch.save\(network.state_dict\(\), path\) would do|safetensors", str(raised.value))


def test_damaged_files_are_refused_whatever_reading_them_hits(here):
    torch.save(trained().state_dict(), "w.pt", _use_new_zipfile_serialization=False)
    whole = (here / "w.pt").read_bytes()
    refused = 0
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        (here / "w.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            get(weights=here / "w.pt")
        except InputError:
            refused += 1
    assert refused > 5


def test_a_file_never_runs_code(here):
    class Evil:
        def __reduce__(self):
            return (open, (str(here / "ran"), "w"))

    state = trained().state_dict()
    torch.save({"state_dict": state, "args": Evil()}, here / "w.pt")
    assert torch.equal(get(weights=here / "w.pt").state_dict()["head.bias"], state["head.bias"])
    torch.save({"state_dict": {**state, "head.bias": Evil()}}, here / "w.pt")
    with pytest.raises(InputError, match=r"head\.bias: an object of _?io\.open in the file"):
        get(weights=here / "w.pt")
    assert not (here / "ran").exists()


def rewritten(path: Path, compressed: bool = False, **changed: bytes) -> None:
    """A file of torch.save with other records, by the last parts of their names."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, changed.get(name.rpartition("/")[2].replace(".", "_"), data))


def test_a_small_file_takes_no_more_memory_than_copies_of_the_network(here):
    state = trained().state_dict()
    torch.save(state, "w.pt")
    rewritten(here / "w.pt", compressed=True)
    assert torch.equal(get(weights=here / "w.pt").state_dict()["head.bias"], state["head.bias"])
    rewritten(here / "w.pt", compressed=True, version=bytes(80 << 20))
    assert (here / "w.pt").stat().st_size < 1 << 20
    with pytest.raises(InputError, match="is compressed and unpacks to 84 MB, far more than a checkpoint of this"):
        get(weights=here / "w.pt")


HOLDS_ITSELF: dict[str, Any] = {"a": torch.zeros(1)}
HOLDS_ITSELF["b"] = {"c": HOLDS_ITSELF}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HOLDS_ITSELF, "holds itself: b/c is what it stands in"),
        ({"head.bias": torch.zeros(1).expand(1 << 40)}, r"head\.bias: \(1099511627776,\) in the file"),
        ({"a": torch.zeros(1).expand(1 << 40), "b": torch.zeros(1).expand(1 << 40)}, "unknown to the network: a, b"),
        (functools.reduce(lambda inside, _: {"x": inside}, range(99), {"a": torch.zeros(1)}), "more than 50 deep"),
        (functools.reduce(lambda inside, _: {"x": inside, "y": inside}, range(49), {"a": torch.zeros(1)}), "not fit"),
    ],
)
def test_what_a_checkpoint_holds_is_bounded(here, content, told):
    torch.save(content, "w.pt")
    with pytest.raises(InputError, match=told):
        get(weights=here / "w.pt")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80\x02}" + b"q\xff" * 3 + b"r\xff\xff\xff\xff.", "and no mapping of names"),
        (b"\x80\x02" + b"}0" * 501 + b"}.", "holds more than 1,000 pickled values"),
        (b"\x80\x02" + b"(" * 400 + b"t" * 400 + b".", "more than 50 deep"),
        (b"\x80\x04\x96" + (1 << 60).to_bytes(8, "little") + b"x.", "is not a file of torch.save, or a damaged one"),
        (b"\x80\x02.", "is not a file of torch.save, or a damaged one"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "holds an object of builtins.bytearray"),
    ],
)
def test_a_pickle_asks_for_no_more_than_it_holds(here, data, told, monkeypatch):
    monkeypatch.setattr(pickled, "INSTRUCTIONS", 1000)
    torch.save({}, "w.pt")
    rewritten(here / "w.pt", data_pkl=data)
    with pytest.raises(InputError, match=told):
        get(weights=here / "w.pt")


def test_a_tensor_beyond_its_numbers_is_refused(here):
    torch.save(trained().state_dict(), "w.pt")
    rewritten(here / "w.pt", **{"0": b"1234"})
    with pytest.raises(InputError, match="is damaged: a storage of 144 bytes has 4 bytes"):
        get(weights=here / "w.pt")


def test_a_device_is_no_file(here):
    with pytest.raises(InputError, match="is no file"):
        get(weights=Path("/dev/zero"))
    with pytest.raises(InputError, match=r"--weights: /dev/zero is no file"):
        digest("their_nets:make", Weights(Path("/dev/zero")))
