"""What a run directory holds is believed where it is what was written, and followed nowhere else."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robustnas.cli import main
from robustnas.errors import RunDirectoryError
from robustnas.plan.genotypes import read_genotypes
from robustnas.runtime.artifacts import StageFolder, digests
from robustnas.runtime.artifacts.files import write_atomically
from support.evaluated_digits import prepare

SECTIONS = """\
attacks: [fgsm]
evaluate: {images: 20}
certify: {method: ibp, images: 4}
smoothing: {sigma: 0.1, samples: 20, selection: 5, images: 4}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished evaluation; its own working directory."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        prepare(folder, SECTIONS)
        assert run() == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of a copy of it, from beside which commands are given."""
    shutil.copytree(finished, tmp_path / "c")
    monkeypatch.chdir(tmp_path / "c")
    return tmp_path / "c" / "run"


def run() -> int:
    return main(["run", "r.yaml", "--out", "run", "--quiet", "--device", "cpu"])


def stage(run_directory: Path, kind: str) -> Path:
    (found,) = (run_directory / kind).iterdir()
    return found


def digit(file: Path) -> None:
    """Another last digit, the file being as well formed as before."""
    data = bytearray(file.read_bytes())
    at = max(place for place, byte in enumerate(data) if byte in b"0123456789")
    data[at] = b"1234567890"[data[at] - ord("0")]
    file.write_bytes(data)


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 16
    file.write_bytes(data)


def replaced(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def replace(file: Path) -> None:
        file.rename(file.parent.parent.parent.parent / "moved")
        make(file)

    return replace


DAMAGE = {
    "a digit": digit,
    "a bit": flipped,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "a folder": replaced(lambda file: file.mkdir()),
    "a link": replaced(lambda file: file.symlink_to(file.parent.parent.parent.parent / "moved")),
    "a link to nothing": replaced(lambda file: file.symlink_to("nothing")),
    "a pipe": replaced(lambda file: os.mkfifo(file)),
    "no digest": lambda file: (digit(file), (file.parent / "digests.json").unlink()),
    "another folder's digests": lambda file: shutil.copy(
        stage(file.parent.parent.parent, "clean") / "digests.json", file.parent
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(("kind", "name"), [("smooth", "result.json"), ("attack", "columns.npz")])
def test_what_is_not_what_was_written_is_neither_used_nor_done_again(
    copy: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str, how: str
):
    folder = stage(copy, kind)
    DAMAGE[how](folder / name)
    for command in (["table", "run"], ["run", "r.yaml", "--out", "run", "--quiet"]):
        assert main(command) == 2
        message = capsys.readouterr().err
        assert str(folder.relative_to(copy.parent)) in message
        assert "delete the folder" in message
    shutil.rmtree(folder)
    assert run() == 0


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("layout.json", "layout.json is damaged"),
        ("digests.json", "digests.json is damaged"),
        ("clean/{}/digests.json", "digests.json is damaged: its own digest"),
    ],
)
@pytest.mark.parametrize("command", ["table", "records"])
def test_the_files_that_say_where_and_what_are_held_to_digests_too(
    copy: Path, capsys: pytest.CaptureFixture[str], place: str, told: str, command: str
):
    file = copy / place.format(stage(copy, "clean").name)
    digit(file)
    assert main([command, "run"]) == (0 if "clean" in place and command == "records" else 2)
    assert told in capsys.readouterr().err or command == "records"


def test_results_of_two_stages_that_are_exchanged_with_their_digests_are_found(
    copy: Path, capsys: pytest.CaptureFixture[str]
):
    mine, other = stage(copy, "clean"), stage(copy, "probe")
    for name in ("result.json", "digests.json"):
        kept = (mine / name).read_bytes()
        (mine / name).write_bytes((other / name).read_bytes())
        (other / name).write_bytes(kept)
    assert main(["table", "run"]) == 2
    assert "folders were exchanged" in capsys.readouterr().err


def test_a_directory_of_a_version_without_digests_is_read_and_gone_on_with(
    copy: Path, capsys: pytest.CaptureFixture[str]
):
    before = (copy / "table.json").read_bytes()
    for file in copy.rglob("digests*.json"):
        file.unlink()
    for command in (["table", "run"], ["run", "r.yaml", "--out", "run", "--quiet"], ["table", "run"]):
        assert main(command) == 0
        assert "of a version that kept no digests" in capsys.readouterr().err
        assert (copy / "table.json").read_bytes() == before
    shutil.rmtree(stage(copy, "smooth"))
    assert run() == 0, "what is done now has digests, beside what has not"
    digit(stage(copy, "smooth") / "result.json")
    assert main(["table", "run"]) == 2


def test_lost_notes_on_the_data_are_made_again(copy: Path):
    kept = json.loads((copy / "data.json").read_text())
    (copy / "data.json").unlink()
    assert run() == 0
    assert json.loads((copy / "data.json").read_text()) == kept


def test_lost_digests_of_the_directory_are_told_and_written_anew(copy: Path, capsys: pytest.CaptureFixture[str]):
    (copy / "digests.json").unlink()
    assert main(["table", "run"]) == 2
    assert "run the recipe again in this directory" in capsys.readouterr().err
    assert run() == 0
    assert main(["table", "run"]) == 0


@pytest.mark.parametrize("where", ["/etc", "clean/..", "../outside", "clean/a/b", "attack/{}", "clean/", "clean\\x", 3])
def test_a_layout_that_points_elsewhere_is_refused(copy: Path, capsys: pytest.CaptureFixture[str], where: object):
    """Even one without a digest: of an older version, say."""
    for file in copy.rglob("digests*.json"):
        file.unlink()
    file = copy / "layout.json"
    data = json.loads(file.read_text())
    (stages,) = (seeds for method in data["methods"].values() for seeds in method.values())
    stages["clean"] = where.format(stage(copy, "attack").name) if isinstance(where, str) else where
    file.write_text(json.dumps(data))
    assert main(["table", "run"]) == 2
    assert "layout.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["clean", "clean/{}"])
def test_a_folder_that_is_a_link_is_not_followed(copy: Path, capsys: pytest.CaptureFixture[str], place: str):
    folder = copy / place.format(stage(copy, "clean").name)
    folder.rename(copy.parent / "elsewhere")
    folder.symlink_to(copy.parent / "elsewhere")
    for command in (["table", "run"], ["records", "run"], ["run", "r.yaml", "--out", "run", "--quiet"]):
        assert main(command) == 2
        assert "is a symbolic link to" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["link", "link to nothing", "file"])
def test_a_folder_of_who_is_at_work_that_is_not_this_directorys_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str], kind: str
):
    elsewhere = copy.parent / "elsewhere"
    elsewhere.mkdir()
    work = copy / ".work"
    if kind == "file":
        work.write_text("my text")
    else:
        work.symlink_to(elsewhere if kind == "link" else copy.parent / "nothing")
    assert run() == 2
    assert (
        ".work is a symbolic link to" if "link" in kind else "cannot be used: File exists"
    ) in capsys.readouterr().err
    assert not any(elsewhere.iterdir())
    assert not (copy.parent / "nothing").exists()


@pytest.mark.parametrize(
    "name", ["run.json", "data.json", "recipe.yaml", "layout.json", "table.json", "table.md", "table.csv"]
)
def test_what_a_run_writes_replaces_a_link_and_never_its_target(copy: Path, name: str):
    precious = copy.parent / "precious"
    precious.write_bytes((copy / name).read_bytes())
    (copy / name).unlink()
    (copy / name).symlink_to(precious)
    kept = precious.read_bytes()
    read_first = name in ("run.json", "data.json")
    assert run() == (2 if read_first else 0)
    assert precious.read_bytes() == kept
    assert (copy / name).is_symlink() == read_first


def test_records_says_what_is_missing(copy: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["records", "run"]) == 0
    whole = capsys.readouterr()
    assert not whole.err
    shutil.rmtree(stage(copy, "attack"))
    assert main(["records", "run"]) == 0
    some = capsys.readouterr()
    assert whole.out.count("\n") - some.out.count("\n") == 20
    assert "without a result, as they failed or have not run: attack fgsm of net (seed 0)" in some.err


def test_a_kill_between_any_two_writes_leaves_one_of_the_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every rename is a moment before and after which the process may be killed; what is read is whole either way."""
    folder = StageFolder(tmp_path / "train" / "m-k")
    renames = 0

    def run_until(last: int) -> None:
        nonlocal renames
        renames = 0

        def counting(old: str, new: Path) -> None:
            nonlocal renames
            renames += 1
            if renames > last:
                raise KeyboardInterrupt
            rename(old, new)

        rename = os.replace
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", counting)
            for epoch in (1, 2):
                folder.save_tensors("checkpoint.pt", {"epoch": epoch})
            folder.finish({"epochs": 2})

    run_until(100)
    moments, seen = renames, set()
    for last in range(moments):
        shutil.rmtree(folder.path)
        for again in (last, last):  # killed a second time at the same moment of what is left
            with pytest.raises(KeyboardInterrupt):
                run_until(again)
        state = folder.load_tensors("checkpoint.pt")
        seen.add((state or {"epoch": 0})["epoch"])
        folder.verify(read_on=True)
        run_until(100)
        assert folder.result() == {"epochs": 2}
    assert moments == 9
    assert seen == {0, 1, 2}


def test_a_swapped_checkpoint_of_another_epoch_is_refused(tmp_path: Path):
    """An older file of the same stage, whole and well formed."""
    folder = StageFolder(tmp_path / "train" / "m-k")
    folder.save_tensors("checkpoint.pt", {"epoch": 1})
    older = (folder.path / "checkpoint.pt").read_bytes()
    folder.save_tensors("checkpoint.pt", {"epoch": 2})
    (folder.path / "checkpoint.pt").write_bytes(older)
    with pytest.raises(RunDirectoryError, match="not what was written"):
        folder.load_tensors("checkpoint.pt")
    (folder.path / "checkpoint.pt").unlink()
    with pytest.raises(RunDirectoryError, match="was written and is missing"):
        folder.load_tensors("checkpoint.pt")


def test_a_genotype_of_a_search_is_what_it_wrote(tmp_path: Path):
    folder = StageFolder(tmp_path / "search" / "m-k")
    file = folder.path / "genotype.json"
    folder.write_json("genotype.json", {"normal": [1]})  # as versions before wrote it
    before = file.read_text()
    assert read_genotypes(file) == {"normal": [1]}
    folder.write_json_rows("genotype.json", {"normal": [1]})
    assert file.read_text() != before
    assert read_genotypes(file) == {"normal": [1]}
    shutil.copy(file, tmp_path / "mine.json")
    for one in (file, tmp_path / "mine.json"):
        digit(one)
    assert read_genotypes(tmp_path / "mine.json") == {"normal": [2]}
    with pytest.raises(RunDirectoryError, match="copy a genotype that is to be changed elsewhere"):
        read_genotypes(file)


def test_processes_of_one_stage_keep_digests_of_their_own(tmp_path: Path):
    folder = StageFolder(tmp_path / "attack" / "m-k")
    for rank in (0, 1):
        folder.of_process(rank).write_json("x.json", 0)  # the second's is written by the first alone
        StageFolder(folder.path, register=folder.of_process(rank).register).save_tensors(
            f"progress-{rank}.pt", {"a": rank}
        )
    assert sorted(file.name for file in folder.files("digests*")) == ["digests-1.json", "digests.json"]
    assert [folder.load_tensors(f"progress-{rank}.pt") for rank in (0, 1)] == [{"a": 0}, {"a": 1}]
    digests.forget(folder.files("progress-*.pt"))
    assert [file.name for file in folder.files("*")] == ["digests.json", "x.json"]


def test_any_byte_of_a_network_is_noticed(tmp_path: Path):
    folder = StageFolder(tmp_path / "train" / "m-k")
    folder.save_tensors("network.pt", {"w": torch.zeros(50)})
    file = folder.path / "network.pt"
    whole = file.read_bytes()
    draw = random.Random(0)
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(RunDirectoryError):
            folder.load_tensors("network.pt")


def test_a_pipe_in_the_place_of_a_temporary_name_is_not_waited_for(tmp_path: Path):
    write_atomically(tmp_path / "x", lambda file: file.write(b"1") and None)
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    write_atomically(tmp_path / "x", lambda file: file.write(b"2") and None)
    assert (tmp_path / "x").read_bytes() == b"2"


if sys.platform == "win32":
    pytestmark = pytest.mark.skip(reason="needs links and pipes of POSIX")
