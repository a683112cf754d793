"""Somebody's own network: loaded as it was saved, or refused with a reason."""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustnas.errors import InputError
from robustnas.foreign import digest, load, pickled
from robustnas.foreign.settings import Weights

SHAPE = (1, 6, 6)

SOURCE = """\
import functools
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, classes=3, width=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width * 36, classes)

    def forward(self, images):
        return self.head(self.features(images).flatten(1))


class Wrong(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images.flatten(1)[:, :3])


def make():
    return Plain()

def parallel():
    return nn.DataParallel(Plain())

class Wrapper(nn.Module):  # what torch.compile makes, which takes seconds to import
    def __init__(self):
        super().__init__()
        self._orig_mod = Plain()

def compiled():
    return Wrapper()

def named_module():
    outer = nn.Sequential()
    outer.add_module("module", Plain())
    return outer

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))

made = Plain()
partial = functools.partial(Plain, 3)
wide = functools.partial(Plain, 1000)
number = 3
nothing = lambda: None
double = lambda: Plain().double()

def needs(classes, width, *rest, depth=3, **more):
    return Plain()

def raises():
    raise ValueError("no file here")

def exits():
    raise SystemExit(2)

def big():
    return nn.Sequential(nn.Upsample(scale_factor=1), nn.Flatten(), nn.Linear(3 * 64 * 64, 3))

def picky():
    class Picky(nn.Module):
        def forward(self, images):
            raise RuntimeError("never")
    return Picky()

pair = lambda: Wrong(lambda x: (x, x))
table = lambda: Wrong(lambda x: {"logits": x, "hidden": x})
named = lambda: Wrong(lambda x: {"hidden": x[:, :2], "logits": x})
nan = lambda: Wrong(lambda x: x / x)
just_class = lambda: Plain
state = lambda: Plain().state_dict()
function = lambda: make
both = lambda: ("transform", Plain())
half = lambda: Wrong(lambda x: nn.functional.linear(x, torch.ones(3, 3, dtype=torch.float64)))

def moved():
    raise AssertionError("Torch not compiled with CUDA enabled")

def moves(images):
    raise RuntimeError("Found no NVIDIA driver on your system")

sent = lambda: Wrong(moves)

class Drop(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, images):
        return getattr(self, self.name)

drop = lambda: Drop("drop_path_prob")
unset = lambda: Drop("scale")
typo = lambda: Wrong(lambda x: x.sofmax(1))

def rgb(size=None):
    layers = [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, 3)] if size else [
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers)

rgb_small = functools.partial(rgb, 6)
rgb_large = functools.partial(rgb, 32)
large = lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
one_by_one = lambda: Wrong(lambda x: x.reshape(1, 3))
complex_ = lambda: Wrong(lambda x: x * 1j)
classes = lambda: Wrong(lambda x: x.argmax(1))
squeezed = lambda: Wrong(lambda x: x.squeeze(0))
writes = lambda: Wrong(lambda x: x.sub_(0.5).div_(0.2))
clips = lambda: nn.Sequential(nn.ReLU(inplace=True), Plain())
alone = lambda: Wrong(lambda x: x.reshape(1, -1)[:, :3])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A working directory with `their_nets.py`, whose modules are forgotten afterwards."""
    (tmp_path / "their_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def get(name: str = "make", weights: Path | None = None, key=None, prefix=None, **changed: Any) -> nn.Module:
    which = None if weights is None else Weights(weights, key, prefix)
    return load(f"their_nets:{name}", which, **({"classes": 3, "shape": SHAPE} | changed))


def images() -> Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def trained(here: Path) -> nn.Module:
    """Their network with weights that no factory gives."""
    with torch.random.fork_rng():
        torch.manual_seed(77)
        network = get()
        for parameter in network.parameters():
            parameter.data.normal_()
        network.train()(images())
    return network.eval()


@pytest.mark.parametrize("name", ["make", "Plain", "made", "partial", "parallel", "compiled"])
def test_functions_classes_and_networks_are_made(here, name):
    before, state = list(sys.path), torch.get_rng_state()
    network = get(name)
    assert network(images()).shape == (5, 3)
    assert not network.training
    assert type(network).__name__ == "Plain"
    assert sys.path == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_a_file_is_the_same_every_time(here):
    assert torch.equal(get()(images()), get()(images()))


@pytest.mark.parametrize("inside", [None, "state_dict", "model", "model_state_dict", "network", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_are_loaded_from_every_usual_file(here, inside, prefix):
    network = trained(here)
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    torch.save(state if inside is None else {"epoch": 3, "best": 0.5, inside: state, "optimizer": {}}, "w.pt")
    loaded = get(weights=here / "w.pt")
    assert torch.equal(loaded(images()), network(images()))
    assert not torch.equal(get()(images()), network(images()))


def test_weights_that_are_not_a_number_are_one_network(here):
    state = trained(here).state_dict()
    next(iter(state.values())).view(-1)[0] = torch.nan
    torch.save({"state_dict": state, "model": dict(state)}, "w.pt")
    with pytest.raises(InputError, match="logits that are not finite"):
        get(weights=here / "w.pt")


def test_the_one_thing_that_fits_is_taken_wherever_it_is(here):
    network = trained(here)
    state = network.state_dict()
    own = argparse.Namespace(lr=0.1, layers=[3, 3], best=np.float64(0.5), when=Thing())
    checkpoint = {
        "args": own,
        "best": np.float64(0.9),
        "model": {"other": torch.zeros(1)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "callbacks": {Thing: {"monitor": Thing(), "history": [torch.zeros(1)]}},
        "weights": {"g_ema": OrderedDict({f"module.model.net.{name}": value for name, value in state.items()})},
    }
    torch.save(checkpoint, "w.pt")
    told: list[str] = []
    assert torch.equal(get(weights=here / "w.pt", tell=told.append)(images()), network(images()))
    assert told == ["9 tensors of w.pt (from weights/g_ema; prefix module.model.net. stripped)"]


@pytest.mark.parametrize("old", [False, True])
def test_a_module_that_was_pickled_whole_is_read_as_data(here, old, monkeypatch):
    network = trained(here)
    torch.save({"ema": nn.DataParallel(network), "updates": 3}, "w.pt", _use_new_zipfile_serialization=not old)
    monkeypatch.delitem(sys.modules, "their_nets")
    assert torch.equal(get(weights=here / "w.pt")(images()), network(images()))


def test_tensors_are_read_in_every_form_they_are_saved_in(here):
    network = trained(here)
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
    ("changed", "told"),
    [
        ({"norm.mean": torch.zeros(3)}, r"behind net\. and others beside them: norm\.mean; .*--weights-prefix net\."),
        ({"net.head.scale": torch.zeros(3)}, "unknown to the network: head.scale"),
        ({"net.features.1.total_ops": torch.zeros(1), "n_averaged": torch.zeros(1)}, None),
        ({"net.features.1.num_batches_tracked": None}, None),
        ({"net.head.bias": None}, "missing in the file: head.bias"),
    ],
)
def test_what_stands_beside_a_network_is_left_aside_only_if_it_says_so(here, changed, told):
    network = trained(here)
    state = {f"net.{name}": value for name, value in network.state_dict().items()} | changed
    torch.save({name: value for name, value in state.items() if value is not None}, "w.pt")
    if told is None:
        assert torch.equal(get(weights=here / "w.pt")(images()), network(images()))
        return
    with pytest.raises(InputError, match=told):
        get(weights=here / "w.pt")
    if "beside" in told:
        assert torch.equal(get(weights=here / "w.pt", prefix="net.")(images()), network(images()))


def test_two_networks_in_one_state_dict_are_told_apart_by_their_prefix(here):
    state = trained(here).state_dict()
    both = {
        f"{who}.{name}": value + shift
        for who, shift in (("student", 0), ("teacher", 1))
        for name, value in state.items()
    }
    torch.save(both, "w.pt")
    with pytest.raises(InputError, match=r"several networks: .*prefix student.*--weights-prefix teacher\. "):
        get(weights=here / "w.pt")
    key = next(iter(state))
    assert torch.equal(get(weights=here / "w.pt", prefix="teacher.").state_dict()[key], both[f"teacher.{key}"])
    with pytest.raises(InputError, match=r"no name that begins with 'tutor\.'; they begin with student, teacher"):
        get(weights=here / "w.pt", prefix="tutor.")
    with pytest.raises(InputError, match="no state dict under 'ema'; it has the file itself"):
        get(weights=here / "w.pt", key="ema")


def test_an_adversarial_trainer_s_wrapper_is_one_network(here):
    state = trained(here).state_dict()
    torch.save(
        {f"{head}{name}": value for head in ("model.", "attacker.model.") for name, value in state.items()}, "w.pt"
    )
    assert torch.equal(get(weights=here / "w.pt").state_dict()["head.bias"], state["head.bias"])


@pytest.mark.parametrize("place", [("ema",), ("model",), ("ema", "module"), ("averaged",)])
def test_a_checkpoint_of_several_networks_is_refused_unless_they_are_one(here, place):
    state = trained(here).state_dict()
    key = next(iter(state))

    def checkpoint(other: dict[str, torch.Tensor]) -> None:
        held: dict[str, object] = {f"module.{name}": value for name, value in other.items()}
        for name in reversed(place):
            held = {name: held}
        adam = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
        torch.save({"state_dict": state, **held, "discriminator": {"a": torch.zeros(1)}, "optimizer": adam}, "w.pt")

    checkpoint(state)
    assert torch.equal(get(weights=here / "w.pt").state_dict()[key], state[key])
    checkpoint({name: value + 1 for name, value in state.items()})
    where = "/".join(place)
    with pytest.raises(InputError, match=f"holds several networks: .*{where}.*said by --weights-key ") as raised:
        get(weights=here / "w.pt")
    assert "weights_only" not in str(raised.value)
    assert torch.equal(get(weights=here / "w.pt", key=where).state_dict()[key], state[key] + 1)
    assert torch.equal(get(weights=here / "w.pt", key="state_dict").state_dict()[key], state[key])


def test_a_network_whose_own_names_begin_like_a_wrapper_is_loaded(here):
    outer = nn.Sequential()
    outer.add_module("module", trained(here))
    for prefix in ("", "module."):
        torch.save({f"{prefix}{name}": value for name, value in outer.state_dict().items()}, "w.pt")
        assert torch.equal(get("named_module", here / "w.pt")(images()), outer(images()))


def test_two_loads_of_a_network_already_made_are_two_networks(here):
    torch.save(trained(here).state_dict(), "w.pt")
    first = get("made")
    before = first(images())
    second = get("made", here / "w.pt")
    assert not torch.equal(second(images()), before)
    assert torch.equal(first(images()), before)


def test_half_precision_files_and_lazy_layers_are_loaded(here):
    torch.save({name: value.half() for name, value in trained(here).state_dict().items()}, "half.pt")
    assert next(get(weights=here / "half.pt").parameters()).dtype == torch.float32
    whole = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    torch.save(whole.state_dict(), "lazy.pt")
    assert torch.equal(get("lazy", here / "lazy.pt")(images()), whole(images()))


def test_normalisation_is_put_before_the_network(here):
    bare, wrapped = get(), get(mean=[0.4], std=[0.2])
    assert torch.allclose(wrapped(images()), bare((images() - 0.4) / 0.2), atol=1e-6)
    torch.save(trained(here).state_dict(), "w.pt")
    wrapped = get(weights=here / "w.pt", mean=[0.4], std=[0.2])
    assert torch.allclose(wrapped(images()), trained(here)((images() - 0.4) / 0.2), atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": [0.5]}, "--mean alone"),
        ({"std": [0.5]}, "--std alone"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, r"--mean has 3 value\(s\); images of 1 channel"),
        ({"mean": [0.5], "std": [0.0]}, "--std 0.0: finite numbers above 0"),
        ({"mean": [float("nan")], "std": [1.0]}, "--mean nan: finite numbers would do"),
    ],
)
def test_normalisation_that_makes_no_sense_is_refused(here, changed, message):
    with pytest.raises(InputError, match=message):
        get(**changed)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("their_nets", "is not module:name"),
        ("nets/their_nets.py:make", "is not module:name"),
        ("their_nets:make()", "is not module:name"),
        ("their_nets:", "is not module:name"),
        ("their_net:make", r"no module is called their_net, neither in .* nor installed; did you mean 'their_nets'\?"),
        ("their_nets.resnet:make", r"no module is called their_nets\.resnet"),
        ("their_nets:mak", r"has no mak; did you mean 'make'\?"),
        ("their_nets:Plain.nothing", r"has no Plain\.nothing"),
        ("broken:make", r"the import of broken raised ZeroDivisionError: .* \(.*broken\.py:2\)"),
        ("syntax:make", r"the import of syntax raised SyntaxError: .* \(.*syntax\.py:1\)"),
        ("lacking:make", r"the import of lacking raised ModuleNotFoundError: No module named 'not_there'.*py:1\)"),
        ("script:make", r"the import of script raised SystemExit: 2"),
        ("their_nets:number", "is a int; a function or class"),
        ("their_nets:just_class", "makes the class Plain; a factory that calls it"),
        ("their_nets:state", r"makes a OrderedDict with features\.0.*; weights are given as a file by --weights"),
        ("their_nets:function", "makes the function make; a factory that calls it"),
        ("their_nets:both", "makes a tuple of 2; a factory that returns its entry 1 alone"),
        (
            "their_nets:moved",
            r"(?s)the factory raised AssertionError: Torch not .*a factory without \.cuda\(\) would do",
        ),
        ("their_nets:nothing", "makes None; a function or class without arg.* or an nn.Module, would do"),
        ("their_nets:needs", r"needs classes, width, and .* returns needs\(classes=\.\.\., width=\.\.\.\) would do"),
        ("their_nets:raises", r"the factory raised ValueError: no file here \(.*their_nets\.py:\d+\)"),
        ("their_nets:exits", "the factory raised SystemExit: 2"),
        ("their_nets:double", r"parameter features\.0\.weight is torch\.float64; .*network\.float\(\) would do"),
        ("their_nets:wide", "gives 1000 logits for an image, and the dataset has 3 classes"),
        (
            "their_nets:pair",
            r"a tuple of 2; a module whose forward returns the logits alone, .*network\(images\)\[0\], if",
        ),
        ("their_nets:table", "answers with a dict with logits, hidden; a module"),
        ("their_nets:named", r"with hidden, logits; .* would do: one that returns network\(images\)\['logits'\]$"),
        ("their_nets:half", r"(?s)raised RuntimeError: .*\n  images and weights are float32"),
        ("their_nets:sent", r"(?s)raised RuntimeError: Found no NVIDIA .*\n  networks are made on the CPU"),
        ("their_nets:drop", r"(?s)no attribute 'drop_path_prob'.*\n  scripts of DARTS set it on the network"),
        ("their_nets:unset", r"(?s)no attribute 'scale'.*\n  if the script that trained the network sets scale on it"),
        ("their_nets:typo", r"object has no attribute 'sofmax'[^\n]*$"),
        (
            "their_nets:rgb",
            r"(?s)\n  it takes 3 channel\(s\), the dataset's images have 1; a .* first repeats the one chan",
        ),
        ("their_nets:rgb_small", r"(?s)\n  it takes 3 channel\(s\), the dataset's images have 1"),
        (
            "their_nets:rgb_large",
            r"(?s)\n  it takes images of 3x32x32; .* and resizes the images, or one trained on them",
        ),
        ("their_nets:large", r"(?s)\n  it takes images of 1x28x28; a factory whose network first resizes the images"),
        ("their_nets:one_by_one", r"(?s)for 2 black image\(s\) .*\n  it takes one image at a time"),
        ("their_nets:nan", "logits that are not finite: nan, nan, nan"),
        ("their_nets:complex_", r"answers with a tensor torch\.complex64 .*; logits of float32 would do"),
        ("their_nets:classes", r"answers with a tensor torch\.int64"),
        ("their_nets:squeezed", r"answers 1 image\(s\) with shape \(3,\); logits of shape \(1, 3\) would do"),
        ("their_nets:writes", r"the network \(Wrong\) writes into the images it is given.* \(x - mean\) / std for"),
        ("their_nets:clips", r"the network \(Sequential\) writes into the images it is given"),
        ("their_nets:alone", r"answers 2 image\(s\) with shape \(1, 3\)"),
        ("their_nets:big", r"(?s)for 1 black image\(s\) of 1x6x6 it raised .* it takes images of 3x64x64; a factory"),
        ("their_nets:picky", r"it raised RuntimeError: never \([^\n]*py:\d+\)$"),
    ],
)
def test_a_factory_that_does_not_do_is_named_with_a_reason(here, factory, message):
    (here / "broken.py").write_text("x = 1\ny = 1 / 0\n")
    (here / "syntax.py").write_text("def make(:\n")
    (here / "lacking.py").write_text("import not_there\n")
    (here / "script.py").write_text("import sys\nsys.exit(2)\n")
    before = list(sys.path)
    with pytest.raises(InputError, match=message) as raised:
        load(factory, None, 3, SHAPE)
    assert factory in str(raised.value)
    assert sys.path == before


def test_weights_of_another_network_list_what_differs(here):
    state = trained(here).state_dict()
    state["head.weight"] = torch.zeros(1000, 144)
    state["extra.weight"] = torch.zeros(1)
    del state["features.0.bias"]
    torch.save(state, "w.pt")
    with pytest.raises(InputError) as raised:
        get(weights=here / "w.pt")
    said = str(raised.value)
    assert "w.pt does not fit the network of their_nets:make (9 tensors in the file, 9 in the network)" in said
    assert "of another shape: head.weight: (1000, 144) in the file, (3, 144) in the network" in said
    assert "missing in the file: features.0.bias" in said
    assert "unknown to the network: extra.weight" in said


def test_names_beyond_the_first_few_are_counted(here):
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(8)}, "w.pt")
    with pytest.raises(InputError, match=r"unknown to the network: layer0\.weight, .*layer4\.weight and 3 more"):
        get(weights=here / "w.pt")


class Thing:
    """Not plain data."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is not a file of torch.save"),
        (b"hello", "w.pt is"),
        (bytes(range(256)), "w.pt is"),
        (Thing(), r"holds an object of test_foreign\.Thing, and no mapping of names to tensors"),
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
    torch.save(trained(here).state_dict(), "w.pt", _use_new_zipfile_serialization=False)
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

    state = trained(here).state_dict()
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
    state = trained(here).state_dict()
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
    torch.save(trained(here).state_dict(), "w.pt")
    rewritten(here / "w.pt", **{"0": b"1234"})
    with pytest.raises(InputError, match="is damaged: a storage of 144 bytes has 4 bytes"):
        get(weights=here / "w.pt")


def test_a_device_is_no_file(here):
    with pytest.raises(InputError, match="is no file"):
        get(weights=Path("/dev/zero"))
    with pytest.raises(InputError, match=r"--weights: /dev/zero is no file"):
        digest("their_nets:make", Weights(Path("/dev/zero")))


def test_a_digest_identifies_factory_source_and_weights(here):
    torch.save(trained(here).state_dict(), "w.pt")
    found = digest("their_nets:make", Weights(here / "w.pt"))
    assert found == {
        "factory": "their_nets:make",
        "weights": hashlib.sha256((here / "w.pt").read_bytes()).hexdigest(),
        "source": hashlib.sha256(SOURCE.encode()).hexdigest(),
    }
    for name in ("Plain", "made", "partial"):
        alone = digest(f"their_nets:{name}", None)
        assert alone["weights"] is None
        assert alone["source"] == found["source"], name


def test_a_digest_follows_a_factory_to_the_file_that_defines_it(here):
    (here / "front.py").write_text("from their_nets import make\n")
    assert digest("front:make", None)["source"] == hashlib.sha256(SOURCE.encode()).hexdigest()


def test_a_digest_of_what_is_not_there_is_refused(here):
    with pytest.raises(InputError, match=r"--weights: .*w\.pt cannot be read: No such file"):
        digest("their_nets:make", Weights(here / "w.pt"))
    with pytest.raises(InputError, match="has no nobody"):
        digest("their_nets:nobody", None)
