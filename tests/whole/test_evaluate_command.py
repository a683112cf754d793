"""`robustnas evaluate`: from command to files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from robustnas.cli import main
from robustnas_plugins.datasets.digits import Digits
from support.command_nets import EVALUATE, MODULE, contents, home, mean, result, stages, table, told
from support.evaluated_digits import trained


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with their module and weights."""
    with home(tmp_path_factory.mktemp("their")) as folder:
        yield folder


@pytest.fixture(scope="module")
def evaluated(here: Path) -> str:
    """What the evaluation of one network printed; its files are in `run`."""
    return told(EVALUATE)


def test_the_network_is_attacked_certified_and_shown(evaluated: str):
    for shown in ("threat: linf", "clean %", "after pgd-5 %", "robust %", "certified %", "made elsewhere: make"):
        assert shown in evaluated
    row = table("run")["make"]
    assert {"table.md", "table.csv", "table.json", "evaluate.yaml", "recipe.yaml"} <= contents("run").keys()
    index = torch.tensor(result("run", "clean", "make")["index"])
    test = Digits().split("test")
    right = trained()(test.take(index)).argmax(1) == test.labels[index]
    assert mean(row["clean"]) == pytest.approx(float(right.double().mean()))
    assert 0 < mean(row["certified"]) <= mean(row["robust"]) <= mean(row["attacks"]["fgsm"]) < mean(row["clean"])
    assert mean(row["parameters"]) == sum(parameter.numel() for parameter in trained().parameters())
    assert row["flags"] == []


def test_the_same_call_again_does_nothing(evaluated: str):
    before, files = stages("run"), contents("run")
    assert len(before) == 5
    assert told(EVALUATE).split("\n", 1)[1:] == evaluated.split("\n", 1)[1:]
    assert stages("run") == before
    assert contents("run") == files


def test_what_it_wrote_runs_as_it_stands_and_finds_everything_done(evaluated: str):
    before = stages("run")
    told(["run", "run/evaluate.yaml", "--out", "run", "--device", "cpu"])
    assert stages("run") == before


def test_overrides_are_part_of_what_it_wrote(here: Path, evaluated: str):
    shutil.copytree("run", "overridden")
    told([*EVALUATE[:-1], "overridden", "--set", "evaluate.epsilons=[0.01]", "--set", "attacks.1.steps=6"])
    written = yaml.safe_load(Path("overridden/evaluate.yaml").read_text())
    assert written["evaluate"]["epsilons"] == [0.01]
    assert written["attacks"][1]["steps"] == 6
    before = stages("overridden")
    assert len(before) > len(stages("run"))
    told(["run", "overridden/evaluate.yaml", "--out", "overridden", "--device", "cpu"])
    assert stages("overridden") == before
    assert list(table("overridden")["make"]["robust_at"]) == ["0.01"]


def replaced(**options: str) -> list[str]:
    """The arguments with some options of other values, or added."""
    found = list(EVALUATE)
    for name, value in options.items():
        option = f"--{name}"
        if option in found:
            found[found.index(option) + 1] = value
        else:
            found += [option, value]
    return found


MISTAKES = {
    "no such module": ({"network": "comand_nets:make"}, "no module is called comand_nets.*did you mean 'command_nets'"),
    "no such factory": ({"network": f"{MODULE}:mak"}, "has no mak; did you mean 'make'"),
    "another number of classes": ({"network": f"{MODULE}:two", "name": "make"}, "does not fit the network"),
    "weights of another network": ({"weights": "other.pt"}, "other.pt does not fit the network"),
    "no such weights": ({"weights": "none.pt"}, "none.pt cannot be read: No such file"),
    "an attack that is no YAML": ({"attack": "{name: pgd"}, "--attack '{name: pgd' is not YAML of plain values"),
    "an attack without its options": ({"attack": "pgd"}, "robustnas evaluate: attacks.0.steps: missing"),
    "an attack that is not there": ({"attack": "fgms"}, "attacks.0: .*'fgms'.*did you mean 'fgsm'"),
    "a dataset that is not there": ({"dataset": "digit"}, "robustnas evaluate: dataset: .*'digit'.*'digits'"),
    "a dataset that is no YAML": ({"dataset": "["}, r"--dataset '\[' is not YAML"),
    "more images than there are": ({"images": "99999"}, "99999 test images .* there are 597; leave evaluate"),
    "more images to certify": ({"set": "certify.images=99999"}, "99999 test images .*; leave certify.images out"),
    "a radius that is no number": ({"epsilon": "much"}, "--epsilon: .*'much'"),
    "a radius that is not finite": ({"epsilon": "nan"}, "epsilon"),
    "a radius above 1": ({"epsilon": "8"}, "threat.epsilon"),
    "another norm": ({"norm": "l3"}, "--norm l3: linf, l2, l1 would do"),
    "a bound that is not there": ({"certify": "crwn"}, "certify.method: .*'crwn'"),
    "a name that is no folder": ({"name": "a b"}, "--name 'a b': letters"),
    "a key that is not there": ({"set": "evaluate.image=3"}, "--set evaluate.image=3: evaluate.image"),
    "another experiment": ({"epsilon": "0.07"}, "holds another experiment"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_message_and_destroys_nothing(evaluated: str, what: str, capsys: pytest.CaptureFixture[str]):
    changed, message = MISTAKES[what]
    before, files = stages("run"), contents("run")
    assert main(replaced(**changed)) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert err
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert stages("run") == before
    assert contents("run") == files


def test_a_mistake_in_a_new_directory_leaves_nothing_but_an_empty_one(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*replaced(weights="other.pt")[:-1], "new"]) == 2
    capsys.readouterr()
    assert contents("new") == {}


def test_without_autoattack_there_is_no_entry_of_robustbench(evaluated: str, capsys: pytest.CaptureFixture[str]):
    assert main(["robustbench", "run", "make", "--architecture", "small"]) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert "make: no result of autoattack at linf 0.06" in err


def test_transfer_needs_a_second_method(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*replaced(attack="{name: transfer, steps: 2, step_size: 0.03}")[:-1], "alone"]) == 2
    assert "transfer-2 shows each network images that were made on the others'" in capsys.readouterr().err
