"""The promises of a tracker: it takes whatever a run tells, goes on where one stopped, and writes where it should."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import attrs

from robustnas.contracts import TrackedRun, TrackedStage
from robustnas.testing.promise import Judge, judged, made

SETTINGS: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "threat": {"norm": "linf", "epsilon": 0.1},
    "methods": {"größe [b] #1": {"search": {"epochs": 2, "order": {"name": "first"}, "crop": None}}},
}
STAGES = [
    TrackedStage(f"größe [b] #1 seed 0.1 {what}", f"{kind}/m-seed0.1-{number:012x}", kind, "größe [b] #1", "0.1", own)
    for number, (kind, what, own) in enumerate(
        [
            (
                "search",
                "search",
                {"search": SETTINGS["methods"]["größe [b] #1"]["search"], "metric": [{"weight": 1.0}]},
            ),
            ("train", "train", {"train": {"epochs": 2, "read_size": None}}),
            (
                "attack",
                "attack pgd-20 (l2 0.5)",
                {"attack": {"name": "pgd", "steps": 20}, "evaluate": {"epsilons": []}},
            ),
        ]
    )
]
ROWS: list[dict[str, Any]] = [
    {
        "method": "größe [b] #1",
        "seeds": {"search": [0], "train": [1]},
        "clean": {"mean": 0.5, "values": [0.5]},
        "attacks": {"pgd-20 (l2 0.5)": {"mean": 0.25}, "square": None},
        "robust": None,
        "flags": [],
    }
]


def check_tracker(plugin: Any) -> tuple[str, ...]:
    """Hold a tracker to its contract: it is told of a small run that is stopped, of the rest, and of the end.

    Args:
        plugin: the tracker, or its class, which is made with default options.

    Returns:
        The promises that were looked at.

    Raises:
        ConformanceError: broken promises, all of them.
        InputError: its `check` says that it cannot start here.
    """
    with judged("tracker", plugin) as verdict, tempfile.TemporaryDirectory() as temporary:
        tracker = made(plugin, verdict)
        if hasattr(tracker, "check"):
            found = tracker.check()
            verdict.expect(found is None, "check returns nothing, and refuses by raising InputError", repr(found))
        directory = Path(temporary) / "run"
        folder = directory / "trackers" / "kit"
        folder.mkdir(parents=True)
        (directory / "result.json").write_text("{}")
        settings = copy.deepcopy(SETTINGS)
        run = TrackedRun("kit", directory, folder, settings)
        _stopped(tracker, run, verdict)
        again = attrs.evolve(tracker) if attrs.has(type(tracker)) else tracker
        _gone_on(again, run, verdict)
        _gone_on(tracker, run, verdict)
        there = {path.name for path in (*directory.iterdir(), *folder.parent.iterdir())}
        verdict.expect(
            there == {"result.json", "trackers", "kit"} and (directory / "result.json").read_text() == "{}",
            "writes into its own folder of the run directory, and leaves the rest as it was",
            f"{', '.join(sorted(there))}",
        )
        verdict.expect(settings == SETTINGS, "leaves what it is told as it was", "the settings differ")
    return tuple(verdict.tried)


def _stopped(tracker: Any, run: TrackedRun, verdict: Judge) -> None:
    """Tell of a run whose stages overlap, one of which is done, one failed and one stopped."""
    search, train, attack = STAGES
    with verdict.promised("start takes a run that begins"):
        tracker.start(run)
    with verdict.promised("takes stages that are under way together, and figures that are not finite"):
        tracker.begin(search)
        tracker.begin(train)
        tracker.log(search, "step", 3, {"loss": float("nan")})
        tracker.log(train, "epoch", 1, {"loss": 2.0, "lr": 0.1})
        tracker.log(search, "epoch", 1, {"loss": 1.0, "scores/jacobian": -3.0, "alpha_gradient_norm/loss": 1e-30})
        tracker.begin(attack)
        tracker.log(attack, "apgd-ce image", 10, {"standing": 1})
    with verdict.promised("takes a result, and that a stage failed"):
        tracker.finish(
            search, {"genotype": {"normal": [["skip", 0]]}, "search_seconds": 1.5, "notes": [], "none": None}
        )
        tracker.finish(attack, None)
    with verdict.promised("end takes a run without a table, with a stage that was stopped"):
        tracker.end([])


def _gone_on(tracker: Any, run: TrackedRun, verdict: Judge) -> None:
    """Tell of the rest of that run."""
    _, train, _ = STAGES
    with verdict.promised("start takes a run that goes on, in the folder that it has written to"):
        tracker.start(run)
    with verdict.promised("takes the rest of a stage that was stopped, and the table"):
        tracker.begin(train)
        tracker.log(train, "epoch", 2, {"loss": 1.0})
        tracker.finish(train, {"train_seconds": 2.0, "size": {"channels": 3}})
        tracker.end(ROWS)
