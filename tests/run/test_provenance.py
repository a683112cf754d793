"""What made the results of a run directory is written down: an entry a command, and each result names its own."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import pytest
import torch

from robustnas import cli
from robustnas.errors import RunDirectoryError
from robustnas.run import provenance
from robustnas.run.directory import RunDirectory
from support.finished_run import run


def made_by(folder: Path) -> dict[str, str]:
    """The entry that each result of a run names."""
    files = sorted((folder / "run").glob("*/*/result.json"))
    return {str(file.parent.name): json.loads(file.read_text())["provenance"]["run"] for file in files}


def test_a_run_says_what_made_it(finished_run: Path):
    (entry,) = provenance.entries(RunDirectory(finished_run / "run"))
    assert set(made_by(finished_run).values()) == {entry["started"]}
    assert entry["python"] == platform.python_version()
    assert {*entry["packages"]} >= {"torch", "torchvision", "numpy", "scipy", "foolbox"}
    assert all(entry["packages"].values())
    assert entry["devices"]
    assert entry["threads"] >= 1
    assert entry["processor"]
    about = json.dumps({key: value for key, value in entry.items() if key != "command"})
    assert str(Path.home()) not in about
    assert not platform.node() or platform.node() not in about


def test_a_later_command_adds_an_entry_for_what_it_computes(finished_copy: Path):
    directory = RunDirectory(finished_copy / "run")
    first = provenance.entries(directory)
    first[0] |= {"started": "2020-01-01T00:00:00+0000", "command": "robustnas run before"}
    directory.write_json(provenance.FILE, first)
    before = made_by(finished_copy)
    shutil.rmtree(next((finished_copy / "run" / "clean").glob("jac-*")))
    assert run(finished_copy, "--quiet") == 0
    kept, second = provenance.entries(directory)
    assert [kept] == first
    after = made_by(finished_copy)
    assert [name for name in after if after[name] != before[name]] == [
        name for name, entry in after.items() if entry == second["started"]
    ]
    assert sum(entry == second["started"] for entry in after.values()) == 1


def test_a_file_that_was_changed_is_told_and_one_that_was_deleted_begins_anew(
    tmp_path: Path,
):
    directory, file = RunDirectory(tmp_path), tmp_path / provenance.FILE
    provenance.append(directory, [torch.device("cpu")] * 2, 1)
    provenance.append(directory, [torch.device("cpu")], 2)
    assert [entry["devices"] for entry in provenance.entries(directory)] == [["cpu", "cpu"], ["cpu"]]
    file.write_text(file.read_text().replace("20", "19", 1))
    with pytest.raises(RunDirectoryError, match=f"delete the file {file} alone and run the recipe again"):
        provenance.append(directory, [torch.device("cpu")], 1)
    file.unlink()
    with pytest.raises(RunDirectoryError, match="it was written and is missing"):
        provenance.entries(directory)
    provenance.append(directory, [torch.device("cpu")], 1)
    assert len(provenance.entries(directory)) == 1


def test_a_directory_of_an_older_version_has_no_entries(tmp_path: Path):
    directory = RunDirectory(tmp_path / "run")
    directory.write_json("layout.json", {})
    assert provenance.entries(directory) == []
    assert provenance.latest(directory) is None
    directory.write_json(provenance.FILE, {"started": "x"})
    with pytest.raises(RunDirectoryError, match="it does not hold a list of entries"):
        provenance.entries(directory)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["/home/me/venv/bin/robustnas", "run", "my recipe.yaml"], "robustnas run 'my recipe.yaml'"),
        ([str(Path(cli.__file__).parents[1] / "__main__.py"), "run", "quickstart"], "robustnas run quickstart"),
        ([r"C:\venv\Scripts\robustnas.exe".replace("\\", "/"), "run", "x"], "robustnas run x"),
        (["/home/me/train.py", "--token", "secret"], "train.py"),
        (["/usr/lib/python3/ipykernel/__main__.py", "-f", "/home/me/kernel.json"], "ipykernel"),
        (["-c"], "-c"),
        ([""], "python"),
    ],
)
def test_the_command_is_told_as_it_was_typed_and_of_scripts_the_name_alone(argv: list[str], told: str):
    assert provenance.command(argv) == told
