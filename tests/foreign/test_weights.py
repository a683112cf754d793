"""The tensors of a file that are a network's are found, or it is said which would be."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from robustnas.errors import InputError
from support.their_nets import Thing, get, images, trained


@pytest.mark.parametrize("inside", [None, "state_dict", "model", "model_state_dict", "network", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_are_loaded_from_every_usual_file(here, inside, prefix):
    network = trained()
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    torch.save(state if inside is None else {"epoch": 3, "best": 0.5, inside: state, "optimizer": {}}, "w.pt")
    loaded = get(weights=here / "w.pt")
    assert torch.equal(loaded(images()), network(images()))
    assert not torch.equal(get()(images()), network(images()))


def test_weights_that_are_not_a_number_are_one_network(here):
    state = trained().state_dict()
    next(iter(state.values())).view(-1)[0] = torch.nan
    torch.save({"state_dict": state, "model": dict(state)}, "w.pt")
    with pytest.raises(InputError, match="logits that are not finite"):
        get(weights=here / "w.pt")


def test_the_one_thing_that_fits_is_taken_wherever_it_is(here):
    network = trained()
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
    network = trained()
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
    state = trained().state_dict()
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
    state = trained().state_dict()
    torch.save(
        {f"{head}{name}": value for head in ("model.", "attacker.model.") for name, value in state.items()}, "w.pt"
    )
    assert torch.equal(get(weights=here / "w.pt").state_dict()["head.bias"], state["head.bias"])


@pytest.mark.parametrize("place", [("ema",), ("model",), ("ema", "module"), ("averaged",)])
def test_a_checkpoint_of_several_networks_is_refused_unless_they_are_one(here, place):
    state = trained().state_dict()
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
    outer.add_module("module", trained())
    for prefix in ("", "module."):
        torch.save({f"{prefix}{name}": value for name, value in outer.state_dict().items()}, "w.pt")
        assert torch.equal(get("named_module", here / "w.pt")(images()), outer(images()))


def test_half_precision_files_and_lazy_layers_are_loaded(here):
    torch.save({name: value.half() for name, value in trained().state_dict().items()}, "half.pt")
    assert next(get(weights=here / "half.pt").parameters()).dtype == torch.float32
    whole = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    torch.save(whole.state_dict(), "lazy.pt")
    assert torch.equal(get("lazy", here / "lazy.pt")(images()), whole(images()))


def test_weights_of_another_network_list_what_differs(here):
    state = trained().state_dict()
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
