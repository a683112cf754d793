"""Trackers are told of a run in its order, change nothing of it, and are left out when they fail."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robustnas.cli import main
from robustnas.plan import Seed, Stage
from robustnas.run.directory import RunDirectory
from robustnas.run.progress import Progress
from robustnas.run.tracking import OBEYS, Tracking
from robustnas.runtime import interrupt
from support.fake_package import install
from support.finished_run import results, run

TRACKERS = """
    from attrs import define, field

    from robustnas.errors import InputError

    @define
    class Notes:
        '''Keeps what it is told.'''
        loud: bool = False
        told: list = field(factory=list, init=False)
        folder: object = field(default=None, init=False)
        def start(self, run):
            self.folder = run.folder
            self.told.append(("start", run.name, sorted(run.settings["methods"])))
        def begin(self, stage):
            self.told.append(("begin", stage.title, stage.place, stage.kind, stage.settings))
        def log(self, stage, unit, at, figures):
            self.told.append(("log", stage.title, unit, at, figures))
        def finish(self, stage, result):
            self.told.append(("finish", stage.title, result))
        def end(self, rows):
            self.told.append(("end", [row["method"] for row in rows]))
            (self.folder / "told.txt").write_text(repr(self.told))

    @define
    class Broken(Notes):
        def begin(self, stage):
            raise SystemExit("[/] no")

    @define
    class Absent(Notes):
        def check(self):
            raise InputError("tracker absent needs the package absent: pip install absent would do")
"""


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {name: f"fake_trackers:{name.title()}" for name in ("notes", "broken", "absent")}
    install(tmp_path / "site", "fake-trackers", {"robustnas.trackers": points}, fake_trackers=TRACKERS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


ATTACKS = "attacks=[fgsm, {name: pgd, steps: 3, step_size: 0.01}, {name: pgd, steps: 4, step_size: 0.01}]"


def test_a_run_is_told_whole_and_a_tracker_that_fails_is_left_out(
    trackers: None, finished_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(finished_copy)
    asked = ("--set", ATTACKS, "--set", "methods={darts: {}}", "--set", "trackers=[broken, {name: notes, loud: true}]")
    assert run(finished_copy, *asked) == 0
    said = capsys.readouterr().err
    assert said.count("tracker broken failed in begin and is left out from now on; the run goes on: SystemExit") == 1
    folder = finished_copy / "run" / "trackers"
    assert "SystemExit: [/] no" in (folder / "broken-error.txt").read_text()
    assert not (folder / "broken" / "told.txt").exists(), "it was not told of the end"
    assert {name: when for name, when in results(finished_copy).items() if name in before} == before, "no other keys"
    started, begun, *logged, done, ended = eval((folder / "notes" / "told.txt").read_text())
    title = "darts seed 0 attack pgd-4"
    assert started == ("start", "r", ["darts"])
    assert begun[:2] == ("begin", title)
    assert (finished_copy / "run" / begun[2] / "result.json").exists()
    assert begun[4]["attack"]["steps"] == 4
    assert begun[4]["threat"] == {"norm": "linf", "epsilon": 0.02}
    assert [(*one[:4], set(one[4])) for one in logged] == [("log", title, "image", 40, {"standing"})]
    assert done[:2] == ("finish", title)
    assert done[2]["evaluations"] > 0
    assert ended == ("end", ["darts"])
    assert "- name: notes\n  loud: true" in (finished_copy / "run" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[absent]", "trackers.0: tracker absent needs the package absent: pip install absent would do"),
        ("notes", "trackers: found 'notes'; a list of trackers would do, such as [tensorboard]"),
        ("[notes, {name: notes, loud: true}]", "trackers.1: found a second tracker 'notes'"),
        ("[notes, notes]", "trackers.1: found a second tracker 'notes'"),
        ("[note]", "no tracker is called 'note'; did you mean 'notes'?"),
        ("[{name: notes, load: true}]", "unknown option of tracker 'notes'; did you mean 'loud'?"),
    ],
)
def test_what_cannot_start_is_told_with_its_place_before_anything_is_computed(
    trackers: None, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: str, told: str
) -> None:
    recipe, out = str(finished_run / "r.yaml"), tmp_path / "out"
    for command in ("plan", "run"):
        assert main([command, recipe, "--out", str(out), "--set", f"trackers={written}"]) == 2
        assert told in capsys.readouterr().err
    assert not (out / "layout.json").exists()
    assert main(["run", recipe, "--out", str(finished_run / "run"), "--set", f"trackers={written}"]) == 2


STAGE = Stage("search", "k", "m", Seed(0))
SETTINGS = {"methods": {"m": {"search": {"epochs": 2}}}, "search": {"epochs": 9}, "dataset": {"name": "digits"}}


class Noted(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return lambda *about: self.told.append((name, *about))


def tracking(tmp_path: Path, tracker: Any) -> Tracking:
    return Tracking(RunDirectory(tmp_path), SETTINGS, {"noted": tracker})


def test_steps_are_counted_over_all_epochs_and_what_has_no_figures_is_not_told(tmp_path: Path) -> None:
    noted = Noted(told=[])
    progress = Progress(quiet=True, tracking=tracking(tmp_path, noted))
    progress.started(STAGE)
    report = progress.reporter(STAGE)
    report(0, 2, "epoch")
    report(1, 2, "epoch", step=(3, 10), loss=2.0)
    report(2, 2, "epoch", loss=1.0)
    progress.failed(STAGE, "it diverged")
    assert [what for what, *_ in noted.told] == ["begin", "log", "log", "finish"]
    stage = noted.told[0][1]
    assert stage.settings == {"dataset": {"name": "digits"}, "search": {"epochs": 2}}, "the method's own"
    assert [about[1:] for about in noted.told[1:]] == [
        (stage, "step", 13, {"loss": 2.0}), (stage, "epoch", 2, {"loss": 1.0}), (stage, None)
    ]  # fmt: skip


def test_a_tracker_moves_no_random_number_and_no_default(tmp_path: Path) -> None:
    class Drawing(Noted):
        def begin(self, stage: Any) -> None:
            self.told.append((torch.rand(3), np.random.rand(), random.random()))
            torch.manual_seed(1)
            torch.set_default_dtype(torch.float64)

    noted = Drawing(told=[])
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]
    tracking(tmp_path, noted).started(STAGE)
    assert len(noted.told) == 1
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # type: ignore[index]
    assert torch.get_default_dtype() == torch.float32


def test_a_request_to_stop_is_no_fault_of_a_tracker_and_it_hears_of_the_end(tmp_path: Path) -> None:
    class Stopped(Noted):
        def begin(self, stage: Any) -> None:
            raise interrupt.Ended

    noted = Stopped(told=[])
    with pytest.raises(interrupt.Ended), tracking(tmp_path, noted).of("r") as told:
        told.started(STAGE)
    assert [what for what, *_ in noted.told] == ["start", "end"]
    assert noted.told[0][1].folder == tmp_path / "trackers" / "noted"
    assert noted.told[0][1].folder.is_dir()


def test_every_kind_of_stage_has_its_settings() -> None:
    from robustnas.plan import KINDS

    assert set(OBEYS) == set(KINDS)
