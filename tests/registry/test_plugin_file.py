"""A class of a file of one's own is a plugin of this process, known by the file's digest."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustnas.errors import InputError, PluginError
from robustnas.registry import METRICS
from robustnas.registry.plugin_file import GIVEN, hyphened, register
from support.given_files import forget

SOURCE = """
from attrs import frozen

import beside_it

@frozen
class OwnScore:
    width: int = beside_it.WIDTH

    def score(self, network, images, labels, threat): ...

class Partly:
    def score(self, network, images): ...

class Both(OwnScore):
    def build(self, threat): ...

class Neither: ...
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is registered in a test is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    forget()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside_it.py").write_text("WIDTH = 7\n")
    path = tmp_path / "own_score.py"
    path.write_text(SOURCE)
    return path


def test_a_class_is_called_as_it_is_with_hyphens(file: Path) -> None:
    made = register(f"{file}:OwnScore")
    assert (made.kind, made.name, made.path) == ("metric", "own-score", file)
    assert METRICS.load("own-score")().width == 7
    (entry,) = (entry for entry in METRICS.entries() if entry.name == "own-score")
    assert entry.stranger == f"own_score.py sha256:{made.sha256[:16]}"
    assert METRICS.entry_of(METRICS.load("own-score")) == entry
    assert [hyphened(name) for name in ("FGSM", "PcDarts", "Cw2", "own_score", "_AOf")] == [
        "fgsm", "pc-darts", "cw2", "own-score", "a-of"
    ]  # fmt: skip


def test_a_name_may_be_given_and_a_file_named_again(file: Path) -> None:
    for _ in range(2):
        assert register(f"mine={file}:OwnScore").name == "mine"
    assert register(f"{file}:OwnScore").name == "own-score"
    assert {"mine", "own-score"} <= set(METRICS.names())
    assert not METRICS.conflicts()
    assert pickle.loads(pickle.dumps(METRICS.load("mine")())) == METRICS.load("own-score")()


def test_a_changed_file_is_another_version(file: Path) -> None:
    first = register(f"{file}:OwnScore")
    file.write_text(SOURCE.replace("beside_it.WIDTH", "8"))
    with pytest.raises(InputError, match="has changed while the run was under way"):
        register(first.text, first.sha256)
    second = register(f"{file}:OwnScore")
    assert second.sha256 != first.sha256
    assert METRICS.load("own-score")().width == 8
    assert [entry.version for entry in METRICS.entries() if entry.name == "own-score"] == [second.entry.version]


def test_a_refused_class_is_taken_once_it_is_mended(file: Path) -> None:
    register(f"{file}:OwnScore")
    file.write_text(SOURCE.replace("class OwnScore:", "class OwnScore:\n    contract = 9", 1))
    with pytest.raises(PluginError):
        register(f"{file}:OwnScore")
    assert "own-score" in METRICS.names()
    file.write_text(SOURCE.replace("beside_it.WIDTH", "8"))
    register(f"{file}:OwnScore")
    assert METRICS.load("own-score")().width == 8


def test_a_folder_may_have_an_equals_sign_in_its_name(file: Path) -> None:
    folder = file.parent / "lr=1"
    folder.mkdir()
    for each in (file, file.parent / "beside_it.py"):
        each.rename(folder / each.name)
    made = register(f"mine={folder / file.name}:OwnScore")
    assert made.path == folder / file.name
    assert register(made.text, made.sha256) == made, "as workers do"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{file}", "FILE.py:CLASS or name=FILE.py:CLASS would do"),
        ("Mine={file}:OwnScore", "FILE.py:CLASS or name=FILE.py:CLASS would do"),
        ("{file}:OwnScor", "own_score.py has no class OwnScor; did you mean 'OwnScore'?"),
        ("jacobian={file}:OwnScore", "registers metric 'jacobian' already; another-name="),
        ("{file}:Partly", "found:    score(self, network, images)"),
        ("{file}:Both", "keeps the contracts of metric and attack"),
        ("{file}:Neither", "keeps no contract"),
        ("{folder}/none.py:OwnScore", "none.py: cannot be read: No such file"),
        ("{folder}:OwnScore", "would do"),
        ("{folder}/broken.py:OwnScore", "broken.py cannot be run: ZeroDivisionError"),
        ("{folder}/wrong.py:OwnScore", "wrong.py cannot be run: SyntaxError"),
        ("{folder}/torch.py:OwnScore", "there is a module torch already"),
        ("{folder}/my-score.py:OwnScore", "letters, digits and _ before .py"),
    ],
)
def test_what_cannot_be_registered_is_told(file: Path, given: str, told: str) -> None:
    (file.parent / "broken.py").write_text("1 / 0")
    (file.parent / "wrong.py").write_text("def (")
    for name in ("torch", "my-score"):
        (file.parent / f"{name}.py").write_text(SOURCE)
    with pytest.raises((InputError, PluginError)) as caught:
        register(given.format(file=file, folder=file.parent))
    assert told in str(caught.value)
    assert not GIVEN
    assert not METRICS.given
    assert not {"broken", "wrong"} & set(sys.modules)
