"""What stands under the table of a finished run because of what its stages found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from robustnas.run.directory import RunDirectory
from robustnas.runtime.artifacts import StageFolder
from robustnas.table import results


def changed(run: Path, kind: str, **values: object) -> None:
    """Give the results of all stages of a kind other values, as if they had been found."""
    for file in sorted(run.glob(f"{kind}/*/result.json")):
        folder = StageFolder(file.parent)
        folder.write_json("result.json", {**json.loads(file.read_text()), **values})


def noted(run: Path, words: str) -> list[str]:
    return [note for note in results.comparison(RunDirectory(run)).notes if words in note]


def test_accuracies_near_chance_are_named(finished_copy: Path):
    run = finished_copy / "run"
    answers = json.loads(next(run.glob("clean/*/result.json")).read_text())
    # right on 6 of 40 images: with ten classes so few are no more than chance
    wrong = [(label + (place >= 6)) % 10 for place, label in enumerate(answers["labels"])]
    for kind in ("probe", "attack", "certify"):
        shutil.rmtree(run / kind)
    changed(run, "clean", predictions=answers["labels"])
    assert noted(run, "chance") == []
    changed(run, "clean", predictions=wrong)
    (note,) = noted(run, "chance")
    assert note == (
        "cannot be told from chance, 10.00% right among 10 classes, with so few images: clean of darts, jac"
    )


def test_a_capacity_that_was_matched_is_told(finished_copy: Path):
    run = finished_copy / "run"
    assert noted(run, "match") == []
    changed(run, "train", match={"kind": "multiply_adds", "target": 5000, "found": 4890})
    assert noted(run, "match") == [
        "networks matched to 5,000 multiply-adds; match: by how much the network that came closest misses that"
    ]
    rows = results.comparison(RunDirectory(run)).rows
    assert [r["match"]["mean"] for r in rows] == [-0.022, -0.022]
