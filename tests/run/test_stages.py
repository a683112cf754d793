"""How stages fail and succeed, what certificates of a stage say together, and work that goes on batch by batch."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustnas import certify
from robustnas.certify.settings import Certify
from robustnas.data.order import in_order
from robustnas.errors import RunDirectoryError, RunError
from robustnas.run import batchwise, stages
from robustnas.run.certification import _radii
from robustnas.runtime import interrupt, progress_files
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import silent
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.search.strategies.evolution import Evolution
from robustnas.threat import ThreatModel

FOUND = {"linf": [0.02, 0.0, 0.3, 0.0], "l2": [0.01, 0.0, 0.5, 0.0], "l1": [0.04, 0.0, 0.2, 0.0]}
CERTIFIED = torch.tensor([True, False, True, True])


@pytest.mark.parametrize(
    ("threat", "norms", "expected"),
    [
        (
            ("linf", 0.1),
            ["linf", "l2", "l1"],
            {"linf": [0.1, 0, 0.3, 0.1], "l2": [0.1, 0, 0.5, 0.1], "l1": [0.1, 0, 0.5, 0.1]},
        ),
        (
            ("l2", 0.1),
            ["l1", "linf", "l2"],
            {"linf": [0.02, 0, 0.3, 0], "l2": [0.1, 0, 0.5, 0.1], "l1": [0.1, 0, 0.5, 0.1]},
        ),
        (("l1", 0.1), ["linf", "l1"], {"linf": [0.02, 0, 0.3, 0], "l1": [0.1, 0, 0.3, 0.1]}),
        (("linf", 0.1), ["l1"], {"l1": [0.1, 0, 0.2, 0.1]}),
        (("l1", 0.1), ["linf"], {"linf": [0.02, 0, 0.3, 0]}),
        (("linf", 0.1), [], {}),
    ],
    ids=str,
)
def test_a_ball_inside_a_certified_ball_is_certified(monkeypatch, threat, norms, expected):
    monkeypatch.setattr(certify, "radius", lambda network, x, y, norm, method: torch.tensor(FOUND[norm]))
    plan = SimpleNamespace(certify=Certify(norms=norms), threat=ThreatModel(*threat))
    images, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    found, _ = _radii(None, images, labels, plan, CERTIFIED)
    assert list(found) == norms  # in the order of the recipe
    for norm, radii in expected.items():
        torch.testing.assert_close(found[norm], torch.tensor(radii, dtype=torch.float32))


class Batches:
    """Counts what it is asked for; the image at `stop` ends the sitting."""

    def __init__(self, stop: int = -1, fault: BaseException | None = None):
        self.stop, self.fault, self.asked = stop, fault, []

    def __call__(self, places: torch.Tensor) -> batchwise.Rows:
        if self.stop in places.tolist():
            assert self.fault is not None
            raise self.fault
        self.asked += places.tolist()
        return {"certified": [bool(place % 2) for place in places], "radius": [place / 7 for place in places.tolist()]}


def sitting(folder: Path, compute: Batches, batch: int = 3, processes: Processes = ALONE) -> batchwise.Rows:
    task = SimpleNamespace(folder=StageFolder(folder), processes=processes, report=silent)
    return batchwise.rows_of(task, in_order(10, batch), compute)


def stops_at_the_second() -> Callable[[], None]:
    """A check that stops at its second call."""
    calls = iter([None, interrupt.Interrupted()])

    def check() -> None:
        fault = next(calls)
        if fault is not None:
            raise fault

    return check


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [(interrupt.Interrupted(), 1000.0), (ZeroDivisionError(), -1.0)],
    ids=["asked to stop", "killed after a write"],
)
def test_batches_of_an_earlier_sitting_are_not_done_again(tmp_path, monkeypatch, fault, seconds):
    monkeypatch.setattr(progress_files, "SECONDS", seconds)
    whole = sitting(tmp_path / "whole", Batches())
    assert whole == {"certified": [bool(n % 2) for n in range(10)], "radius": [n / 7 for n in range(10)]}
    with pytest.raises(type(fault)):
        sitting(tmp_path / "cut", Batches(7, fault))
    with pytest.raises(type(fault)):  # a second time, before anything new is done
        sitting(tmp_path / "cut", Batches(7, fault))
    with monkeypatch.context() as patched:
        patched.setattr(interrupt, "check", stops_at_the_second())
        with pytest.raises(interrupt.Interrupted):  # a third time, among what is done: that stays
            sitting(tmp_path / "cut", Batches())
    again = Batches()
    assert sitting(tmp_path / "cut", again) == whole
    assert again.asked == [6, 7, 8, 9]
    batchwise.forget(SimpleNamespace(folder=StageFolder(tmp_path / "cut"), processes=ALONE))
    assert not list((tmp_path / "cut").iterdir())


def test_a_batch_of_other_images_or_a_damaged_file_is_no_earlier_work(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_files, "SECONDS", -1.0)
    whole = sitting(tmp_path / "fours", Batches(), batch=4)
    # the third batch of four has two images, and so has every batch of two
    assert sitting(tmp_path / "fours", Batches(), batch=2) == whole
    with pytest.raises(interrupt.Interrupted):
        sitting(tmp_path, Batches(7, interrupt.Interrupted()))
    again = Batches()
    sitting(tmp_path, again, batch=4)
    assert again.asked == list(range(10))
    StageFolder(tmp_path).save_tensors("progress-0.pt", {"0": "x"})
    with pytest.raises(RunDirectoryError, match=r"progress-0\.pt is damaged.*\n.*delete the folder"):
        sitting(tmp_path, Batches())


def test_batches_that_leave_out_places_are_known_by_all_of_them_and_rows_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_files, "SECONDS", -1.0)
    task = SimpleNamespace(folder=StageFolder(tmp_path), processes=ALONE, report=silent)
    whole = sitting(tmp_path / "whole", Batches())
    some, rest = torch.tensor([1, 2, 5, 8]), torch.tensor([0, 3, 4, 6, 7, 9])
    first = Batches()
    assert batchwise.rows_of(task, [some, rest], first) == whole
    assert first.asked == [1, 2, 5, 8, 0, 3, 4, 6, 7, 9]
    again = Batches()
    assert batchwise.rows_of(task, [torch.tensor([1, 8]), torch.tensor([2, 5]), rest], again) == whole
    assert again.asked == [1, 8, 2, 5]


def a_stage(folder: Path, kind: str = "train", **method: Any) -> Any:
    return SimpleNamespace(
        folder=StageFolder(folder), stage=SimpleNamespace(kind=kind), method=SimpleNamespace(**method)
    )


def test_the_traceback_of_an_attempt_goes_when_a_later_one_succeeds(tmp_path, monkeypatch):
    monkeypatch.setitem(stages.DO, "train", lambda task: {}["there is none"])
    with pytest.raises(RunError, match="the traceback is in"):
        stages.execute(a_stage(tmp_path))
    assert "KeyError" in (tmp_path / stages.ERROR).read_text()
    monkeypatch.setitem(stages.DO, "train", lambda task: None)
    stages.execute(a_stage(tmp_path))
    assert not (tmp_path / stages.ERROR).exists()


@pytest.mark.parametrize(
    ("strategy", "searches", "key"),
    [
        (Evolution(), False, "train.batch"),
        (Evolution(objective="metric", network="untrained"), False, "search.batch"),
        (Bilevel(), True, "search.batch"),
    ],
)
def test_a_search_that_trains_candidates_is_told_what_makes_trainings_smaller(
    tmp_path, monkeypatch, strategy, searches, key
):
    def too_large(task):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setitem(stages.DO, "search", too_large)
    with pytest.raises(RunError, match=f"a smaller {key}"):
        stages.execute(a_stage(tmp_path, "search", strategy=strategy, searches=searches))
