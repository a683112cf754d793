"""What a person sees of a run: a live view in a terminal, plain lines elsewhere, failures alone when quiet."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from robustnas.run.progress import PLAIN_SECONDS, Progress

SEARCH: Any = SimpleNamespace(
    key="k", kind="search", method="dsrna-combined", seed_text="0", column=None, title="dsrna-combined seed 0 search"
)
FIGURES = {"loss": 1.25, "accuracy": 0.5, "robustness": -3.5}


class Watched:
    """A progress with a clock that is set by hand, and what it prints."""

    def __init__(self, width: int = 80, terminal: bool = False, quiet: bool = False):
        self.text, self.now = io.StringIO(), 0.0
        console = Console(file=self.text, width=width, height=24, force_terminal=terminal, color_system=None)
        self.progress = Progress(quiet=quiet, console=console, clock=lambda: self.now)
        self.progress.plan(3, 1)
        self.progress.started(SEARCH)
        self.report = self.progress.reporter(SEARCH)

    def rendered(self) -> str:
        """The live view as it would be now."""
        before = self.text.tell()
        self.progress.console.print(self.progress._render())
        return self.text.getvalue()[before:]

    def left(self) -> float | None:
        """Seconds left."""
        return self.progress._working["k"].time_left(self.now)


@pytest.mark.parametrize("width", [80, 40, 24])
def test_the_live_view_fits_the_terminal(width: int):
    watched = Watched(width, terminal=True)
    watched.report(0, 10, "epoch")
    watched.now = 30.0
    watched.report(2, 10, "epoch", **FIGURES)
    view = watched.rendered()
    assert all(len(line) <= width for line in view.splitlines())
    assert "1 of 3 stages done" in view
    if width == 80:
        words = ("dsrna-combined", "search", "epoch 2/10", "loss 1.25", "accuracy 0.5", "robustness -3.5", "2m00s")
        for word in words:
            assert word in view


def test_the_time_left_runs_down_between_reports_and_counts_from_where_a_resume_began():
    watched = Watched()
    watched.report(40, 50, "epoch")
    assert watched.left() is None
    watched.now = 6.0
    watched.report(42, 50, "epoch")
    assert watched.left() == pytest.approx(24.0)
    watched.now = 8.0
    assert watched.left() == pytest.approx(22.0)
    watched.now = 100.0
    assert watched.left() == pytest.approx(21.0), "the next epoch is overdue; what is known is the pace"
    watched.report(50, 50, "epoch")
    assert watched.left() == 0.0


def test_plain_lines_come_now_and_then_and_when_a_stage_is_done():
    watched = Watched()
    for second in range(25):
        watched.now = float(second)
        watched.report(second, 100, "epoch", **FIGURES)
    watched.progress.finished(SEARCH)
    lines = watched.text.getvalue().splitlines()
    assert lines[:2] == ["1 of 3 stages were done before", "dsrna-combined seed 0 search ..."]
    assert len(lines) == 2 + 24 // int(PLAIN_SECONDS) + 1
    assert lines[2].startswith("dsrna-combined seed 0 search: epoch 10/100  loss 1.25  accuracy 0.5  robustness -3.5")
    assert lines[-1] == "[2/3] dsrna-combined seed 0 search: 24.0s  loss 1.25  accuracy 0.5  robustness -3.5"


def test_the_middle_of_an_epoch_is_told_by_step_with_the_time_left_and_no_figure_that_is_known_beforehand():
    watched = Watched()
    watched.report(0, 2, "epoch")
    watched.now = 15.0
    watched.report(0, 2, "epoch", step=(3, 12), **FIGURES, lr=0.1, **{"scores/jacobian": 2.0})
    assert watched.left() == pytest.approx(105.0)
    view = " ".join(watched.rendered().split())
    assert "epoch 1/2 step 3/12 loss 1.25" in view
    assert "epoch 1/2 step 3/12  loss 1.25  accuracy 0.5  robustness -3.5  1m45s left" in watched.text.getvalue()
    assert not {"lr", "scores/jacobian"} & set(watched.text.getvalue().split())
    watched.now = 20.0
    watched.report(1, 2, "epoch", **FIGURES)
    assert "epoch 1/2 loss" in " ".join(watched.rendered().split())


def test_a_resume_in_the_middle_of_an_epoch_counts_from_there():
    watched = Watched()
    watched.report(0, 2, "epoch", step=(900, 1000))
    watched.now = 1.0
    watched.report(0, 2, "epoch", step=(910, 1000))
    assert watched.left() == pytest.approx(109.0)


def test_quiet_says_failures_alone():
    watched = Watched(quiet=True)
    watched.now = 100.0
    watched.report(1, 2, "epoch", **FIGURES)
    watched.progress.skipped(SEARCH)
    assert watched.text.getvalue() == ""
    watched.progress.failed(SEARCH, "it diverged")
    assert watched.text.getvalue() == "failed: dsrna-combined seed 0 search: it diverged\n"
