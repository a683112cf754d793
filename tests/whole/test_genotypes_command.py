"""`robustnas genotypes`: every published cell in a line, one with its figures and drawing, and what is refused."""

from __future__ import annotations

import pytest

from robustnas.cli import main
from robustnas.genotype import drawing
from robustnas_plugins.search_spaces.nas_bench_201 import BASELINES
from robustnas_plugins.search_spaces.published import cells, references
from robustnas_plugins.search_spaces.robnet_codes import PUBLISHED as ROBNET
from robustnas_plugins.search_spaces.wide_resnet import PUBLISHED as WIDE


def test_all_are_listed_and_one_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genotypes", "list"]) == 0
    out, error = capsys.readouterr()
    heads, *lines = out.splitlines()
    assert (heads.split()[0], error) == ("name", "")
    names = [line.split()[0] for line in lines[: lines.index("")]]
    assert sorted(names) == sorted([*cells(), *BASELINES, *ROBNET, *WIDE, "PC_DARTS_S4_CIFAR10"])
    (racl,) = (line for line in lines if line.startswith("RACL "))
    for part in ("darts, pc-darts", "3.571", "550.0", "robustness, in DARTS, on CIFAR-10", "arXiv 2009.00902"):
        assert part in racl
    assert "parameters and multiply-adds: of 36 channels, 20 cells" in out
    assert "parameters and multiply-adds of RobNet-large-v2: of 64 channels, 33 cells" in out
    assert main(["genotypes", "show", "RACL"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(drawing.text(cells()["RACL"]))
    for line in (
        "search space: darts, pc-darts\n",
        "paper: Dong et al. arXiv 2009.00902 / TPAMI 2025\n",
        "code: github.com/nutellamok/advrush, advrush/genotypes.py, RACL, commit ",
        f"size: {references()['RACL'].parameters:,} parameters, {references()['RACL'].multiply_adds:,} ",
    ):
        assert line in shown


def test_codes_of_robnet_are_shown_cell_by_cell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genotypes", "show", "RobNet-free"]) == 0
    shown = capsys.readouterr().out
    for line in ("search space: robnet\n", "size: 5,439,790 parameters, 780,177,024 multiply-adds (36 channels"):
        assert line in shown
    assert [line for line in shown.splitlines() if line.startswith("cell ")] == [f"cell {n}" for n in range(1, 21)]
    assert main(["genotypes", "show", "RobNet-large-v1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  res_sep_conv_3x3 ") for line in lines) == 8


def test_what_is_no_cell_is_shown_as_a_recipe_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genotypes", "show", "WRN-28-10"]) == 0
    shown = capsys.readouterr().out
    for part in ("size: 36,479,194 parameters", '{"depths": [4, 4, 4], "widths": [10, 10, 10]}\nnot drawn: genotype: '):
        assert part in shown


def test_a_name_that_is_nowhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genotypes", "show", "PC_DARTS"]) == 2
    error = capsys.readouterr().err
    for part in ("found 'PC_DARTS', which no installed search space publishes", "did you mean", "genotypes list"):
        assert part in error
