"""Makes the table of a run directory, a list of what happened to each image, and an entry for RobustBench."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from robustnas.attack import outcomes
from robustnas.attack.outcomes import STORED, Outcomes
from robustnas.attack.review import answers
from robustnas.attack.review.flag import SMOOTHED, Flag
from robustnas.attack.review.records import of_attacks
from robustnas.certify import verdicts
from robustnas.certify.verdicts import Attacked
from robustnas.errors import InputError, RunDirectoryError, VerdictError
from robustnas.plan import KINDS, Seed
from robustnas.run import layout
from robustnas.run.asked import known_method
from robustnas.run.directory import RunDirectory
from robustnas.run.layout import VIOLATION, Layout
from robustnas.runtime import printable
from robustnas.runtime.artifacts import damaged
from robustnas.table import comparisons, robustbench
from robustnas.table.rows import Comparison, SeedResult, row, share

AUTOATTACK = "autoattack"
"""The attack whose figure RobustBench lists, by its name in a recipe."""

BUDGET = ("version", "steps", "queries")
"""Options of that attack which the standard version leaves at their defaults."""

NAMED = 8
"""A note names at most so many missing stages."""


def comparison(directory: RunDirectory) -> Comparison:
    """Make the table of a run directory.

    Where an attack disproved a certificate, both are left out; where two results of a network contradict each other
    otherwise, all its attacks and certificates are.  Each is one of the comparison's `contradictions`.

    Raises:
        RunDirectoryError: a result is damaged.
    """
    return with_networks(directory)[0]


def with_networks(directory: RunDirectory) -> tuple[Comparison, dict[str, list[SeedResult]]]:
    """Make the table of a run directory, and give what each network of each method measured, less what was left out.

    Raises:
        RunDirectoryError: a result is damaged.
    """
    shown = layout.read(directory)
    rows, contradictions = [], []
    measured: dict[str, list[SeedResult]] = {}
    for method, seeds in shown.methods.items():
        results = []
        for seed, stages in seeds.items():
            result, wrong = _believed(directory, shown, method, seed, stages)
            results.append(result)
            contradictions += wrong
        measured[method] = results
        rows.append(row(method, results, shown.attacks, shown.epsilons, shown.smoothing, shown.certified_epsilons))
    made = Comparison(
        threat=str(shown.threat),
        rows=rows,
        attacks=shown.attacks,
        norms=shown.norms,
        notes=[
            *shown.notes,
            *_weights(directory, shown),
            *_divisions(directory, shown),
            *_matches(directory, shown),
            *_chance(shown, measured),
            *_missing(directory, shown),
        ],
        epsilons=shown.epsilons,
        certified_epsilons=shown.certified_epsilons,
        smoothing=shown.smoothing,
        contradictions=contradictions,
        kept=_kept(directory, shown),
        published=shown.published,
    )
    return attrs.evolve(made, comparisons=comparisons.compared(made, measured)), measured


def _weights(directory: RunDirectory, shown: Layout) -> list[str]:
    """Note what was taken from the files of networks made elsewhere."""
    firsts = {method: next(iter(seeds.values()))["clean"] for method, seeds in shown.methods.items()}
    taken = {method: (_result(directory, where) or {}).get("weights") for method, where in firsts.items()}
    told = [f"{method} {text}" for method, text in taken.items() if isinstance(text, str)]
    return [f"weights taken: {', '.join(told)}"] if told else []


def _matches(directory: RunDirectory, shown: Layout) -> list[str]:
    """Note which capacity networks were matched to."""
    found = [(_result(directory, stages["train"]) or {}).get("match") for _, _, stages in shown.networks]
    targets = {(one["kind"], one["target"]) for one in found if one is not None}
    told = ", ".join(f"{target:,} {kind.replace('_', '-')}" for kind, target in sorted(targets))
    return [f"networks matched to {told}; match: by how much the network that came closest misses that"] if told else []


def _chance(shown: Layout, measured: dict[str, list[SeedResult]]) -> list[str]:
    """Note accuracies that are no farther from those of an answer by chance than so many images can tell.

    Each lies in the 95 % interval of the share of right answers among as many images of equally many classes, normal
    approximation of the binomial; several networks see the same images, so the images count once.  None right is
    nothing that anybody takes for robustness.
    """
    if shown.classes is None:
        return []
    picks: dict[str, Callable[[SeedResult], Sequence[float] | None]] = {
        "clean": lambda r: r.clean,
        "robust": lambda r: r.attacks.robust,
        "certified": lambda r: r.certified,
    }
    chance, told = 1 / shown.classes, []
    for name, pick in picks.items():
        whose = []
        for method, results in measured.items():
            found = [flags for flags in map(pick, results) if flags is not None]
            half = 1.96 * math.sqrt(chance * (1 - chance) / len(found[0])) if found else 0.0
            mean = share([share(flags) for flags in found]) if found else 0.0
            if mean > 0 and abs(mean - chance) <= half:
                whose.append(method)
        told += [f"{name} of {', '.join(whose)}"] if whose else []
    about = f"cannot be told from chance, {chance:.2%} right among {shown.classes} classes, with so few images"
    return [f"{about}: {'; '.join(told)}"] if told else []


def check(directory: RunDirectory, method: str, seed: Seed) -> None:
    """Refuse a network whose attacks and certificates contradict each other.

    Raises:
        RunDirectoryError: a result is damaged.
        VerdictError: they do.
    """
    shown = layout.read(directory)
    stages = shown.methods.get(method, {}).get(seed)
    if stages is not None:
        _, wrong = _believed(directory, shown, method, seed, stages)
        if wrong:
            raise VerdictError("\n".join(wrong))


def _believed(
    directory: RunDirectory, shown: Layout, method: str, seed: Seed, stages: dict[str, Any]
) -> tuple[SeedResult, list[str]]:
    """Read what the stages of a method and seed measured, without what was contradicted, and each contradiction."""
    wrong = _proved_wrong(directory, method, seed, stages)
    try:
        # an attack that fooled a certified image ended without a result, so only the certificate is left to drop
        return _seed_result(directory, shown, method, seed, {**stages, "certify": None} if wrong else stages), wrong
    except VerdictError as fault:
        kept = {**stages, "probe": None, "certify": None, "attacks": {}}
        return _seed_result(directory, shown, method, seed, kept), [*wrong, str(fault)]


def _proved_wrong(directory: RunDirectory, method: str, seed: Seed, stages: dict[str, Any]) -> list[str]:
    """Tell of each attack that ended because it fooled an image within a certificate that is still there."""
    contradictions = []
    for where in stages["attacks"].values():
        folder = None if where is None else directory.at(where)
        if folder is not None and not folder.done and folder.holds(VIOLATION):
            violation = folder.read_json(VIOLATION)
            if not isinstance(violation.get("text"), str):
                raise RunDirectoryError(damaged(folder.path / VIOLATION, "it does not say what was contradicted"))
            if violation.get("certify") == stages["certify"]:
                contradictions.append(f"{method}, seed {seed}: {violation['text']}")
    return contradictions


def _divisions(directory: RunDirectory, shown: Layout) -> list[str]:
    """Collect the notes of searches and trainings: of classes that are missing in a part of the images, say."""
    whose_notes: dict[str, list[str]] = {}
    for method, seed, stages in shown.networks:
        for kind in ("search", "train"):
            for note in (_result(directory, stages[kind]) or {}).get("notes", []):
                whose_notes.setdefault(str(note), []).append(f"{method} seed {seed}")
    return [f"{note}: {', '.join(whose)}" for note, whose in whose_notes.items()]


def _missing(directory: RunDirectory, shown: Layout, kinds: Sequence[str] = KINDS) -> list[str]:
    """Note the stages that the recipe asks for and that have no result, because they failed or were not run.

    Args:
        kinds: kinds of stages that count, beside the attacks.
    """
    absent: list[str] = []
    for method, seed, stages in shown.networks:
        wanted = {kind: where for kind, where in stages.items() if kind in kinds}
        wanted |= {f"attack {label}": where for label, where in stages["attacks"].items()}
        absent += [
            f"{what} of {method} (seed {seed})"
            for what, where in wanted.items()
            if where is not None and not directory.at(where).done
        ]
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return [f"without a result, as they failed or have not run: {', '.join(absent[:NAMED])}{more}"] if absent else []


def _kept(directory: RunDirectory, shown: Layout) -> str:
    """Tell in a line what a run directory holds that its last recipe did not ask for; empty for nothing."""
    asked = set(shown.places)
    others = {
        kind: [one.parent.name for one in found if f"{kind}/{one.parent.name}" not in asked]
        for kind in KINDS
        for found in [sorted((directory.path / kind).glob("*/result.json"))]
    }
    counts = ", ".join(f"{kind} {len(names)}" for kind, names in others.items() if names)
    whose = sorted({name.rpartition("-seed")[0] for names in others.values() for name in names})
    return counts and (
        f"not in this table, because the last recipe run in {directory.path} does not ask for them: finished stages "
        f"of {', '.join(whose)} ({counts}); they are kept, and shown by the next run of a recipe that asks for them"
    )


def _seed_result(directory: RunDirectory, shown: Layout, method: str, seed: Seed, stages: dict[str, Any]) -> SeedResult:
    """Read what the stages of a method and seed measured.

    Raises:
        VerdictError: results contradict each other.
    """
    search = _result(directory, stages["choose"] or stages["search"], search_seconds=float)
    train = _result(directory, stages["train"], parameters=int)
    clean = _result(directory, stages["clean"], predictions=list, labels=list, parameters=int)
    probe = _result(directory, stages["probe"], flags=list)
    certify = _result(directory, stages["certify"], certified=list, radius=dict)
    certified_at = {float(e): held for e, held in ((certify or {}).get("certified_at") or {}).items()}
    smooth = _result(directory, stages["smooth"], radius=list, predictions=list, labels=list)
    attacked = _attacked(directory, shown, stages)
    flags = [] if probe is None else [Flag.of(flag) for flag in probe["flags"]]
    for column, _ in attacked:
        told = _result(directory, stages["attacks"][column.label], flags=list) or {"flags": []}
        # a result is found by its key, so its column may have had another label when it was made
        flags += [attrs.evolve(Flag.of(flag), attack=column.label) for flag in told["flags"]]
    flags += of_attacks(attacked, shown.values)
    right = None if clean is None else np.array(clean["predictions"]) == np.array(clean["labels"])
    if clean is not None:
        flags += answers.blind(np.array(clean["predictions"]), np.array(clean["labels"]))
    if smooth is not None:
        flags += answers.blind(np.array(smooth["predictions"]), np.array(smooth["labels"]), SMOOTHED)
    certified = None if certify is None else certify["certified"]
    radius = {} if certify is None else certify["radius"]
    verdicts.check(f"{method}, seed {seed}", attacked, right, certified, radius, shown.threat, certified_at)
    made = train if train is not None else clean
    match = None if train is None else train.get("match")
    return SeedResult(
        seed=seed,
        searched=stages["search"] is not None,
        trained=stages["train"] is not None,
        clean=None if right is None else right.tolist(),
        attacks=verdicts.of(attacked, shown.threat, shown.epsilons, whole=_whole(shown, stages, attacked)),
        certified=certified,
        broken=None
        if right is None
        else verdicts.broken(attacked, right, (certify or {}).get("refuted"), shown.threat),
        certified_at=certified_at,
        radius=radius,
        smoothed=None if smooth is None else smooth["radius"],
        flags=[flag.plain() for flag in flags],
        parameters=None if made is None else made["parameters"],
        match=None if match is None else (match["found"] - match["target"]) / match["target"],
        search_seconds=None if search is None else search["search_seconds"],
    )


def _whole(shown: Layout, stages: dict[str, Any], attacked: list[Attacked]) -> bool:
    """Say whether every attack that counts for the worst case has been run: else there is no such figure."""
    done = {column.label for column, _ in attacked}
    return all(a.label in done for a in shown.attacks if a.worst_case and stages["attacks"].get(a.label) is not None)


def _attacked(directory: RunDirectory, shown: Layout, stages: dict[str, Any]) -> list[Attacked]:
    """Read what the attacks of one method and seed did, those that are done, in the order in which they were run."""
    places = [(column, stages["attacks"].get(column.label)) for column in shown.attacks]
    folders = [(column, directory.at(where)) for column, where in places if where is not None]
    return [(column, outcomes.load(folder.path)) for column, folder in folders if folder.done]


def _result(directory: RunDirectory, where: str | None, **keys: type) -> dict[str, Any] | None:
    """Read the result of a stage; None where it does not exist or has not run.

    Raises:
        RunDirectoryError: the result lacks one of the keys, or has another type there; names the file and how to redo
            the stage.
    """
    if where is None:
        return None
    folder = directory.at(where)
    if not folder.done:
        return None
    result = folder.result()
    missing = [key for key in keys if key not in result]
    if missing:
        raise RunDirectoryError(damaged(folder.result_file, f"it has no {', '.join(missing)}"))
    for key, kind in keys.items():
        if not isinstance(result[key], kind):
            raise RunDirectoryError(damaged(folder.result_file, f"its {key} is {result[key]!r:.60}"))
    return result


def records(directory: RunDirectory) -> tuple[str, list[str]]:
    """Write as CSV what each attack did to each image: a line an image, attack, and radius or variant.

    Returns:
        The text, and a note where attacks are missing in it.

    Raises:
        RunDirectoryError: a result is damaged.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("method", "seed", "attack", "norm", "epsilon", "variant", *STORED))
    shown = layout.read(directory)
    for method, seed, stages in shown.networks:
        for column, rows in _attacked(directory, shown, stages):
            lines = ((method, str(seed), column.label, *line) for row in rows for line in _lines(row))
            writer.writerows(map(printable.cell, line) for line in lines)
    return out.getvalue(), _missing(directory, shown, kinds=())


def columns(
    directory: RunDirectory, stages: dict[str, Any], attack: str | None = None
) -> dict[str, np.ndarray[Any, Any]] | None:
    """Give the records of one network as arrays, with the columns of `records` from `attack` on; None for no attack.

    Args:
        stages: the folders of the network's stages.
        attack: the label of the only attack that is wanted.

    Raises:
        RunDirectoryError: a result is damaged.
    """
    attacked = _attacked(directory, layout.read(directory), stages)
    rows = [(column.label, row) for column, rows in attacked if attack in (None, column.label) for row in rows]
    if not rows:
        return None
    head: dict[str, list[Any]] = {
        "attack": [label for label, _ in rows],
        "norm": [row.threat.norm for _, row in rows],
        "epsilon": [row.threat.epsilon for _, row in rows],
        "variant": [row.variant for _, row in rows],
    }
    images = [len(row.index) for _, row in rows]
    found = {name: np.repeat(values, images) for name, values in head.items()}
    found |= {name: np.concatenate([getattr(row, name) for _, row in rows]) for name in STORED}
    # the last of the names is that of -1, which is none
    return {**found, "by": np.concatenate([np.array([*row.parts, ""])[row.by] for _, row in rows])}


def _lines(row: Outcomes) -> Iterator[tuple[Any, ...]]:
    """Yield the lines of one radius or variant, from the norm on; infinite and missing values are empty."""
    figures = [getattr(row, name).tolist() for name in STORED]
    figures[STORED.index("success")] = row.success.astype(int).tolist()
    figures[STORED.index("by")] = [row.parts[by] if by >= 0 else "" for by in row.by.tolist()]
    for line in zip(*figures, strict=True):
        yield row.threat.norm, row.threat.epsilon, row.variant, *("" if one == math.inf else one for one in line)


def leaderboard(directory: RunDirectory, method: str, about: dict[str, Any]) -> str:
    """Write the result of a method's first seed in the form of RobustBench's files.

    Raises:
        InputError: no such method, or no result of AutoAttack.
    """
    shown = layout.read(directory)
    seed, stages = next(iter(shown.methods[known_method(directory.path, method, shown.methods)].items()))
    result = _seed_result(directory, shown, method, seed, stages)
    entry = next((a for a in shown.attacks if a.name == AUTOATTACK), None)
    standing = None if entry is None else result.attacks.standing.get(entry.label)
    if result.clean is None:
        raise InputError(f"{directory.path} has no clean result of {method}; run its recipe to the end first")
    shortened = entry is not None and any(name in entry.options for name in ("steps", "queries"))
    notes = [about.pop("footnote", ""), f"On {len(result.clean)} test images."]
    if entry is not None and entry.options.get("square_variant", "per-sample") != "reference":
        notes.append("Square with positions of its own for each image, not the reference's.")
    if entry is not None:
        # readers of the leaderboard expect the standard version with its full budget
        other = [f"{name} {entry.options[name]}" for name in BUDGET if name in entry.options]
        other += [f"{name} {count}" for name in ("runs", "expectation") if (count := getattr(entry, name)) > 1]
        notes += [f"AutoAttack with {', '.join(other)}."] if other else []
    if entry is not None and entry.spared:
        before = [a.label for a in shown.attacks[: shown.attacks.index(entry)] if a.threat.norm == entry.threat.norm]
        notes.append(f"Worst case over {', '.join(before)} and AutoAttack.")
    return robustbench.text(
        robustbench.entry(
            shown.threat if entry is None else entry.threat,
            clean=share(result.clean),
            autoattack=None if standing is None else share(standing),
            dataset=shown.dataset,
            unreliable=bool(result.flags) or shortened,
            footnote=" ".join(filter(None, notes)),
            **about,
        )
    )
