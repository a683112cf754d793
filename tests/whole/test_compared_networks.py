"""Recipes in which networks made elsewhere stand beside ours: table, records, an entry of RobustBench."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
import yaml

from robustnas import plan
from robustnas.attack import outcomes
from robustnas.cli import main
from robustnas.errors import InputError
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import load, written
from robustnas.recipe.of_network import Evaluation, recipe
from robustnas.recipe.resolved import resolved
from robustnas.recipe.seeds import Seed
from robustnas.run import checks
from robustnas_plugins.datasets.digits import Digits
from support.command_nets import COMPARED, EVALUATE, MODULE, home, mean, result, stages, table, told
from support.evaluated_digits import weights


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with their module and weights."""
    with home(tmp_path_factory.mktemp("their")) as folder:
        yield folder


@pytest.fixture(scope="module")
def compared(here: Path) -> str:
    """What a recipe that compares two of their networks with ours printed; its files are in `compared`.

    One of them ends in a function for which there is no bound: its certificates fail, alone.
    """
    (here / "r.yaml").write_text(COMPARED)
    return told(["run", "r.yaml", "--out", "compared", "--device", "cpu"], status=1)


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
    return {method: {stage.key for stage in made.stages_of(method, Seed(0))} for method in made.methods}


def test_other_weights_are_another_network_and_the_same_are_not(here: Path, compared: str):
    before, file = keys(), Path("weights.pt")
    told([*EVALUATE[:-1], "changed"])
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
        (["robustbench", "compared", "their", "--architecture", "small"], "no method 'their'; did you mean 'theirs'"),
        (["robustbench", "none", "make", "--architecture", "small"], "none is not a run directory"),
        (["records", "none"], "none is not a run directory"),
        (["robustbench", "compared", "theirs", "--architecture", "x", "--output", "mine"], "mine is there already"),
        (["records", "compared", "--output", "mine"], "mine is there already"),
        (["records", "compared", "--output", "nowhere/mine"], "nowhere/mine: cannot be written: No such file"),
    ],
)
def test_what_cannot_be_told_is_refused(
    compared: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    Path("mine").write_text("mine")
    assert main(arguments) == 2
    printed, err = capsys.readouterr()
    assert printed == ""
    assert message in err
    assert Path("mine").read_text() == "mine"
