"""The laboratory: planted predictors are found, noise is told, and a run's scores meet its outcomes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from robustnas.cli import main
from robustnas.errors import RecipeError
from robustnas.laboratory import figure, forms
from robustnas.laboratory.ranking import Architecture, Ranking
from robustnas.recipe.load import load
from robustnas.recipe.resolved import resolved
from robustnas.run.directory import RunDirectory
from robustnas_plugins.search_spaces.nas_bench_201 import NasBench201
from support.fake_package import install
from support.tiny_plan import RECIPE, plan

COUNT, TRAININGS = 40, 3


@pytest.fixture(scope="module")
def planted() -> dict:
    """A ranking whose truth is known: one outcome of signal, one of noise alone, and a metric that sees the signal."""
    draws = np.random.default_rng(0)
    truth = draws.normal(size=COUNT)

    def of_training(signal: float) -> list[list[float] | None]:
        return [list(signal * value + draws.normal(size=TRAININGS)) for value in truth]

    outcomes = {"signal": of_training(3.0), "noise": of_training(0.0), "some": [*of_training(3.0)[:-1], None]}
    predictors = {
        ("oracle", "untrained"): [[float(value)] for value in truth],
        ("opposite", "trained"): [[-float(value)] for value in truth],
        ("coin", "untrained"): [[float(value)] for value in draws.normal(size=COUNT)],
        ("constant", "trained"): [[1.0]] * COUNT,
    }
    architectures = [Architecture("random", seed) for seed in range(COUNT)]
    seconds = dict.fromkeys(predictors, 0.5)
    return Ranking(architectures, outcomes, predictors, seconds, ["coin on the untrained network failed: x"]).data()


def test_a_setting_of_signal_can_rank_and_one_of_noise_cannot(planted: dict):
    outcomes = {one["name"]: one for one in planted["outcomes"]}
    assert [outcomes[name]["can_rank"] for name in ("signal", "noise", "some")] == [True, False, True]
    # the variance between is 9 and within 1: a share of .9 for one training, of 27 / 28 for the mean of three
    assert outcomes["signal"]["share"]["low"] < 0.9 < outcomes["signal"]["share"]["high"]
    assert outcomes["signal"]["share_of_the_mean"]["value"] == pytest.approx(27 / 28, abs=0.03)
    assert outcomes["signal"]["highest"]["value"] > 0.95 > outcomes["noise"]["highest"]["value"]
    assert "cannot rank, as its share is below 0.5: noise" in forms.notes(planted)


def test_what_a_metric_knows_of_an_outcome_is_found(planted: dict):
    found = {one["metric"]: one["correlations"] for one in planted["predictors"]}
    assert found["oracle"]["signal"]["spearman"]["low"] > 0.8
    assert found["opposite"]["signal"]["kendall"]["high"] < -0.6
    assert found["coin"]["signal"]["spearman"]["low"] < 0 < found["coin"]["signal"]["spearman"]["high"]
    assert found["constant"]["signal"] == {"spearman": None, "kendall": None, "architectures": COUNT}
    assert found["oracle"]["some"]["architectures"] == COUNT - 1
    ceiling = next(one for one in planted["outcomes"] if one["name"] == "signal")["highest"]
    assert found["oracle"]["signal"]["spearman"]["value"] <= ceiling["value"] + 0.05


def test_every_form_holds_the_ranking(planted: dict):
    text = forms.markdown(planted)
    assert text.count("oracle (untrained)") == 2
    assert "coin on the untrained network failed: x" in text
    drawn = ElementTree.fromstring(figure.svg(planted))
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    assert len(circles) == 4 * (COUNT + COUNT + COUNT - 1)
    assert "oracle (untrained) and signal +" in drawn.findtext("{*}desc")
    assert json.loads(json.dumps(planted)) == planted


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("  jac: {metric: jacobian}\n", ""))
    return tmp_path / "r.yaml"


def test_the_section_is_read_and_written(recipe: Path):
    assert load(recipe).recipe.rank is None
    every = load(recipe, ["rank={}"]).recipe.rank
    assert every is not None
    assert {"certified-bound", "certified-radius", "jacobian"} <= every.metrics.keys()
    assert "adversarial-training" not in every.metrics
    text = "rank={metrics: [jacobian, {name: jacobian, rows: 1, label: one row}], networks: [trained], images: 9}"
    loaded = load(recipe, [text])
    assert loaded.recipe.rank is not None
    assert list(loaded.recipe.rank.metrics) == ["jacobian", "one row"]
    assert resolved(loaded)["rank"]["networks"] == ["trained"]
    assert [one["label"] for one in resolved(loaded)["rank"]["metrics"]] == ["jacobian", "one row"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rank=3", "rank: found 3; a mapping would do, {} for every metric"),
        ("rank={metrics: []}", "rank.metrics: found an empty list; a list of metrics would do"),
        ("rank={metrics: [adversarial-training]}", "which has no score; a metric with a score would do"),
        ("rank={metrics: [jacobian, jacobian]}", "found 'jacobian' twice; label: ... would tell the two apart"),
        ("rank={networks: []}", "rank.networks: found []; some of untrained, inherited and trained"),
        ("rank={networks: [fresh]}", "rank.networks.0: found 'fresh'"),
        ("rank={image: 3}", "unknown key of rank; did you mean 'images'?"),
        ("methods.darts={rank: {}}", "rank is shared by all methods"),
    ],
    ids=lambda text: text[:40],
)
def test_what_cannot_be_ranked_is_told_in_its_place(recipe: Path, override: str, told: str):
    with pytest.raises(RecipeError) as caught:
        load(recipe, [override])
    assert told in "\n".join(caught.value.faults)


def test_too_few_architectures_are_refused_before_anything_runs(recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["rank", str(recipe), "--out", str(recipe.parent / "run")]) == 2
    told = capsys.readouterr().err
    assert "seeds: found 2 architectures, and a rank correlation needs" in told
    assert not (recipe.parent / "run" / "train").exists()


def test_networks_made_elsewhere_are_no_architectures(recipe: Path, capsys: pytest.CaptureFixture[str]):
    methods = "methods={darts: {}, theirs: {network: 'their_nets:make'}}"
    assert main(["rank", str(recipe), "--set", methods, "--out", str(recipe.parent / "run")]) == 2
    assert "seeds: found 2 architectures" in capsys.readouterr().err


def test_what_determines_a_score_is_in_its_key(recipe: Path):
    """An untrained network has the batch norm statistics of the images that are scored at once."""

    def keys(rank: str) -> set[str]:
        stages = plan(recipe, f"rank={{metrics: [jacobian]{rank}}}").stages
        return {stage.key for stage in stages if stage.kind == "score"}

    assert keys("") == keys(", batch: 64")
    for other in (", batch: 8", ", images: 9", ", networks: [trained]"):
        assert not keys("") & keys(other), other


def test_all_methods_of_a_space_inherit_from_one_supernet(recipe: Path):
    methods = "methods={darts: {}, jac: {metric: jacobian, search: {gamma: 1, epochs: 9}}}"

    def keys(search: str) -> set[str]:
        stages = plan(recipe, methods, "rank={metrics: [jacobian], networks: [inherited]}", search).stages
        return {stage.key for stage in stages if stage.kind == "supernet"}

    assert len(keys("search={epochs: 2}")) == 1
    assert keys("search={epochs: 2}") == keys("search={epochs: 2, gamma: 0, alpha_lr: 1e-2, order: unrolled}")
    assert not keys("search={epochs: 2}") & keys("search={epochs: 2, w_lr: 0.1}")


def test_a_ranking_fits_a_narrow_terminal(
    planted: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ranking = SimpleNamespace(read=lambda *_: SimpleNamespace(data=lambda: planted))
    monkeypatch.setattr(forms, "ranking", ranking)
    monkeypatch.setattr(forms, "Console", partial(Console, force_terminal=True, width=80, no_color=True))

    @contextmanager
    def alone() -> Iterator[None]:
        yield
        assert (tmp_path / "rank.svg").exists()
        assert capsys.readouterr().out == "", "a slow reader keeps nobody from writing"

    forms.write(RunDirectory(tmp_path), None, alone)  # type: ignore[arg-type]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert sum("oracle (untrained)" in line for line in lines) >= 2


def test_a_metric_with_an_option_that_must_be_given_is_ranked_where_it_is_named(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    theirs = THEIRS.replace("    def score", "    width: int\n\n    def score")
    install(recipe.parent, "their-metric", {"robustnas.metrics": {"wide": "their_metric:Fails"}}, their_metric=theirs)
    monkeypatch.syspath_prepend(str(recipe.parent))
    every = load(recipe, ["rank={}"]).recipe.rank
    named = load(recipe, ["rank={metrics: [{name: wide, width: 3}]}"]).recipe.rank
    assert every is not None
    assert named is not None
    assert "wide" not in every.metrics
    assert list(named.metrics) == ["wide"]


THEIRS = """
import torch
from attrs import frozen

@frozen
class Fails:
    def score(self, network, images, labels, threat):
        norms = [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d) and one.affine]
        if bool((norms[0].weight == 1).all()):  # it was never trained
            raise ValueError("no such layer")
        return -network(images).square().sum(dim=1)
"""


@pytest.mark.slow
def test_a_run_is_ranked_and_a_metric_that_fails_is_told(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    install(recipe.parent, "their-metric", {"robustnas.metrics": {"fails": "their_metric:Fails"}}, their_metric=THEIRS)
    monkeypatch.syspath_prepend(str(recipe.parent))
    run = recipe.parent / "run"
    command = ["rank", str(recipe), "--out", str(run), "--quiet"]
    for override in (
        "methods={random: {strategy: random}, again: {strategy: random}}",
        "seeds={search: [0, 1, 2], train: [0, 1]}",
        "dataset={name: digits, train_images: 30}",
        "search_space={name: nas-bench-201, cells: 1, channels: 2, network_cells: 1, network_channels: 2}",
        "train={epochs: 1, batch: 15, cutout: 0, auxiliary: 0, drop_path: 0}",
        "attacks=[fgsm]",
        "evaluate={images: 10}",
        "certify=false",
        "rank={metrics: [jacobian, fails], images: 10}",
    ):
        command += ["--set", override]
    assert main(command) == 0
    data = json.loads((run / "rank.json").read_text())
    assert len(data["architectures"]) == 3
    assert {one["name"] for one in data["outcomes"]} == {"clean", "robust"}
    assert all(len(values) == 2 for one in data["outcomes"] for values in one["values"])
    by_name = {(one["metric"], one["network"]): one for one in data["predictors"]}
    assert all(value <= 0 for values in by_name["jacobian", "trained"]["values"] for value in values)
    assert ("fails", "untrained") not in by_name
    assert all(len(values) == 2 for values in by_name["fails", "trained"]["values"])
    failed, twice = data["failures"]
    assert failed.startswith("fails on the untrained network failed, and the rest is ranked: ValueError: no such layer")
    assert twice.endswith("counted once: again 0, again 1, again 2")
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/*/result.json")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/*/result.json")} == before
    assert len(list(run.glob("score/*/result.json"))) == 6


CELLS = ("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", "#3", "#14", "#159", "#2653", "#5")


@pytest.fixture
def table(recipe: Path) -> Path:
    """A published table of six architectures of nas-bench-201, and a recipe that ranks these."""
    rows = {
        str(place): {"val_pgd_8.0_acc": {"111": place / 20000, "777": place / 20000 + 0.01}, "clean": {}}
        for place in range(15625)
        if place != 5
    }
    file = recipe.parent / "table.json"
    file.write_text(json.dumps({"cifar10": rows}))
    methods = {f"cell-{number}": {"genotype": cell} for number, cell in enumerate(CELLS)}
    space = "search_space: {name: nas-bench-201, cells: 1, channels: 2, network_cells: 1, network_channels: 2}"
    head = RECIPE.partition("methods:")[0].replace(RECIPE.splitlines()[2], space).replace("seeds: [0, 1]", "seeds: [0]")
    published = "published: {file: table.json, dataset: cifar10, outcomes: [val_pgd_8.0_acc]}"
    rank = f"rank: {{metrics: [{{name: jacobian, rows: 1}}], images: 10, {published}}}"
    recipe.write_text(f"{head}methods: {json.dumps(methods)}\n{rank}\n")
    return recipe


def test_a_published_table_stands_in_for_training(table: Path):
    run = table.parent / "run"
    assert main(["rank", str(table), "--out", str(run), "--quiet"]) == 0
    data = json.loads((run / "rank.json").read_text())
    (outcome,) = data["outcomes"]
    assert outcome["name"] == "val_pgd_8.0_acc"
    assert outcome["values"][1] == [3 / 20000, 3 / 20000 + 0.01]
    assert outcome["values"][-1] is None
    assert data["failures"] == ["not in the published table, and left out: cell-5 0"]
    assert {path.parent.name for path in run.glob("*/*")} == {"score"}


@pytest.fixture
def folder(table: Path) -> Path:
    """The same six architectures in a folder as Jung et al. published theirs, at two radii."""
    cells = [cell["cell"] for cell in NasBench201().genotypes()]
    ids = {str(place): {"nb201-string": cells[place]} for place in (3, 5, 14, 159, 2653, cells.index(CELLS[0]))}
    folder = table.parent / "data"
    (folder / "cifar10").mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"ids": ids, "epsilons": {"pgd@Linf": [0.1, 1.0]}}))
    clean = {number: int(number) / 20000 for number in ids if number != "5"}
    for key, values in (("clean", clean), ("pgd@Linf", {number: [1, value] for number, value in clean.items()})):
        text = json.dumps({"cifar10": {key: {"accuracy": values}}})
        (folder / "cifar10" / f"{key}_accuracy.json").write_text(text)
    published = "published: {file: data, dataset: cifar10, outcomes: [clean, pgd@Linf 1.0]}"
    table.write_text(re.sub(r"published: {.*?}", published, table.read_text()))
    return folder


def test_a_published_folder_stands_in_for_training(folder: Path):
    run = folder.parent / "run"
    assert main(["rank", str(next(folder.parent.glob("*.yaml"))), "--out", str(run), "--quiet"]) == 0
    data = json.loads((run / "rank.json").read_text())
    assert [outcome["name"] for outcome in data["outcomes"]] == ["clean", "pgd@Linf 1.0"]
    for outcome in data["outcomes"]:
        assert outcome["values"][1] == [3 / 20000]
        assert outcome["values"][-1] is None
    assert data["failures"] == ["not in the published table, and left out: cell-5 0"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dataset=cifar100", "has no dataset 'cifar100'; did you mean 'cifar10'?; it has cifar10"),
        ("outcomes=[pgd@Linf]", "has no outcome 'pgd@Linf'; 'pgd@Linf 0.1', 'pgd@Linf 1.0' would do"),
        ("outcomes=[clean 1.0]", "'clean' has no radii; 'clean' alone would do"),
        ("outcomes=[clear]", "has no outcome 'clear'; did you mean 'clean'?; it has clean, pgd@Linf"),
        ("other", "cell 3 is '|other~0|', which the search space has not in that place"),
        ("short", "cell 3 does not have a share for each radius of meta.json"),
    ],
    ids=lambda text: text[:20],
)
def test_a_published_folder_that_will_not_do_is_refused(
    folder: Path, override: str, told: str, capsys: pytest.CaptureFixture[str]
):
    recipe = next(folder.parent.glob("*.yaml"))
    if override == "other":
        meta = json.loads((folder / "meta.json").read_text())
        meta["ids"]["3"]["nb201-string"] = "|other~0|"
        (folder / "meta.json").write_text(json.dumps(meta))
    elif override == "short":
        short = {"cifar10": {"pgd@Linf": {"accuracy": {"3": [0.5]}}}}
        (folder / "cifar10/pgd@Linf_accuracy.json").write_text(json.dumps(short))
    command = ["rank", str(recipe), "--out", str(folder.parent / "run")]
    if "=" in override:
        command += ["--set", f"rank.published.{override}"]
    assert main(command) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"val_pgd_8.0_acc": {"111": float("nan")}}, "architecture 14 is not in the form expected, a number for each"),
        ({"val_pgd_8.0_acc": [1]}, "architecture 14 is not in the form expected, a number for each seed"),
        ({}, None),
    ],
)
def test_a_row_that_is_not_in_the_form_is_told_and_one_without_the_outcome_left_out(
    table: Path, row: dict, told: str | None, capsys: pytest.CaptureFixture[str]
):
    file = table.parent / "table.json"
    rows = json.loads(file.read_text())
    rows["cifar10"]["14"] = row
    file.write_text(json.dumps(rows))
    run = table.parent / "run"
    assert main(["rank", str(table), "--out", str(run), "--quiet"]) == (0 if told is None else 2)
    assert (told or "") in capsys.readouterr().err
    if told is None:
        lines = json.loads((run / "rank.json").read_text())["failures"]
        assert lines == ["not in the published table, and left out: cell-2 0, cell-5 0"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rank.published.dataset=cifar100", "has no dataset 'cifar100'; did you mean 'cifar10'?"),
        ("rank.published.outcomes=[val_pgd]", "has no outcome 'val_pgd'"),
        ("rank.published.file=nowhere.json", "nowhere.json"),
        ("rank.networks=[trained]", "found beside networks: [trained]"),
        ("search_space={name: pc-darts}\nmethods={darts: {strategy: random}}\nseeds=[0, 1, 2, 3, 4]", "does not list"),
    ],
    ids=lambda text: text[:40],
)
def test_a_table_that_will_not_do_is_refused(table: Path, override: str, told: str, capsys: pytest.CaptureFixture[str]):
    command = ["rank", str(table), "--out", str(table.parent / "run")]
    for each in override.splitlines():
        command += ["--set", each]
    if "pc-darts" in override:
        table.write_text(
            table.read_text().partition("methods:")[0] + table.read_text()[table.read_text().index("rank:") :]
        )
    assert main(command) == 2
    assert told in capsys.readouterr().err
