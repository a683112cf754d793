"""`robustnas genotypes`: every published cell in a line, one with its figures and drawing, and what is refused."""

from __future__ import annotations

import pytest

from robustnas.cli import main
from robustnas.genotype import drawing
from robustnas_plugins.search_spaces.nas_bench_201 import BASELINES
from robustnas_plugins.search_spaces.published import cells, references


def test_all_are_listed_and_one_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genotypes", "list"]) == 0
    out, error = capsys.readouterr()
    heads, *lines = out.splitlines()
    assert (heads.split()[0], error) == ("name", "")
    names = [line.split()[0] for line in lines[: lines.index("")]]
    assert sorted(names) == sorted([*cells(), *BASELINES])
    (racl,) = (line for line in lines if line.startswith("RACL "))
    for part in ("darts, pc-darts", "3.571", "550.0", "robustness, in DARTS, on CIFAR-10", "arXiv 2009.00902"):
        assert part in racl
    assert "36 channels, 20 cells" in out
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


def test_a_name_that_is_nowhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["genotypes", "show", "PC_DARTS"]) == 2
    error = capsys.readouterr().err
    for part in ("found 'PC_DARTS', which no installed search space publishes", "did you mean", "genotypes list"):
        assert part in error
