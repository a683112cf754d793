"""The command: what it prints, and the exit status it ends with; no fault of the input shows a traceback."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

import robustnas
from robustnas import cli
from robustnas.errors import RunError
from robustnas.recipe import shelf
from robustnas.recipe.seeds import Seeds
from robustnas.run.local import Local
from robustnas.run.shards import Shard
from robustnas.runtime.interrupt import Ended, OutOfTime
from support.fake_package import install
from support.imported import imported

GOOD = """\
# A recipe of fakes.
dataset: cli-data
search_space: cli-space
threat: {norm: linf, epsilon: 8/255}
methods: {darts: {}}
"""

PLUGINS = """
    from attrs import frozen

    @frozen
    class Data:
        '''Two grey pixels.'''
        folder: str = ""
        shape = (1, 1, 2)
        classes = 2
        mean = (0.0,)
        std = (1.0,)
        def split(self, name): ...

    @frozen
    class Space:
        def supernet(self, shape, classes): ...
        def genotype(self, supernet): ...
        def network(self, genotype, shape, classes, auxiliary=False): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `good.yaml`, whose plugins are installed."""
    site = tmp_path / "site"
    points = {
        "robustnas.datasets": {"cli-data": "cli_fakes:Data"},
        "robustnas.search_spaces": {"cli-space": "cli_fakes:Space"},
        "robustnas.metrics": {"cli-broken": "cli_broken:Broken"},
    }
    install(site, "cli-fakes", points, "2.5", cli_fakes=PLUGINS, cli_broken="assert False, 'too old'")
    monkeypatch.syspath_prepend(str(site))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "good.yaml").write_text(GOOD)
    return work


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A pipeline that notes what it is asked for."""
    fake: Any = types.ModuleType("robustnas.pipeline")
    asked: list[tuple[str, Any, dict[str, Any]]] = []

    def run(loaded: Any, **keys: Any) -> int:
        asked.append(("run", loaded, keys))
        return 0

    fake.run = run
    fake.plan = lambda loaded, **keys: asked.append(("plan", loaded, keys))
    monkeypatch.setitem(sys.modules, "robustnas.pipeline", fake)
    monkeypatch.setattr(robustnas, "pipeline", fake, raising=False)
    return types.SimpleNamespace(asked=asked, module=fake)


def test_run_passes_on_what_was_typed(
    folder: Path, pipeline: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "good.yaml"]) == 0
    options = ["--out", "o", "--device", "cuda:1", "--until", "search", "--jobs", "2", "--quiet", "--shard", "3/8"]
    assert cli.main(["run", "good.yaml", *options, "--set", "seeds=[3]", "--set", "search.epochs=2"]) == 0
    ranked = ["--jobs", "2", "--shard", "1/2", "--executor", "local", "--set", "rank={metrics: [jacobian]}"]
    assert cli.main(["rank", "good.yaml", *ranked]) == 0
    (_, first, default), (_, second, given), (_, third, ranks) = pipeline.asked
    nothing = {"until": None, "jobs": 1, "quiet": False, "rank": False, "end": None, "shard": None, "executor": None}
    assert default == {"out": None, "device": "auto", **nothing}
    typed = {"out": Path("o"), "device": "cuda:1", "until": "search", "jobs": 2, "quiet": True, "shard": Shard(3, 8)}
    assert given == {**default, **typed}
    assert ranks == {**default, "jobs": 2, "rank": True, "shard": Shard(1, 2), "executor": Local()}
    assert (first.recipe.rank is None, third.recipe.rank is None) == (True, False)
    assert cli.main(["rank", "good.yaml"]) == 2
    assert "does not import: AssertionError: too old" in (said := capsys.readouterr().err)
    assert "rank: {metrics: [...]} without it would do" in said
    assert first.recipe.seeds == Seeds((0,))
    assert (second.recipe.seeds, second.recipe.search.epochs) == (Seeds((3,)), 2)


@pytest.mark.parametrize(
    ("budget", "seconds"), [("45s", 45), ("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1h1s", 3601)]
)
def test_a_budget_counts_from_the_start_of_the_command(
    folder: Path, pipeline: types.SimpleNamespace, budget: str, seconds: int
) -> None:
    for command in ("run", "rank"):
        before = time.monotonic()
        set_ = ["--set", "rank={metrics: [jacobian]}"]
        assert cli.main([command, "good.yaml", "--budget", budget, *set_]) == 0
        assert before + seconds <= pipeline.asked[-1][2]["end"] <= time.monotonic() + seconds


def test_plan_and_table(folder: Path, pipeline: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "good.yaml", "--out", "o"]) == 0
    typed = {"out": Path("o"), "memory": False, "executor": None, "device": "auto"}
    assert [(what, keys) for what, _, keys in pipeline.asked] == [("plan", typed)]
    assert cli.main(["table", "runs/x"]) == 2
    assert "runs/x is not a run directory: it has no layout.json" in capsys.readouterr().err


RANK = "rank good.yaml --set 'rank={metrics: [jacobian]}'"


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (RunError("the loss is not finite"), 1, "robustnas: the loss is not finite"),
        (Ended(), 130, "interrupted; to go on where it stopped: robustnas run good.yaml"),
        (
            OutOfTime("7 of 14 stages are done"),
            3,
            "7 of 14 stages are done; to go on where it stopped: robustnas run good.yaml --budget 2h",
        ),
        (
            Ended(),
            130,
            "interrupted; to go on where it stopped: robustnas rank good.yaml --set 'rank={metrics: [jacobian]}'",
        ),
    ],
)
def test_exit_status_of_a_run_that_ends_early(
    folder: Path,
    pipeline: types.SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    told: str,
) -> None:
    def run(loaded: Any, **keys: Any) -> int:
        raise raised

    pipeline.module.run = run
    assert cli.main(shlex.split(told.partition("robustnas ")[2]) if "go on" in told else ["run", "good.yaml"]) == status
    error = capsys.readouterr().err
    assert told in error
    assert ("the budget is over" in error) == (status == 3)
    assert error.count("\n") == 1


BAD = {
    "missing": (None, "no such file"),
    "not text": (b"\x80\x81", "not UTF-8"),
    "unknown keys": (GOOD.encode() + b"sedes: [1]\n", "did you mean 'seeds'?"),
    "plugin that does not import": (
        GOOD.replace("darts: {}", "a: {metric: cli-broken}").encode(),
        "does not import: AssertionError: too old",
    ),
}
"""One of each kind; what is said of every fault is told in tests/recipe."""


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_recipe_ends_with_status_2_and_a_message(
    folder: Path, pipeline: types.SimpleNamespace, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    data, told = BAD[name]
    if data is not None:
        Path("bad.yaml").write_bytes(data)
    assert cli.main([command, "bad.yaml"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("bad.yaml:")
    assert told in error
    assert "Traceback" not in error
    assert pipeline.asked == []


def test_a_faulty_recipe_of_light_plugins_is_told_without_torch(folder: Path) -> None:
    Path("bad.yaml").write_text(GOOD + "search: {epocs: 3}\nattacks: [{name: fgsn}]\n")
    assert imported("plan", "bad.yaml", site=folder.parent / "site") == (2, set())


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["rn"], "did you mean 'run'?"),
        (["plugins", "lst"], "did you mean 'list'?"),
        (["plugins", "show", "metrics", "x"], "did you mean 'metric'?"),
        (["run", "good.yaml", "--devise", "cpu"], "did you mean '--device'?"),
        (["run", "good.yaml", "--device", "gpu"], "cuda:N or mps would do"),
        (["run", "good.yaml", "--jobs", "0"], "a whole number from 1 would do"),
        *[
            (["run", "good.yaml", "--budget", budget], "a time such as 45s, 90m, 2h or 1h30m would do")
            for budget in ("2", "0s", "", "1.5h", "30m2h", "2h ", "9999999h")
        ],
        (["run", "good.yaml", "--until", "serch"], "did you mean 'search'?"),
        (["run"], "RECIPE"),
        (["plan", "."], "is a folder, not a recipe"),
        (["plan", ".."], "is a folder, not a recipe"),
        (["plan", "/"], "is a folder, not a recipe"),
        ([], "COMMAND"),
        (["plugins", "show", "metric", "jacobain"], "did you mean 'jacobian'?"),
        (["plugins", "show", "metric", "cli-broken"], "does not import: AssertionError: too old"),
        (["recipes", "show", "quickstrt"], "no shipped recipe is called 'quickstrt'"),
    ],
)
def test_a_slip_ends_with_status_2_and_a_suggestion(
    folder: Path, capsys: pytest.CaptureFixture[str], typed: list[str], told: str
) -> None:
    assert cli.main(typed) == 2
    assert told in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"robustnas {robustnas.__version__}\n"
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(command in told for command in ("run", "plan", "table", "plugins", "recipes"))


def test_plugins_list_cuts_nothing_and_names_conflicts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = "cli_fakes." + "x" * 150 + ":Data"
    install(tmp_path / "site", "twin", {"robustnas.datasets": {"cli-data": target}}, "0.1")
    assert cli.main(["plugins", "list"]) == 0
    out = capsys.readouterr().out
    assert target in out
    assert "cli-fakes 2.5 (cli_fakes:Data) and twin 0.1 (" in out
    assert "cli-broken" in out
    assert "too old" not in out


def test_plugins_list_load_tells_of_the_broken_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "list", "--load"]) == 0
    lines = capsys.readouterr().out.splitlines()
    state = {tuple(line.split()[:2]): line.split()[-1] for line in lines if len(line.split()) == 6}
    assert state["metric", "cli-broken"] == "broken"
    assert state["dataset", "cli-data"] == "ok"
    assert any("does not import: AssertionError: too old" in line for line in lines)


def test_plugins_show_prints_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plugins", "show", "dataset", "cli-data"]) == 0
    out = capsys.readouterr().out
    assert "dataset cli-data: cli_fakes:Data, from cli-fakes 2.5" in out
    assert "Two grey pixels." in out
    assert [line.split() for line in out.splitlines() if line.startswith("folder")] == [["folder", "text", '""']]
    assert cli.main(["plugins", "show", "search-space", "cli-space"]) == 0
    assert "no options" in capsys.readouterr().out


def test_recipes_are_listed_shown_and_copied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = shelf.names()
    assert "quickstart" in names
    assert cli.main(["recipes", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and shelf.description(name) in listed for name in names)
    assert cli.main(["recipes", "show", "quickstart"]) == 0
    assert capsys.readouterr().out == shelf.read("quickstart")
    assert cli.main(["recipes", "copy", "quickstart"]) == 0
    shipped, copied = shelf.read("quickstart").splitlines(), Path("quickstart.yaml").read_text().splitlines()
    assert shipped[1] == "#   robustnas run quickstart --jobs 2"
    assert copied[1] == "#   robustnas run quickstart.yaml --jobs 2", "the copy's command runs the copy"
    assert copied[2:] == shipped[2:]
    Path("quickstart.yaml").write_text("mine")
    assert cli.main(["recipes", "copy", "quickstart"]) == 2
    assert "overwrites nothing" in capsys.readouterr().err
    assert Path("quickstart.yaml").read_text() == "mine"
    Path("sub").mkdir()
    assert cli.main(["recipes", "copy", "quickstart", "sub"]) == 0
    assert "robustnas run sub/quickstart.yaml --jobs 2" in Path("sub/quickstart.yaml").read_text()
    assert cli.main(["recipes", "copy", "quickstart", "none/x.yaml"]) == 2
    capsys.readouterr()
    assert cli.main(["recipes", "copy", "quickstart", "quickstart.yaml/x"]) == 2
    assert "cannot be written: Not a directory" in capsys.readouterr().err


def test_a_disk_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> str:
        raise OSError(errno.EROFS, "Read-only file system", name)

    monkeypatch.setattr(shelf, "read", refuse)
    assert cli.main(["recipes", "show", "quickstart"]) == 1
    assert capsys.readouterr().err == "robustnas: quickstart: Read-only file system\n"


def test_what_nobody_foresaw_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(shelf, "names", lambda: {}["nothing"])
    assert cli.main(["recipes", "list"]) == 1
    (kept,) = tmp_path.glob("robustnas-*.txt")
    said = capsys.readouterr().err
    assert said.startswith("robustnas: KeyError: 'nothing' (at ")
    assert str(kept) in said
    assert "Traceback" not in said
    assert "Traceback" in kept.read_text(encoding="utf-8")


def test_every_shipped_recipe_says_what_it_is_and_how_to_run_it() -> None:
    names = shelf.names()
    assert {"quickstart", "mnist", "cifar10", "cifar10-small", "imagenet-transfer"} <= set(names)
    for name in names:
        assert shelf.description(name)
        assert any(f"robustnas {command} {name}" in shelf.read(name) for command in ("run", "rank"))


def test_a_reader_that_leaves_is_no_traceback() -> None:
    code = "import sys; from robustnas.cli import main; sys.exit(main(['plugins', 'list']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


def test_python_m_robustnas_is_the_command() -> None:
    command = [sys.executable, "-m", "robustnas", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"robustnas {robustnas.__version__}\n")


def test_a_reader_that_leaves_while_rich_prints_is_no_fault(monkeypatch, capsys):
    """rich makes a SystemExit of the broken pipe, after it has pointed stdout elsewhere."""

    def left(arguments: object) -> int:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904

    monkeypatch.setattr(cli.commands, "table", left)
    monkeypatch.setattr(cli.parser, "_parser", cli.parser._parser.__wrapped__)  # with that command
    assert cli.main(["table", "somewhere"]) == 1
    assert capsys.readouterr() == ("", "")
