"""Files that survive a crash: whole or absent, damage named, a full disk told apart."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch

from robustnas.errors import DiskFullError, RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, digests, read_json, write_atomically, write_json


def test_json_comes_back_and_nan_is_refused(tmp_path: Path):
    write_json(tmp_path / "a" / "x.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "a" / "x.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a" / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "a" / "x.json") == {"a": [1, 2.5, None]}, "the old file is still whole"


def test_a_writer_that_dies_leaves_the_old_file_and_no_litter(tmp_path: Path):
    file = tmp_path / "x"
    file.write_bytes(b"old")

    def die(handle: object) -> None:
        handle.write(b"half")  # type: ignore[attr-defined]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(file, die)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_tensors_come_back_with_weights_only(tmp_path: Path):
    folder = StageFolder(tmp_path)
    state = {"w": torch.arange(3.0), "epoch": 4, "nested": {"lr": [0.1]}}
    folder.save_tensors("checkpoint.pt", state)
    found = folder.load_tensors("checkpoint.pt")
    assert found is not None
    assert torch.equal(found["w"], state["w"])
    assert found["nested"] == {"lr": [0.1]}
    assert folder.load_tensors("absent.pt") is None


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_checkpoint_says_how_to_redo_only_that(tmp_path: Path, keep: int):
    folder = StageFolder(tmp_path / "train" / "m")
    folder.save_tensors("checkpoint.pt", {"w": torch.zeros(100)})
    file = folder.path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RunDirectoryError, match=r"checkpoint\.pt is damaged.*\n.*delete the folder .*only that stage"):
        folder.load_tensors("checkpoint.pt")


@pytest.mark.parametrize("other", ["finishes", "forgets"])
def test_what_another_process_finishes_or_forgets_just_now_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
):
    folder, accepted = StageFolder(tmp_path / "clean" / "m-seed0-aaaa"), digests.accepted
    if other == "forgets":
        folder.write_json("result.json", {})
        folder.result_file.unlink()

    def meanwhile(path: Path, remedy: str | None = None) -> digests.Accepted | None:
        if other == "finishes":
            folder.finish({})
        found = accepted(path, remedy)
        if other == "forgets":
            digests.forget([path])
        return found

    monkeypatch.setattr(digests, "accepted", meanwhile)
    assert folder.done == (other == "finishes") or not digests.missing(folder.result_file)
    assert not digests.missing(folder.result_file)


def test_history_is_what_was_written(tmp_path: Path):
    folder = StageFolder(tmp_path)
    assert folder.history() == []
    folder.rewrite_history([{"epoch": 1}, {"epoch": 2}])
    assert folder.history() == [{"epoch": 1}, {"epoch": 2}]
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write('{"epoch": 3}\n')
    with pytest.raises(RunDirectoryError, match="not what was written"):
        folder.history()


@pytest.mark.parametrize(
    ("module", "name"), [(os, "fsync"), (tempfile, "mkstemp")], ids=["no space", "no room for a file"]
)
def test_a_full_disk_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str):
    write_json(tmp_path / "x.json", 1)

    def full(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, name, full)
    with pytest.raises(DiskFullError, match="no space left"):
        write_json(tmp_path / "x.json", 2)
    monkeypatch.undo()
    assert read_json(tmp_path / "x.json") == 1


def test_a_folder_in_a_files_place_is_named_and_so_is_a_file_in_a_folders(tmp_path: Path):
    folder = StageFolder(tmp_path / "clean" / "m")
    folder.result_file.mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"result\.json is damaged: it cannot be read.*\n.*delete the folder"):
        folder.result()
    with pytest.raises(RunDirectoryError, match=r"result\.json cannot be written.*\n.*delete the folder"):
        folder.finish({})
    (tmp_path / "train").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot be written.*\n.*make .*train.m a folder"):
        StageFolder(tmp_path / "train" / "m").finish({})
    assert sorted(p.name for p in folder.path.iterdir()) == ["digests.json", "result.json"], "no litter"


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits of POSIX")
def test_a_checkpoint_that_does_not_fit_is_a_full_disk(tmp_path: Path):
    """A real failed write: the operating system refuses files above a limit, as a full disk does."""
    script = textwrap.dedent(f"""
        import resource, signal, torch
        from robustnas.runtime.artifacts import StageFolder
        from robustnas.errors import DiskFullError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        from pathlib import Path
        folder = StageFolder(Path({str(tmp_path)!r}))
        folder.save_tensors("c.pt", {{"w": torch.zeros(10)}})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        try:
            folder.save_tensors("c.pt", {{"w": torch.zeros(100000)}})
        except DiskFullError as fault:
            print("told apart")
        print(len(folder.load_tensors("c.pt")["w"]))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["told apart", "10"], done.stderr
