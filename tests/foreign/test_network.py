"""Somebody's own network is made, tried and identified, or refused with a reason."""

from __future__ import annotations

import hashlib
import sys

import pytest
import torch

from robustnas.errors import InputError
from robustnas.foreign import digest, load
from robustnas.foreign.settings import Weights
from support.their_nets import SHAPE, SOURCE, get, images, trained


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


def test_two_loads_of_a_network_already_made_are_two_networks(here):
    torch.save(trained().state_dict(), "w.pt")
    first = get("made")
    before = first(images())
    second = get("made", here / "w.pt")
    assert not torch.equal(second(images()), before)
    assert torch.equal(first(images()), before)


def test_normalisation_is_put_before_the_network(here):
    bare, wrapped = get(), get(mean=[0.4], std=[0.2])
    assert torch.allclose(wrapped(images()), bare((images() - 0.4) / 0.2), atol=1e-6)
    torch.save(trained().state_dict(), "w.pt")
    wrapped = get(weights=here / "w.pt", mean=[0.4], std=[0.2])
    assert torch.allclose(wrapped(images()), trained()((images() - 0.4) / 0.2), atol=1e-4)


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


def test_a_digest_identifies_factory_source_and_weights(here):
    torch.save(trained().state_dict(), "w.pt")
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
