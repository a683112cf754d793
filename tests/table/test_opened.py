"""A finished run in Python: networks, genotypes, histories and records, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import robustnas
from robustnas.data.selection import Chosen
from robustnas.errors import InputError, RobustnasError, RunDirectoryError
from robustnas.run.directory import RunDirectory
from robustnas.run.local import Local
from robustnas.runtime.artifacts import digests
from robustnas.table import finished
from robustnas_plugins.datasets.digits import Digits
from support.finished_run import table, without_seconds


@pytest.fixture
def run(finished_run: Path) -> robustnas.Run:
    return robustnas.open(finished_run / "run")


def test_a_network_answers_as_the_run_says(run):
    network = run.network("jac", seed=0, train_seed=0)
    result = json.loads(next((run.path / "clean").glob("jac-*/result.json")).read_text())
    index = torch.from_numpy(run.records("jac")["index"][:40])
    images = Chosen(Digits().split("test"), index)
    with torch.no_grad():
        logits = network(images.take(torch.arange(40)))
    assert not network.training
    assert logits.shape == (40, 10)
    assert logits.argmax(dim=1).tolist() == result["predictions"]
    assert images.labels.tolist() == result["labels"]


def test_methods_seeds_genotypes_and_the_plan(run):
    assert run.methods == list(run.plan.methods) == ["darts", "jac"]
    assert [str(seed) for seed in run.seeds("jac")] == ["0"]
    text = next((run.path / "search").glob("jac-*/genotype.json")).read_text()
    written = json.loads(text)
    assert all(f"\n  {json.dumps(edge)}" in text for edge in written["normal"] + written["reduce"])
    assert run.genotype("jac") == run.genotype("jac", seed="0") == written
    assert run.genotype("darts") != written


def test_histories_have_a_record_an_epoch(run):
    assert [epoch["epoch"] for epoch in run.history("jac")] == [1, 2]
    assert "alpha_entropy" in run.history("jac", kind="search")[0]


def test_records_are_those_of_the_command(run):
    lines = [one for one in csv.DictReader(io.StringIO(finished.records(run.path))) if one["method"] == "jac"]
    found = run.records("jac")
    assert [*found] == [*lines[0]][2:]
    for name, values in found.items():
        assert isinstance(values, np.ndarray)
        assert len(values) == len(lines) == 80
        assert [int(one) if one.dtype == bool else one for one in values] == pytest.approx(
            [type(one)(line[name] or "inf") if one.dtype.kind in "iuf" else
             int(line[name]) if one.dtype == bool else line[name] for one, line in zip(values, lines, strict=True)]
        )  # fmt: skip
    assert set(run.records("jac", attack="fgsm")["attack"]) == {"fgsm"}


def test_what_is_not_there_is_told_with_what_would_do(run, finished_copy):
    there = str(run.path)
    for ask, message in {
        lambda: run.network("dart"): f"{there} has no method 'dart'; did you mean 'darts'?; it has darts, jac",
        lambda: run.network("darts", 3): f"{there} has no seed 3; it has 0",
        lambda: run.network("darts", 0, 1): f"{there} has no seed 0 with training seed 1; it has 0",
        lambda: run.records("jac", attack="pgd"): f"{there} has no attack 'pgd'; did you mean 'pgd-3'?; "
        "it has fgsm, pgd-3",
        lambda: run.history("jac", kind="training"): "found kind 'training'; 'train' or 'search' would do",
    }.items():
        with pytest.raises(InputError) as told:
            ask()
        assert str(told.value) == message
    with pytest.raises(RunDirectoryError, match=r"is not a run directory: it has no layout\.json"):
        robustnas.open(finished_copy)
    with pytest.raises(AttributeError, match="module 'robustnas' has no attribute 'opened'"):
        getattr(robustnas, "opened")  # noqa: B009


def test_a_run_half_finished_names_the_command_that_goes_on(finished_copy):
    for kind in ("search", "train", "attack"):
        shutil.rmtree(finished_copy / "run" / kind)
    half = robustnas.open(finished_copy / "run")
    command = f"`robustnas run {half.path / 'recipe.yaml'} --out {half.path}`"
    for ask, what in {
        lambda: half.network("jac"): "no trained network of jac seed 0",
        lambda: half.genotype("jac"): "no genotype of jac seed 0",
        lambda: half.history("jac"): "no epoch of the train of jac seed 0",
        lambda: half.records("jac"): "no result of an attack on jac seed 0",
    }.items():
        with pytest.raises(RunDirectoryError) as told:
            ask()
        assert f"holds {what}; {command}" in str(told.value)
    assert half.table[1]["clean_mean"] is not None
    assert half.table[1]["fgsm_mean"] is None


def test_what_needs_no_network_needs_no_torch(finished_run):
    code = f"""
import sys, robustnas
from robustnas.table.report import page, plots
from robustnas.table.report.contents import Contents
run = robustnas.open({str(finished_run / "run")!r})
run.table._repr_html_(), run.genotype("jac"), run.history("jac"), run.records("jac"), robustnas.compare(run)
page.page([Contents.of(run)])
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nested_seeds_are_the_searchs_and_the_trainings(finished_copy):
    run = RunDirectory(finished_copy / "run")
    layout = run.read_json("layout.json")
    for method, seeds in layout["methods"].items():
        layout["methods"][method] = {"0.4": seeds["0"], "0.5": seeds["0"], "1.4": seeds["0"]}
    run.write_json("layout.json", layout)
    nested = robustnas.open(run.path)
    assert [str(nested._network("jac", *asked)[0]) for asked in ((None,), (0, 5), ("0.5",), (1,))] == [
        "0.4", "0.5", "0.5", "1.4"
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"has no seed 1 with training seed 5; it has 0\.4, 0\.5, 1\.4"):
        nested.history("jac", 1, 5)


def test_a_recipe_is_run_from_a_file_or_from_plain_data(finished_copy):
    import yaml

    before = (finished_copy / "run" / "table.json").read_text()
    recipe = yaml.safe_load((finished_copy / "r.yaml").read_text().replace("1/255", "0.00392156862745098"))
    for given in (str(finished_copy / "r.yaml"), finished_copy / "r.yaml", recipe):
        run = robustnas.run_recipe(given, finished_copy / "run")
        assert run.path == finished_copy / "run"
        assert (run.path / "table.json").read_text() == before


def test_recipes_that_cannot_be_run_are_refused(tmp_path):
    for recipe, message in {
        (("dataset", tmp_path),): "robustnas.run_recipe: found PosixPath",
        (("dataset", "digit"),): "robustnas.run_recipe: dataset: ",
    }.items():
        with pytest.raises(RobustnasError, match=message):
            robustnas.run_recipe(dict(recipe), tmp_path)
    with pytest.raises(InputError, match="found until 'attack'; 'search' or 'train' would do"):
        robustnas.run_recipe("quickstart", tmp_path, until="attack")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"executor": "slrum"}, "robustnas.run_recipe: executor: .*'slrum'.*did you mean 'slurm'"),
        (
            {"executor": {"name": "slurm", "partion": "gpu"}},
            "partion: unknown option .* did you mean 'partition'",
        ),
        (
            {"executor": {"name": object()}},
            "executor: found <object object .* in it; local, slurm",
        ),
        (
            {"executor": 3},
            "executor: found 3; local, slurm or {name: slurm, partition: gpu} would do",
        ),
        ({"executor": Local}, "robustnas.run_recipe: executor: found <class .*Local'>; local, slurm"),
        ({"executor": ""}, "robustnas.run_recipe: executor: found nothing; local"),
        ({"shard": (0, 2)}, r"found shard \(0, 2\); \(I, N\) with I from 1 to N would do, such as \(3, 8\)"),
        ({"shard": (3, 2)}, r"found shard \(3, 2\)"),
        ({"shard": (True, 2)}, r"found shard \(True, 2\)"),
        ({"shard": (1, 2, 3)}, r"found shard \(1, 2, 3\)"),
        ({"shard": "1/2"}, "found shard '1/2'"),
        ({"executor": "slurm", "jobs": 2}, "one of the two would do"),
    ],
)
def test_who_does_the_stages_is_checked(tmp_path, given, told):
    with pytest.raises(InputError, match=told):
        robustnas.run_recipe("quickstart", tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_part_of_a_recipe_is_run_by_an_executor(finished_copy):
    run = finished_copy / "run"
    whole = without_seconds(table(finished_copy))
    for kind in ("clean", "certify"):
        for folder in (run / kind).iterdir():
            digests.forget([folder / "result.json"])
    for part, executor in ((1, "local"), (2, {"name": "local"}), (2, Local())):
        robustnas.run_recipe(finished_copy / "r.yaml", run, device="cpu", executor=executor, shard=(part, 2))
        there = {file.parent.name.partition("-")[0] for file in run.glob("clean/*/result.json")}
        assert len(there) == part
    assert without_seconds(table(finished_copy)) == whole


def test_a_genotype_that_the_recipe_names_has_no_search(tmp_path):
    recipe = {
        "dataset": "digits",
        "search_space": {"name": "darts", "cells": 1, "channels": 2, "network_cells": 1, "network_channels": 2},
        "threat": {"norm": "linf", "epsilon": 0.02},
        "methods": {"published": {"genotype": "DARTS_V2"}},
    }
    run = robustnas.run_recipe(recipe, tmp_path / "run", until="search")
    assert run.genotype("published") == run.plan.methods["published"].genotype
    with pytest.raises(InputError, match="published has no history of kind 'search'"):
        run.history("published", kind="search")


def test_of_several_candidates_the_search_is_that_of_the_chosen_one(finished_copy):
    run = RunDirectory(finished_copy / "run")
    layout = run.read_json("layout.json")
    searches = [layout["methods"][name]["0"]["search"] for name in ("darts", "jac")]
    layout["methods"]["darts"]["0"] |= {"tried": searches, "choose": "choose/darts-seed0-0"}
    run.write_json("layout.json", layout)
    with pytest.raises(RunDirectoryError, match="holds no epoch of the search of darts seed 0"):
        robustnas.open(run.path).history("darts", kind="search")
    run.at("choose/darts-seed0-0").finish({"chosen": 2})
    opened = robustnas.open(run.path)
    assert opened.history("darts", kind="search") == opened.history("jac", kind="search")
    run.at("choose/darts-seed0-0").write_json("result.json", {"chosen": 3})
    with pytest.raises(RunDirectoryError, match="its chosen is 3"):
        opened.history("darts", kind="search")
