"""What other people's code raises is told and ends no more than what called it; none of it passes for success."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from robustnas.cli import main
from robustnas.errors import InputError, RobustnasError, RunError
from robustnas.runtime import interrupt
from robustnas.runtime.strangers import carried, contained, first_line, text_of, traced
from support.evaluated_digits import SOURCE, prepare, weights
from support.fake_package import group, install

STRANGE = """
class Own(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise SystemExit(0)
    __repr__ = __str__

from robustnas.errors import RobustnasError

class Success(RobustnasError):
    exit_status = 0
    def __init__(self, one, two):
        super().__init__(one)

RAISED = {
    "SystemExit": lambda: SystemExit(0), "GeneratorExit": GeneratorExit, "Own": Own, "Mute": Mute,
    "StopIteration": StopIteration, "KeyboardInterrupt": KeyboardInterrupt, "Success": lambda: Success("well done", 2),
    "MuteExit": lambda: type("MuteExit", (SystemExit,), {"__str__": Mute.__str__})(0),
}

def strike(name):
    raise RAISED[name]()
"""
KINDS = ["SystemExit", "GeneratorExit", "Own", "Mute", "StopIteration", "KeyboardInterrupt", "Success", "MuteExit"]

LATE = """

class Late(nn.Sequential):
    def forward(self, x):
        if len(x) > 2:  # not when it is tried with an image or two
            strike({!r})
        return super().forward(x)


def late():
    return Late(*make())
"""

PLUGINS = """
    from pathlib import Path
    import torch
    from attrs import field, frozen
    from robustnas_plugins.datasets.digits import Digits as Real
    from strange import strike

    class Data:
        mean, std, classes = (0.5,), (0.5,), 10
        def __init__(self, where: str = "", what: str = "SystemExit"):
            self.where, self.what = where, what
            self.at("init")
        def at(self, where):
            if self.where == where:
                strike(self.what)
        @property
        def shape(self):
            self.at("shape")
            return (1, 8, 8)
        def split(self, name):
            self.at(name)
            return Real().split(name)

    def valid(instance, attribute, value):
        if value:
            strike(value)

    @frozen
    class Attack:
        what: str = field(default="", validator=valid)
        build_raises: str = ""
        def build(self, threat):
            if self.build_raises:
                strike(self.build_raises)
            from robustnas_plugins.attacks.pgd import PGD
            return PGD(steps=1, step_size=0.01).build(threat)
"""

EVIL = """
    from strange import strike

    class Meta(type):
        def __getattribute__(cls, name):
            if name in ("__attrs_attrs__", "split", "__doc__", "__name__", "__qualname__"):
                raise SystemExit(0)
            return super().__getattribute__(name)
        def __repr__(cls):
            raise GeneratorExit

    class Metaclass(metaclass=Meta):
        def build(self, threat): ...

    class Annotated:
        def __init__(self, a: "strike('SystemExit')" = 0): ...
        def build(self, threat): ...

    class Shown:
        def __repr__(self):
            strike("Mute")
    instance = Shown()

    class Good:
        def build(self, threat): ...
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with networks, weights and plugins that strike where they are told to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    points = {
        group("datasets"): {"strange": "strange_plugins:Data"},
        group("attacks"): {"odd": "strange_plugins:Attack"},
    }
    install(tmp_path, "strange", points, strange=STRANGE, strange_plugins=PLUGINS)
    for name in KINDS:
        text = f"from strange import strike\n{SOURCE}{LATE.format(name)}"
        (tmp_path / f"late_{name}.py").write_text(text)
        sys.modules.pop(f"late_{name}", None)
    return tmp_path


def recipe(text: str, dataset: str = "digits", network: str = "evaluated_nets:make") -> None:
    prepare(Path.cwd(), text)
    whole = Path("r.yaml").read_text()
    Path("r.yaml").write_text(
        whole.replace("dataset: digits", f"dataset: {dataset}").replace("evaluated_nets:make", network)
    )


def run(*more: str) -> int:
    return main(["run", "r.yaml", "--out", "run", "--device", "cpu", *more])


SMALL = "attacks: [fgsm]\nevaluate: {images: 8}\n"


@pytest.mark.parametrize("what", KINDS)
def test_a_network_that_raises_late_fails_its_stages_and_the_table_is_written(
    what: str, capsys: pytest.CaptureFixture[str]
):
    torch.save(weights(), "weights.pt")
    options = "--weights weights.pt --dataset digits --norm linf --epsilon 0.1 --attack fgsm --images 8 --out run"
    status = main(["evaluate", "--network", f"late_{what}:late", *options.split()])
    captured = capsys.readouterr()
    assert status == 1, captured.err
    assert "failed: late seed 0 clean: " in captured.err
    assert "Traceback" not in captured.err
    assert Path("run/table.md").is_file()
    assert captured.out.strip(), "the table is printed"


@pytest.mark.parametrize("where", ["init", "shape", "train", "test"])
@pytest.mark.parametrize("what", ["SystemExit", "Own", "Success", "MuteExit"])
def test_a_dataset_that_raises_anywhere_ends_with_a_message(where: str, what: str, capsys: pytest.CaptureFixture[str]):
    recipe(SMALL, dataset=f"{{name: strange, where: {where}, what: {what}}}")
    statuses = {run()}
    if where != "train":
        assert 0 not in statuses
    captured = capsys.readouterr()
    assert statuses == {0} or captured.err.strip()
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("option", ["what", "build_raises"])
@pytest.mark.parametrize("what", KINDS)
def test_an_attack_that_raises_while_it_is_made_is_a_fault_of_the_recipe(
    option: str, what: str, capsys: pytest.CaptureFixture[str]
):
    recipe(f"attacks: [{{name: odd, {option}: {what}}}]\nevaluate: {{images: 8}}\n")
    assert run() == 2
    message = capsys.readouterr().err
    assert "r.yaml:" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("what", ["SystemExit", "Own", "KeyboardInterrupt"])
def test_a_module_that_raises_as_it_is_imported(what: str, capsys: pytest.CaptureFixture[str], here: Path):
    (here / "ends.py").write_text(f"from strange import strike\nstrike({what!r})\n")
    sys.modules.pop("ends", None)
    recipe(SMALL, network="ends:make")
    assert run() == 2
    assert f"the import of ends raised {what}" in capsys.readouterr().err


@pytest.mark.processes
def test_side_by_side_a_worker_that_is_ended_by_a_plugin_fails_one_stage(here: Path, capfd: pytest.CaptureFixture[str]):
    recipe(SMALL, network="late_SystemExit:late")
    assert run("--jobs", "2") == 1
    told = capfd.readouterr().err
    assert "failed: net seed 0 clean: SystemExit: 0" in told
    assert "Traceback" not in told


def test_one_broken_plugin_does_not_take_the_list_with_it(here: Path, capsys: pytest.CaptureFixture[str]):
    names = {"good": "Good", "meta[bold]": "Metaclass", "annotated": "Annotated", "shown": "instance"}
    install(here, "evil", {group("attacks"): {name: f"evil:{it}" for name, it in names.items()}}, evil=EVIL)
    assert main(["plugins", "list", "--load"]) == 0
    printed = capsys.readouterr().out
    states = {
        words[1]: words[-1] for line in printed.splitlines() if len(words := line.split()) > 4 and words[0] == "attack"
    }
    assert states["good"] == states["fgsm"] == "ok"
    assert {states[name] for name in names if name != "good"} == {"broken"}
    assert main(["plugins", "show", "attack", "good"]) == 0
    assert main(["plugins", "show", "attack", "annotated"]) == 2


def test_what_a_process_shares_is_put_back():
    before = (os.getcwd(), sys.stdout, sys.getrecursionlimit(), torch.get_default_dtype(), torch.is_grad_enabled())

    def theirs() -> None:
        os.chdir("/")
        sys.stdout = None  # type: ignore[assignment]
        sys.setrecursionlimit(200)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        raise type("Own", (BaseException,), {})

    with pytest.raises(RunError, match="Own"), contained(RunError):
        theirs()
    after = (os.getcwd(), sys.stdout, sys.getrecursionlimit(), torch.get_default_dtype(), torch.is_grad_enabled())
    assert after == before


def test_the_users_wish_passes_and_a_look_alike_does_not():
    with interrupt.ending():
        with pytest.raises(interrupt.Ended), contained(RunError):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(RunError, match="KeyboardInterrupt"), contained(RunError):
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), contained(RunError):
        raise KeyboardInterrupt  # as in a notebook: it may have been typed


def test_texts_of_exceptions_are_made_whatever_they_are():
    class MuteError(InputError):
        def __init__(self) -> None:
            super().__init__()

        def __str__(self) -> str:
            raise GeneratorExit

    assert text_of(MuteError()) == "its text cannot be had, as that raises GeneratorExit"
    assert text_of(ValueError("x" * 5000)).endswith("... (5000 characters)")
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("a\nb")) == "a"
    assert type(carried(MuteError())) is InputError
    assert traced(ValueError("a\nb")) == "ValueError: a"
    assert isinstance(carried(RobustnasError("x")), RobustnasError)
