"""Describes which folder holds which stage, and how results are to be shown.

`layout.json` makes a run directory complete in itself: the table is rebuilt from it without the recipe, its
plugins or its data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

from attrs import frozen

from robustnas.attack.column import Column
from robustnas.errors import RunDirectoryError
from robustnas.options import plain
from robustnas.plan import KINDS, Foreign, Plan, Seed, Stage
from robustnas.recipe.schema import Reported
from robustnas.registry import REGIMES
from robustnas.run.directory import RunDirectory
from robustnas.runtime.artifacts import StageFolder, damaged, of_no_stage, read_json
from robustnas.runtime.strangers import described
from robustnas.threat import ThreatModel

SINGLE = tuple(kind for kind in KINDS if kind not in ("candidate", "attack"))
"""The kinds of stages of which a network has one at most."""

LATER = ("choose", "supernet", "score")
"""Kinds that layouts of older versions do not know."""

SCHEMA = 2
"""The version of the file, which rises when its meaning changes."""

QUICK = "quick: a few steps of everything, to see that it runs; THE FIGURES MEAN NOTHING"
"""The first line under the table of a quick recipe."""

VIOLATION = "violation.json"
"""This file in the folder of an attack that fooled a certified image says which certificates, and what happened."""


@frozen
class Layout:
    """The contents of `layout.json`.

    Args:
        dataset: name of the dataset.
        threat: the recipe's threat.
        values: number of pixel values of an image.
        classes: number of classes; None in a directory of an older version.
        attacks: the attacks, in the order in which they are run and shown.
        norms: the norms of certified radii.
        epsilons: radii of the curve of robust accuracy.
        certified_epsilons: further radii at which certified accuracy is shown.
        smoothing: l2 radii at which the smoothed classifier is shown; None where there is none.
        notes: lines that stand under the table.
        methods: for each method and seed, the folders of its stages by kind, and of its attacks by label; those of
            several candidates are a list `tried`.
        published: what others report, shown beside the methods.
        swept: of each method that section `sweep` made, the method it was (`of`) and the values of the swept keys.
    """

    dataset: str
    threat: ThreatModel
    values: int
    classes: int | None
    attacks: list[Column]
    norms: list[str]
    epsilons: list[float]
    certified_epsilons: list[float]
    smoothing: list[float] | None
    notes: list[str]
    methods: dict[str, dict[Seed, dict[str, Any]]]
    published: list[Reported]
    swept: dict[str, dict[str, Any]]

    @property
    def networks(self) -> list[tuple[str, Seed, dict[str, Any]]]:
        """List each method and seed with the folders of its stages."""
        return [(method, seed, stages) for method, seeds in self.methods.items() for seed, stages in seeds.items()]

    @property
    def places(self) -> list[str]:
        """The folders of all stages, each once."""
        places: list[str | None] = []
        for _, _, stages in self.networks:
            places += [stages[kind] for kind in KINDS if kind in stages]
            places += [*stages["tried"], *stages["attacks"].values()]
        return [where for where in dict.fromkeys(places) if where is not None]

    def folders(self, directory: RunDirectory) -> list[StageFolder]:
        """The folders of all stages, each once, in a run directory."""
        return [directory.at(where) for where in self.places]


def read(directory: RunDirectory) -> Layout:
    """Read the layout of a run directory.

    Raises:
        RunDirectoryError: the layout's file is damaged, or of another version.
    """
    file = directory.path / "layout.json"
    data = read_json(file, of_no_stage(file))
    if isinstance(data, dict) and data.get("schema", SCHEMA) != SCHEMA:
        raise RunDirectoryError(
            f"{file} is of schema {data['schema']} and this version of robustnas reads {SCHEMA}\n"
            "  use the version that made it, or run the recipe again in this directory: that writes the file anew"
        )
    try:
        return Layout(
            dataset=str(data["dataset"]),
            threat=ThreatModel(**data["threat"]),
            values=int(data["values"]),
            classes=None if data.get("classes") is None else int(data["classes"]),
            attacks=[Column.of(attack) for attack in data["attacks"]],
            norms=list(data["norms"]),
            epsilons=[float(epsilon) for epsilon in data["epsilons"]],
            # older versions did not write these
            certified_epsilons=[float(epsilon) for epsilon in data.get("certified_epsilons", [])],
            smoothing=None if data["smoothing"] is None else [float(radius) for radius in data["smoothing"]],
            notes=list(data["notes"]),
            methods={
                method: {Seed.of(seed): _stages(stages) for seed, stages in seeds.items()}
                for method, seeds in data["methods"].items()
            },
            published=[_reported(one) for one in data.get("published", [])],
            swept={str(method): {**made, "of": str(made["of"])} for method, made in data.get("swept", {}).items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise RunDirectoryError(damaged(file, described(fault, whole=True), of_no_stage(file))) from fault


def _reported(data: Any) -> Reported:
    """Read what others report.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the data is something else.
    """
    figures = {str(column): float(value) for column, value in data["figures"].items()}
    return Reported(str(data["name"]), str(data["source"]), figures)


def _stages(data: Any) -> dict[str, Any]:
    """Read the folders of one method and seed.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the data does not name folders of stages.
    """
    labels = {label: _folder("attack", where) for label, where in data["attacks"].items()}
    kinds = ("search" if where.startswith("search/") else "candidate" for where in data.get("tried", ()))
    tried = [_folder(kind, where) for kind, where in zip(kinds, data.get("tried", ()), strict=True)]
    found = {str(kind): _folder(kind, data.get(kind) if kind in LATER else data[kind]) for kind in SINGLE}
    return {**found, "tried": tried, "attacks": labels}


def _folder(kind: str, where: Any) -> str | None:
    """Check the path of a stage's folder, which must be a name in the folder of its kind and nowhere else.

    Raises:
        ValueError: it is another path.
    """
    if where is None:
        return None
    parts = PurePosixPath(where).parts
    if parts != (kind, str(where).rpartition("/")[2]) or parts[1] == ".." or "\\" in parts[1]:
        raise ValueError(f"{where!r:.200} is no folder of a stage {kind}")
    return str(where)


def describe(plan: Plan, directory: RunDirectory, notes: Sequence[str]) -> dict[str, Any]:
    """Describe a plan and its folders as plain data.

    Args:
        notes: lines on the images for readers of the table.
    """
    folders = directory.folders(plan.until(None))  # stages with the same key share the folder of the first

    swept = {name: dict(method.swept) for name, method in plan.methods.items() if method.swept is not None}

    def where(stage: Stage | None) -> str | None:
        return None if stage is None else folders[stage.key].path.relative_to(directory.path).as_posix()

    return {
        "schema": SCHEMA,
        "dataset": plan.identity["dataset"]["name"],
        "threat": {"norm": plan.threat.norm, "epsilon": plan.threat.epsilon},
        "values": math.prod(plan.dataset.shape),
        "classes": plan.dataset.classes,
        "attacks": [column.plain() for column in plan.columns],
        "norms": [] if plan.certify is None else list(plan.certify.norms),
        "epsilons": list(plan.evaluate.epsilons) if plan.columns else [],
        "certified_epsilons": [] if plan.certify is None else list(plan.certify.epsilons),
        "smoothing": None if plan.smoothing is None else list(plan.smoothing.radii),
        "notes": [*_notes(plan), *notes],
        "methods": {
            method: {
                str(seed): {
                    **{kind: where(plan.stage(kind, method, seed)) for kind in SINGLE},
                    **_tried(plan, method, seed, where),
                    "attacks": {c.label: where(plan.stage("attack", method, seed, c.label)) for c in plan.columns},
                }
                for seed in plan.seeds_of(method)
            }
            for method in plan.methods
        },
        **({"published": [plain(one) for one in plan.published]} if plan.published else {}),
        **({"swept": swept} if swept else {}),
    }


def _tried(plan: Plan, method: str, seed: Seed, where: Callable[[Stage], str | None]) -> dict[str, Any]:
    """Describe the folders of several candidates: nothing where there is one."""
    tried = [where(stage) for stage in plan.stages_of(method, seed) if stage.candidate is not None]
    return {"tried": tried} if tried else {}


def _notes(plan: Plan) -> list[str]:
    """What a reader must know to read the table rightly."""
    evaluate = plan.evaluate
    images = "all test images"
    if evaluate.images is not None and evaluate.subset == "first":
        images = f"the first {evaluate.images} test images"
    elif evaluate.images is not None:
        images = f"{evaluate.images} test images (drawn with equal classes, seed {evaluate.subset_seed})"
    count = len(plan.seeds.search)
    over = (
        f"mean ± sample standard deviation over {count} seeds; best mean marked" if count > 1 else "1 seed; best marked"
    )
    if plan.seeds.train is not None:
        over = (
            f"mean over {count} search seeds of means over {len(plan.seeds.train)} training seeds ± sample standard "
            "deviation between search seeds ± within them; best mean marked"
        )
    notes = [QUICK] if plan.quick else []
    notes.append(f"accuracies in percent of {images}, {over}")
    if plan.train_images is not None:
        notes.append(f"searched and trained on {plan.train_images:,} of the training images, the same for all methods")

    def named(c: Column) -> str:
        """Name a column, with its threat where that is not the recipe's and the label does not say it."""
        return c.label if c.threat == plan.threat or str(c.threat) in c.label else f"{c.label} ({c.threat})"

    worst = [named(column) for column in plan.columns if column.worst_case]
    if worst:
        notes.append(
            f"robust: right when clean and under each of {', '.join(worst)} at {plan.threat}, image by image; a dash "
            "where one of them is missing"
        )
    if any(column.spared for column in plan.columns):
        notes.append(
            "after X: right when clean, under X and under the attacks before it in its norm, at its radius or a "
            "smaller one; not X's own figure, as X was given only what those left standing (evaluate.attacked: all "
            "gives every attack every image)"
        )
    others = [named(c) for c in plan.columns if not c.worst_case and not c.is_corruption]
    if others:
        notes.append(f"of another threat, not part of robust: {', '.join(others)}")
    corruptions = [column.label for column in plan.columns if column.is_corruption]
    if corruptions:
        notes.append(f"{', '.join(corruptions)}: mean over corruptions and severities, not part of robust")
    if plan.certify is not None:
        some = _first(plan.certify.images, plan)
        by = plan.certify.of_radii
        further = "; certified at a further radius: by a bound there or beyond" if plan.certify.epsilons else ""
        notes.append(
            f"certified: provably right at {plan.threat} by {plan.certify.method}{some}; radius: mean certified "
            f"radius (by {by}, at least epsilon where certified) over those of these images that are classified "
            f"rightly, in pixel units{further}"
        )
        if plan.certify.budget:
            budget = "{seconds:g} s and {parts:,} parts an image".format(**plan.certify.budget)
            notes.append(
                f"broken: wrong when clean, under one of the attacks at {plan.threat}, or at an image that "
                f"{plan.certify.method} found; open: neither certified nor broken within {budget}, so nobody's"
            )
    if plan.smoothing is not None:
        smoothing = plan.smoothing
        some = _first(smoothing.images, plan)
        notes.append(
            f"smoothed: the classifier smoothed with noise of {smoothing.sigma:g}, not the network itself, certainly "
            f"right within that l2 radius{some}, each with confidence {1 - smoothing.alpha:g} ({smoothing.samples} "
            "samples); its radius counts 0 where it is wrong or abstains"
        )
    trained: dict[str, list[str]] = {}
    for name, method in plan.methods.items():
        if method.network is None:
            trained.setdefault(REGIMES.entry_of(type(method.train.regime)).name, []).append(name)
    tells = len(trained) > 1 or any(method.network is not None for method in plan.methods.values())
    regimes = [f"{regime} ({', '.join(names)})" if tells else regime for regime, names in trained.items()]
    notes += [f"training regime: {', '.join(regimes)}"] if regimes else []
    made = [_made(name, m.network) for name, m in plan.methods.items() if m.network is not None]
    notes += [f"made elsewhere: {', '.join(made)}"] if made else []
    return notes


def _first(count: int | None, plan: Plan) -> str:
    """Tell which of the evaluated images are meant, where not all are."""
    evaluated = plan.evaluate.images
    return "" if count is None or (evaluated is not None and count >= evaluated) else f", of the first {count} of them"


def _made(name: str, network: Foreign) -> str:
    """Tell a network made elsewhere, and where it comes from."""
    return f"{name} ({network.factory}, {'no weights given' if network.weights is None else network.weights.file.name})"
