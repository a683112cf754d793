"""From a run directory back to the table: which folder holds which stage, and what the results say.

`layout.json` makes a run directory complete in itself: the table is rebuilt from it without the recipe, its
plugins or its data.
"""

from __future__ import annotations

from typing import Any

from robustnas.artifacts import StageFolder, damaged, of_no_stage, read_json
from robustnas.errors import RunDirectoryError
from robustnas.plan import Plan, Stage
from robustnas.run.directory import RunDirectory
from robustnas.table import AttackColumn, Comparison, SeedResult, row


def describe(plan: Plan, directory: RunDirectory) -> dict[str, Any]:
    """The layout as plain data."""

    def where(stage: Stage | None) -> str | None:
        return None if stage is None else directory.folder(stage).path.relative_to(directory.path).as_posix()

    return {
        "schema": 1,
        "threat": str(plan.threat),
        "attacks": [
            {
                "label": str(a.label),
                "threat": str(a.threat or plan.threat),
                "worst_case": (a.threat or plan.threat) == plan.threat,
            }
            for a in plan.attacks
        ],
        "norms": [] if plan.certify is None else list(plan.certify.norms),
        "notes": _notes(plan),
        "methods": {
            method: {
                str(seed): {
                    "search": where(plan.stage("search", method, seed)),
                    "train": where(plan.stage("train", method, seed)),
                    "clean": where(plan.stage("clean", method, seed)),
                    "attacks": {str(a.label): where(plan.stage("attack", method, seed, a.label)) for a in plan.attacks},
                    "certify": where(plan.stage("certify", method, seed)),
                }
                for seed in plan.seeds
            }
            for method in plan.methods
        },
    }


def _notes(plan: Plan) -> list[str]:
    """What a reader must know to read the table rightly."""
    images = "all" if plan.evaluate.images is None else f"the first {plan.evaluate.images}"
    seeds = "1 seed" if len(plan.seeds) == 1 else f"{len(plan.seeds)} seeds"
    notes = [f"accuracies in percent of {images} test images, mean ± standard deviation over {seeds}; best mean marked"]
    worst = [str(a.label) for a in plan.attacks if (a.threat or plan.threat) == plan.threat]
    if worst:
        notes.append(f"robust: right when clean and under each of {', '.join(worst)} at {plan.threat}, image by image")
    others = [str(a.label) for a in plan.attacks if (a.threat or plan.threat) != plan.threat]
    if others:
        notes.append(f"of another threat, not part of robust: {', '.join(others)}")
    if plan.certify is not None:
        some = "" if plan.certify.images is None else f", of the first {plan.certify.images} test images"
        by = plan.certify.radius_method or plan.certify.method
        notes.append(
            f"certified: provably right at {plan.threat} by {plan.certify.method}{some}; radius: mean certified "
            f"radius (by {by}, at least epsilon where certified) over the correctly classified of them, in pixel units"
        )
    regimes = sorted({type(m.train.regime).__name__.lower() for m in plan.methods.values()})
    notes.append(f"training regime: {', '.join(regimes)}")
    return notes


def comparison(directory: RunDirectory) -> Comparison:
    """The table of a run directory.

    Raises:
        RunDirectoryError: a result is damaged.
        VerdictError: two results contradict each other.
    """
    file = directory.path / "layout.json"
    data = read_json(file, of_no_stage(file))
    try:
        columns = [AttackColumn(a["label"], a["threat"], a["worst_case"]) for a in data["attacks"]]
        shown = str(data["threat"]), columns, list(data["norms"]), list(data["notes"])
        methods = {method: [(int(seed), stages) for seed, stages in s.items()] for method, s in data["methods"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise RunDirectoryError(damaged(file, f"{type(fault).__name__}: {fault}", of_no_stage(file))) from fault
    rows = [
        row(method, [_seed_result(directory, seed, stages) for seed, stages in seeds], columns)
        for method, seeds in methods.items()
    ]
    threat, attacks, norms, notes = shown
    return Comparison(threat, rows, attacks, norms, notes)


def _seed_result(directory: RunDirectory, seed: int, stages: dict[str, Any]) -> SeedResult:
    search = _result(directory, stages["search"], "search_seconds")
    train = _result(directory, stages["train"], "parameters")
    clean = _result(directory, stages["clean"], "predictions", "labels")
    certify = _result(directory, stages["certify"], "certified", "radius")
    attacks = {label: _result(directory, where, "success") for label, where in stages["attacks"].items()}
    return SeedResult(
        seed=seed,
        clean=None if clean is None else [p == y for p, y in zip(clean["predictions"], clean["labels"], strict=True)],
        broken={label: found["success"] for label, found in attacks.items() if found is not None},
        certified=None if certify is None else certify["certified"],
        radius={} if certify is None else certify["radius"],
        parameters=None if train is None else train["parameters"],
        search_seconds=None if search is None else search["search_seconds"],
    )


def _result(directory: RunDirectory, where: str | None, *keys: str) -> dict[str, Any] | None:
    """What a stage wrote; None where it does not exist or has not run.

    Raises:
        RunDirectoryError: it lacks one of the keys; names the file and how to redo the stage.
    """
    if where is None:
        return None
    folder = StageFolder(directory.path / where)
    if not folder.done:
        return None
    result = folder.result()
    missing = [key for key in keys if key not in result]
    if missing:
        raise RunDirectoryError(damaged(folder.result_file, f"it has no {', '.join(missing)}"))
    return result
