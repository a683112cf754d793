"""`robustnas evaluate`, and recipes in which networks made elsewhere stand beside ours: from command to files."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from robustnas import plan
from robustnas.attack import outcomes
from robustnas.cli import main
from robustnas.errors import InputError
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import load, written
from robustnas.recipe.of_network import Evaluation, recipe
from robustnas.recipe.resolved import resolved
from robustnas.run import checks
from robustnas_plugins.datasets.digits import Digits
from support.evaluated_digits import SOURCE, trained, weights

MODULE = "command_nets"

TWO_CLASSES = """

def two():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""

EVALUATE = [
    "evaluate", "--network", f"{MODULE}:make", "--weights", "weights.pt", "--dataset", "digits", "--epsilon", "0.06",
    "--attack", "fgsm", "--attack", "{name: pgd, steps: 5, step_size: 0.02}", "--images", "64",
    "--certify", "crown-ibp", "--device", "cpu", "--out", "run",
]  # fmt: skip

COMPARED = f"""\
dataset: digits
search_space: {{name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 4}}
threat: {{norm: linf, epsilon: 0.02}}
methods:
  theirs: {{network: "{MODULE}:make", weights: weights.pt}}
  likely: {{network: "{MODULE}:likely", weights: soft.pt}}
  ours: {{genotype: DARTS_V2}}
train: {{epochs: 4, batch: 100, lr: 0.1, cutout: 0, auxiliary: 0, drop_path: 0}}
attacks:
  - {{name: autoattack, steps: 5, queries: 20, label: autoattack}}
  - {{name: transfer, steps: 4, step_size: 0.03, label: transfer}}
  - fgsm
evaluate: {{images: 33}}
certify: {{method: ibp, norms: [linf]}}
smoothing: {{sigma: 0.1, selection: 10, samples: 100, alpha: 0.01, radii: [0.1, 0.2], images: 20}}
"""


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Their module is not in the way of other tests."""
    yield
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with their module and weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / f"{MODULE}.py").write_text(SOURCE + TWO_CLASSES)
    torch.save(weights(), folder / "weights.pt")
    torch.save(nn.Sequential(*trained(), nn.Softmax(1)).state_dict(), folder / "soft.pt")
    torch.save(nn.Linear(3, 3).state_dict(), folder / "other.pt")
    with chdir(folder):
        yield folder


def told(arguments: list[str], status: int = 0) -> str:
    """What a command prints that ends with an exit status."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(arguments) == status
    return out.getvalue()


@pytest.fixture(scope="module")
def evaluated(here: Path) -> str:
    """What the evaluation of one network printed; its files are in `run`."""
    return told(EVALUATE)


@pytest.fixture(scope="module")
def compared(here: Path) -> str:
    """What a recipe that compares two of their networks with ours printed; its files are in `compared`.

    One of them ends in a function for which there is no bound: its certificates fail, alone.
    """
    (here / "r.yaml").write_text(COMPARED)
    return told(["run", "r.yaml", "--out", "compared", "--device", "cpu"], status=1)


def table(run: str) -> dict[str, dict[str, Any]]:
    """The rows of a run's table by method."""
    return {row["method"]: row for row in json.loads(Path(run, "table.json").read_text())["rows"]}


def contents(run: str) -> dict[str, bytes]:
    """Every file of a run directory, byte by byte, but for the lock."""
    files = [file for file in Path(run).rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def stages(run: str) -> dict[str, int]:
    """When each stage of a run directory was finished."""
    return {str(file.relative_to(run)): file.stat().st_mtime_ns for file in Path(run).glob("*/*/result.json")}


def result(run: str, kind: str, method: str) -> dict[str, Any]:
    """What the one stage of a kind and method wrote."""
    (file,) = Path(run).glob(f"{kind}/{method}-seed0-*/result.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def mean(figure: dict[str, Any]) -> float:
    return float(figure["mean"])


# --- evaluate ---------------------------------------------------------------------------------------------------------


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


# --- a recipe with networks made elsewhere ----------------------------------------------------------------------------


def test_their_networks_stand_beside_ours(compared: str):
    rows = table("compared")
    assert list(rows) == ["theirs", "likely", "ours"]
    for row in rows.values():
        assert 0 < mean(row["robust"]) <= mean(row["clean"])
    for method in ("theirs", "ours"):
        assert 0 <= mean(rows[method]["certified"]) <= mean(rows[method]["robust"])
        assert rows[method]["certified_radius"]["linf"] is not None
    assert mean(rows["theirs"]["certified"]) > 0
    assert rows["likely"]["certified"] is None
    assert len(stages("compared")) == 21
    assert "made elsewhere: theirs (" in compared
    assert re.search(
        r"weights taken: theirs \d+ tensors of weights.pt, likely \d+ tensors of soft.pt", re.sub(r"\s+", " ", compared)
    )
    assert "training regime: standard" in compared


def test_transfer_is_a_matrix_of_sources_and_methods(compared: str):
    rows = table("compared")
    for method, row in rows.items():
        (found,) = row["variants"]["transfer"]
        assert set(found) == {f"from {other}" for other in rows if other != method}
        (folder,) = Path("compared").glob(f"attack/{method}-seed0-transfer-*")
        measured = outcomes.load(folder)
        assert [one.variant for one in measured] == sorted(found)
        for one in measured:
            # an entry for every image, whatever other attacks did
            assert np.array_equal(one.tried > 0, one.correct)
            assert found[one.variant] == pytest.approx((one.correct & ~one.success).mean())
        assert min(found.values()) >= mean(row["attacks"]["transfer"]) >= mean(row["robust"])
    written = Path("compared/table.md").read_text()
    assert "transfer: percent right under each" in written
    assert "| | theirs | likely | ours |" in written
    (line,) = [line for line in written.splitlines() if line.startswith("| from theirs |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "-"
    assert cells[3] == f"{100 * rows['ours']['variants']['transfer'][0]['from theirs']:.2f}"


def test_transfer_needs_a_second_method(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*replaced(attack="{name: transfer, steps: 2, step_size: 0.03}")[:-1], "alone"]) == 2
    assert "transfer-2 shows each network images that were made on the others'" in capsys.readouterr().err


def test_probabilities_mark_the_row_and_no_other(compared: str):
    rows = table("compared")
    assert "probabilities-for-logits" in [flag["name"] for flag in rows["likely"]["flags"]]
    assert "probabilities-for-logits" not in [flag["name"] for flag in rows["theirs"]["flags"]]
    assert rows["theirs"]["flags"] == []
    assert "| likely (!) |" in Path("compared/table.md").read_text()
    assert "| theirs |" in Path("compared/table.md").read_text()
    assert re.search(
        r"\(!\) probabilities-for-logits: the outputs for all \d+ images lie in \[0, 1\] and sum to 1.* likely \(0\)",
        compared,
    )


def test_the_smoothed_classifier_has_columns_of_its_own(compared: str):
    for method, row in table("compared").items():
        found = result("compared", "smooth", method)
        assert found["confidence"] == 0.99
        assert len(found["radius"]) == len(found["index"]) == 20
        assert found["index"] == result("compared", "clean", method)["index"][:20]
        for radius in (0.1, 0.2):
            share = sum(one > radius for one in found["radius"]) / 20
            assert mean(row["smoothed"][f"{radius:g}"]) == pytest.approx(share)
        assert mean(row["smoothed_radius"]) == pytest.approx(sum(found["radius"]) / 20)
    assert mean(table("compared")["theirs"]["smoothed"]["0.1"]) > 0
    for title in ("smoothed at 0.1 %", "smoothed at 0.2 %", "smoothed radius l2"):
        assert title in compared
    assert "of the first 20 of them, each with confidence 0.99 (100 samples)" in compared


def test_the_same_balanced_images_are_evaluated_for_every_method(compared: str):
    indices = [result("compared", "clean", method)["index"] for method in table("compared")]
    assert indices[0] == indices[1] == indices[2]
    assert len(set(indices[0])) == 33
    labels = Digits().split("test").labels[torch.tensor(indices[0])]
    assert result("compared", "clean", "theirs")["labels"] == labels.tolist()
    counts = Counter(labels.tolist())
    assert len(counts) == 10
    assert sum(counts.values()) == 33
    assert set(counts.values()) == {3, 4}
    # so are those that are smoothed, which are the first of them
    assert set(Counter(labels[:20].tolist()).values()) == {2}
    assert "33 test images (drawn with equal classes, seed 0)" in compared


def test_the_first_images_where_they_are_asked_for(here: Path):
    told([*EVALUATE[:-1], "first", "--attack", "fgsm", "--set", "evaluate.subset=first", "--set", "attacks=[fgsm]"])
    assert result("first", "clean", "make")["index"] == list(range(64))
    assert "the first 64" in Path("first/table.md").read_text()


def keys() -> dict[str, set[str]]:
    """The keys of each method's stages, as the recipe stands."""
    made = plan.make(load("r.yaml"))
    return {method: {stage.key for stage in made.stages_of(method, 0)} for method in made.methods}


def test_other_weights_are_another_network_and_the_same_are_not(here: Path, compared: str):
    before, file = keys(), Path("weights.pt")
    kept = file.read_bytes()
    file.unlink()
    file.write_bytes(kept)
    assert keys() == before
    state = {name: tensor + 0.01 for name, tensor in weights().items()}
    torch.save(state, file)
    try:
        after = keys()
        assert before["theirs"].isdisjoint(after["theirs"])
        # images of transfer are made on the others' networks; what comes after it is spared others
        for other in ("likely", "ours"):
            assert before[other] != after[other]
            assert len(before[other] & after[other]) >= len(before[other]) - 2
        shutil.copytree("run", "changed")
        finished = stages("changed")
        told([*EVALUATE[:-1], "changed"])
        assert len(stages("changed")) == 2 * len(finished)
        assert finished.items() <= stages("changed").items()
    finally:
        file.write_bytes(kept)
    assert keys() == before


def test_which_weights_are_meant_is_said_alike_in_both_places(here: Path, capsys: pytest.CaptureFixture[str]):
    shifted = {f"net.{name}": tensor + 1 for name, tensor in weights().items()}
    torch.save({"model": weights(), "ema": shifted}, "two.pt")
    asked = Evaluation(network=f"{MODULE}:make", weights=Path("two.pt"), dataset="digits")
    refused = written(recipe(asked), Path("r.yaml"), "evaluate")
    with pytest.raises(InputError, match=r"several networks: model, ema \(prefix net\.\); .* --weights-key "):
        checks.check(plan.make(refused), refused, Faults(), lambda: None)
    chosen = attrs.evolve(asked, weights_key="ema", weights_prefix="net.")
    found = written(recipe(chosen), Path("r.yaml"), "evaluate")
    Path("again.yaml").write_text(yaml.safe_dump(resolved(found)))
    assert main(["plan", "again.yaml"]) == 0
    assert "tensors of two.pt (from ema; prefix net. stripped)" in capsys.readouterr().out
    by_key = [{stage.key for stage in plan.make(one).stages} for one in (found, load("again.yaml"))]
    assert by_key[0] == by_key[1]


# --- records and robustbench ------------------------------------------------------------------------------------------


def test_records_tell_of_each_image_what_the_table_sums_up(compared: str):
    lines = list(csv.DictReader(io.StringIO(told(["records", "compared"]))))
    rows = table("compared")
    assert {line["attack"] for line in lines} == {"autoattack", "transfer", "fgsm"}
    # transfer has two variants
    assert len(lines) == len(rows) * 33 * 4
    for method, row in rows.items():
        own = [line for line in lines if line["method"] == method]
        right = {line["index"] for line in own if line["label"] == line["clean"]}
        fooled = {line["index"] for line in own if line["success"] == "1"}
        assert fooled <= right
        assert len(right) / 33 == pytest.approx(mean(row["clean"]))
        assert len(right - fooled) / 33 == pytest.approx(mean(row["robust"]))
        for line in own:
            if line["success"] == "1":
                assert line["prediction"] != line["label"]
                assert float(line["distance"]) <= 0.02 + 1e-6
                assert float(line["size_linf"]) <= 0.02 + 1e-6
                assert float(line["size_linf"]) <= float(line["size_l2"]) <= float(line["size_l1"])
        broken = Counter(line["by"] for line in own if line["attack"] == "autoattack" and line["success"] == "1")
        assert broken == {part: count for part, count in row["parts"]["autoattack"][0].items() if count}
    assert any(line["success"] == "1" for line in lines)
    assert told(["records", "compared", "--output", "records.csv"]) == "records.csv\n"
    assert list(csv.DictReader(io.StringIO(Path("records.csv").read_text()))) == lines


def test_an_entry_of_robustbench_has_the_figures_of_the_table(compared: str):
    for method, row in table("compared").items():
        entry = json.loads(told(["robustbench", "compared", method, "--architecture", "small", "--title", "A Paper"]))
        assert entry["name"] == "A Paper"
        assert entry["architecture"] == "small"
        assert entry["dataset"] == "digits"
        assert entry["eps"] == "0.02"
        assert entry["clean_acc"] == f"{100 * mean(row['clean']):.2f}"
        assert entry["autoattack_acc"] == f"{100 * mean(row['attacks']['autoattack']):.2f}"
        assert entry["unreliable"] is True, "AutoAttack of 5 steps is none"
        assert "steps 5" in entry["footnote"]
        assert "queries 20" in entry["footnote"]
        assert "Worst case over fgsm and AutoAttack." in entry["footnote"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["robustbench", "run", "make", "--architecture", "small"], "make: no result of autoattack at linf 0.06"),
        (["robustbench", "compared", "their", "--architecture", "small"], "no method 'their'; did you mean 'theirs'"),
        (["robustbench", "none", "make", "--architecture", "small"], "none is not a run directory"),
        (["records", "none"], "none is not a run directory"),
        (["robustbench", "compared", "theirs", "--architecture", "x", "--output", "mine"], "mine is there already"),
        (["records", "compared", "--output", "mine"], "mine is there already"),
        (["records", "compared", "--output", "nowhere/mine"], "nowhere/mine: cannot be written: No such file"),
    ],
)
def test_what_cannot_be_told_is_refused(
    evaluated: str, compared: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    Path("mine").write_text("mine")
    assert main(arguments) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert message in err
    assert Path("mine").read_text() == "mine"
