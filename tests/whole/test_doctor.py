"""`robustnas doctor`: what it looks at, and that it ends with 1 where runs would not work."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from robustnas.cli import doctor, main
from robustnas.errors import DataError
from robustnas_plugins.datasets.digits import Digits
from robustnas_plugins.metrics.jacobian import Jacobian
from support.fake_package import install


@pytest.fixture
def told(no_data_of_this_machine: None, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    """The exit status of the command and the lines it printed."""

    def run() -> tuple[int, str]:
        status = main(["doctor"])
        return status, " ".join(capsys.readouterr().out.split())

    return run


def test_a_good_machine_with_a_plugin_that_is_not(told, tmp_path: Path, monkeypatch) -> None:
    site = tmp_path / "site"
    install(
        site, "old-metrics", {"robustnas.metrics": {"old": "old_metrics:Old"}}, "0.3", old_metrics="import gone_torch"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda name: [
            "torch>=2",
            "no-such-package>=1; extra == 'plots'",
            "pytest; extra == 'some'",
            "x; extra == 'dev'",
        ],
    )
    status, text = told()
    assert (status, text.endswith("Runs will work here.")) == (0, True)
    assert (
        "note plugins metric 'old' (old_metrics:Old, from old-metrics 0.3) does not import: ModuleNotFoundError" in text
    )
    assert "pip uninstall old-metrics removes it" in text
    assert "ok data digits: 597 test images" in text
    assert "note data mnist: t10k-images-idx3-ubyte" in text
    assert "ROBUSTNAS_DATA=PATH" in text
    assert f"GiB free in {tmp_path / 'runs'}" in text
    assert "note extras plots: no-such-package missing; pip install 'robustnas[plots]'" in text
    assert "ok extras some: there" in text
    assert "extras dev" not in text
    assert " fault " not in text


def test_what_stands_in_the_way_of_runs_ends_with_1_and_says_what_to_do(told, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda where: SimpleNamespace(free=1 << 20))
    monkeypatch.setattr(Jacobian, "score", None)
    monkeypatch.setattr(doctor.environment, "PACKAGES", ("torch", "no_such_package"))

    def split(self, name):
        raise DataError("digits.csv.gz is damaged; another copy would do")

    monkeypatch.setattr(Digits, "split", split)
    status, text = told()
    assert status == 1
    for fault in (
        "fault packages no_such_package does not import: ModuleNotFoundError: No module named 'no_such_package'",
        "fault plugins metric 'jacobian' (robustnas_plugins.metrics.jacobian:Jacobian, from robustnas 0.1.0) does not",
        "fault data digits.csv.gz is damaged; another copy would do",
        "free some space, or --out DIR on another disk would do",
    ):
        assert fault in text
    assert "pip install --force-reinstall no_such_package would do" in text
    assert text.endswith("Runs will not work before 4 fault(s) above are mended.")


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = doctor._disk(tmp_path / "a" / "runs")
    assert (found.state, found.text) == (
        "fault",
        f"{tmp_path} may not be written to; --out DIR of another folder would do",
    )
