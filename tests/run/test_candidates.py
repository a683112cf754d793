"""Candidates: which stages there are, that the best on images held out is kept, and that nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from robustnas.cli import main
from robustnas.errors import RecipeError
from robustnas.plan import Plan, Seed
from robustnas.run import candidates
from robustnas.run.directory import RunDirectory
from robustnas.run.task import Task
from support.tiny_plan import RECIPE, plan

METHODS = """methods={
  darts: {}, best: {best_of: {samples: 2, epochs: 1}}, random: {strategy: random},
  search: {strategy: {name: random-search, samples: 3, epochs: 1}}, named: {genotype: DARTS_V2}}"""
METHODS_IN_ORDER = ("darts", "best", "random", "search", "named")
NESTED = "seeds={search: [0, 1], train: [0, 1]}"
SMALL = (
    "dataset={name: digits, train_images: 200}",
    "search={epochs: 1, batch: 50}",
    "train={epochs: 1, batch: 60, cutout: 0, auxiliary: 0, drop_path: 0}",
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def kinds(found: Plan, method: str, seed: Seed) -> list[str]:
    return [stage.kind for stage in found.stages_of(method, seed)][: -len(found.columns) - 3]


def test_a_method_has_the_stages_of_its_candidates(recipe: Path):
    found = plan(recipe, METHODS, NESTED)
    first, other = Seed(0, 0, nested=True), Seed(0, 1, nested=True)
    assert kinds(found, "darts", first) == kinds(found, "random", first) == ["search", "train"]
    assert kinds(found, "best", first) == ["search", "candidate"] * 2 + ["choose", "train"]
    assert kinds(found, "search", first) == ["search", "candidate"] * 3 + ["choose", "train"]
    assert kinds(found, "named", first) == ["train"]
    # a genotype is found once for all its trainings, and the first candidate is what the method alone would find
    for method in ("darts", "best", "search"):
        assert len({found.genotype_stage(method, seed).key for seed in (first, other)}) == 1  # type: ignore[union-attr]
        assert found.networks[method, first] != found.networks[method, other]
    assert found.stage("search", "darts", first).key == found.stage("search", "best", first).key  # type: ignore[union-attr]
    assert found.stage("search", "random", first).key == found.stage("search", "search", first).key  # type: ignore[union-attr]
    # a method without a search has one genotype, whatever the seeds of searches
    assert found.seeds_of("named") == (first, other)
    assert len(found.seeds_of("darts")) == 4


def test_stages_go_search_seed_by_search_seed_and_method_by_method(recipe: Path):
    stages = plan(recipe, METHODS, NESTED).until(None)
    order = [(stage.seed.search, METHODS_IN_ORDER.index(stage.method), stage.seed.train) for stage in stages]
    assert order == sorted(order)
    assert len({stage.key for stage in stages}) == len(stages)


def test_two_lists_of_one_seed_are_the_network_of_one_list(recipe: Path):
    """A nested design is no other experiment: its keys are those of a plain seed where the two seeds are equal."""
    nested, plain = plan(recipe, "seeds={search: [1], train: [1]}"), plan(recipe, "seeds=[1]")
    assert {stage.key for stage in nested.stages} == {stage.key for stage in plain.stages}


@pytest.mark.processes
def test_stages_that_methods_share_are_found_whoever_does_them(recipe: Path, capsys: pytest.CaptureFixture[str]):
    """A worker does the draw that `random` shares with a candidate; the table finds it where the layout says."""
    run = recipe.parent / "run"
    methods = "methods={random: {strategy: random}, search: {strategy: {name: random-search, samples: 2, epochs: 1}}}"
    command = ["run", str(recipe), "--out", str(run), "--quiet", "--jobs", "2", "--device", "cpu", "--until", "search"]
    for override in (methods, "seeds=[0]", *SMALL):
        command += ["--set", override]
    assert main(command) == 0
    (network,) = json.loads((run / "layout.json").read_text())["methods"]["random"].values()
    assert (run / network["search"] / "result.json").exists()
    assert len(list(run.glob("search/*"))) == 2


def test_a_candidate_is_judged_by_all_processes_when_the_first_has_written_it(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    found = plan(recipe, METHODS)
    stage = next(stage for stage in found.stages if stage.kind == "candidate")
    task = Task(found, stage, RunDirectory(recipe.parent), torch.device("cpu"), lambda *_, **__: None)
    monkeypatch.setattr(type(task.processes), "broadcast", lambda *_: told.append("all wait"))
    monkeypatch.setattr(candidates, "genotype_in", lambda folder: {})
    monkeypatch.setattr(candidates.train, "run", lambda *_: told.append("trained") or {})
    monkeypatch.setattr(candidates, "_judged", lambda *_: told.append("judged") or {})
    candidates.candidate(task)
    assert told == ["trained", "all wait", "judged", "all wait"]


@pytest.mark.slow
def test_the_best_candidate_on_images_held_out_is_trained(recipe: Path, capsys: pytest.CaptureFixture[str]):
    run = recipe.parent / "run"
    command = ["run", str(recipe), "--out", str(run), "--quiet"]
    for override in (METHODS, "seeds=[0]", *SMALL, "evaluate={images: 20}", "certify=false", "attacks=[fgsm]"):
        command += ["--set", override]
    assert main(command) == 0
    (chosen,) = run.glob("choose/search-seed0-*/result.json")
    result = json.loads(chosen.read_text())
    held_out = [(one["robust"], one["clean"]) for one in result["candidates"]]
    assert len(held_out) == 3
    assert all(robust <= clean <= 20 for robust, clean in held_out)
    best = held_out.index(max(held_out))
    assert result["chosen"] == best + 1
    assert result["genotype"] == result["candidates"][best]["genotype"]
    (trained,) = run.glob("train/search-seed0-*/result.json")
    assert json.loads(trained.read_text())["genotype"] == result["genotype"]
    assert json.loads((chosen.parent / "genotype.json").read_text()) == result["genotype"]
    rows = {row["method"]: row for row in json.loads((run / "table.json").read_text())["rows"]}
    assert rows["search"]["search_seconds"]["mean"] == pytest.approx(result["search_seconds"])
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/*/result.json")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/*/result.json")} == before
    assert "not in this table" not in capsys.readouterr().out
    cells = plan(recipe, f"methods={{again: {{genotype: {{run: {run}, method: search, seed: 0}}}}}}")
    assert cells.methods["again"].genotype == result["genotype"]
    for wrong, told in {
        "{run: nowhere, method: a}": "no run directory",
        f"{{run: {run}, method: serch}}": "did you mean 'search'",
        f"{{run: {run}, method: search, seed: 7}}": "has no seed 7 of search; it has 0",
        f"{{run: {run}, method: named}}": "searched nothing",
        f"{{run: {run}}}": "found no method beside run",
    }.items():
        with pytest.raises(RecipeError, match=told):
            plan(recipe, f"methods={{again: {{genotype: {wrong}}}}}")
