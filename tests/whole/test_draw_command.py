"""`robustnas draw`: cells of files, of published genotypes and of runs, and what is refused."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.genotype import drawing
from robustnas_plugins.search_spaces.published import cells as published


def test_a_file_a_name_and_a_text(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(json.dumps({"mine": published()["RACL"]}))
    for typed, genotype in {
        "mine.json#mine": published()["RACL"],
        "DARTS_V2": published()["DARTS_V2"],
        "|nor_conv_3x3~0|": "|nor_conv_3x3~0|",
    }.items():
        assert main(["draw", typed]) == 0
        assert capsys.readouterr().out == drawing.text(genotype)
    assert main(["draw", "mine.json#mine", "--output", "cells.svg"]) == 0
    assert Path("cells.svg").read_text() == drawing.svg_file({"mine.json": published()["RACL"]})
    capsys.readouterr()
    for typed, told in {
        "mine.json#mine --output cells.svg": "cells.svg is there already, and nothing is overwritten",
        "mine.json#mine --output cells.png": "draw writes SVG; a file that ends in .svg would do",
        "DARTS_V2 --seed 0": "DARTS_V2 is not a run directory, and --method and --seed are of one",
        "DARTS_V3": "neither a file (DARTS_V3) nor a published genotype of the search space; did you mean 'DARTS_V2'?",
        "#3": "the text of the genotype would do",
        ".": ". is not a run directory: it has no layout.json",
    }.items():
        assert main(["draw", *typed.split()]) == 2
        out, error = capsys.readouterr()
        assert (out, told in error) == ("", True)


def test_a_run_has_a_drawing_a_search(finished_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_copy / "run"
    found = {
        method: json.loads(next((run / "search").glob(f"{method}-*/genotype.json")).read_text())
        for method in ("darts", "jac")
    }
    assert main(["draw", str(run)]) == 0
    drawn = [f"{method} seed 0\n\n{drawing.text(genotype)}" for method, genotype in found.items()]
    assert capsys.readouterr() == ("\n".join(drawn), "")
    assert main(["draw", str(run), "--method", "jac", "--output", str(finished_copy / "c.svg")]) == 0
    heads = [one.text for one in ET.parse(finished_copy / "c.svg").getroot().findall("{*}text")]
    assert heads == ["jac seed 0: normal cell", "jac seed 0: reduction cell"]
    capsys.readouterr()

    shutil.rmtree(next((run / "search").glob("jac-*")))
    assert main(["draw", str(run)]) == 0
    out, error = capsys.readouterr()
    assert out == drawn[0]
    assert error.count("\n") == 1
    assert f"{run} holds no genotype of jac seed 0; `robustnas run" in error
    for asked, told in {
        ("--method", "jac"): "holds no genotype of jac seed 0",
        ("--method", "jack"): f"{run} has no method 'jack'; did you mean 'jac'?",
        ("--seed", "1"): f"{run} has no seed 1; it has 0",
    }.items():
        assert main(["draw", str(run), *asked]) == 2
        assert told in capsys.readouterr().err
