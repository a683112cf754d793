"""What a recipe makes us do: its methods and seeds as stages, each keyed by everything that determines its result.

    search -> train -> clean, attack (one a column), certify

A stage's key is a digest of its inputs, so a stage that is done is never done again, and two methods that share a
stage share its result.  Nothing here runs anything: `make` only arranges what the recipe's loader has checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import frozen

from robustnas.contracts import Dataset, Genotype, SearchSpace
from robustnas.errors import InputError, RecipeError
from robustnas.recipe.load import Loaded
from robustnas.recipe.schema import (
    ORDERS,
    REGIMES,
    Attack,
    Certify,
    Evaluate,
    Method,
    Search,
    Standard,
    Train,
    Use,
)
from robustnas.registry import REGISTRIES, metric_parts
from robustnas.suggest import did_you_mean
from robustnas.threat import ThreatModel

Kind = Literal["search", "train", "clean", "attack", "certify"]
KINDS: tuple[Kind, ...] = ("search", "train", "clean", "attack", "certify")

RESULTS = 3
"""Raised whenever a stage computes something else than before: older results are then not taken for new ones."""


@frozen
class MethodPlan:
    """One method, its names resolved: plugins are objects, sections are complete."""

    name: str
    space: SearchSpace
    metrics: tuple[tuple[float, Any], ...]
    threat: ThreatModel
    search: Search
    train: Train
    genotype: Genotype | None
    genotype_source: str | None


@frozen
class Stage:
    """One piece of work.  `key` names its result; `needs` are the keys of the stages it reads."""

    kind: Kind
    key: str
    method: str
    seed: int
    needs: tuple[str, ...] = ()
    attack: Attack | None = None

    @property
    def title(self) -> str:
        """What a person reads: method, seed and what is done."""
        what = f"attack {self.attack.label}" if self.attack else self.kind
        return f"{self.method} seed {self.seed} {what}"

    @property
    def folder(self) -> str:
        """Folder below the run directory; the key at its end is what finds it again."""
        label = f"-{_safe(str(self.attack.label))}" if self.attack else ""
        return f"{self.kind}/{self.method}-seed{self.seed}{label}-{self.key}"


@frozen
class Plan:
    """Everything a run will do."""

    name: str
    dataset: Dataset
    threat: ThreatModel
    methods: Mapping[str, MethodPlan]
    seeds: tuple[int, ...]
    attacks: tuple[Attack, ...]
    certify: Certify | None
    evaluate: Evaluate
    identity: Mapping[str, Any]
    stages: tuple[Stage, ...]

    def stage(self, kind: Kind, method: str, seed: int, label: str | None = None) -> Stage | None:
        """The stage of a method and seed; for `attack`, the one of the column `label`."""
        for stage in self.stages_of(method, seed):
            if stage.kind == kind and (label is None or (stage.attack and stage.attack.label == label)):
                return stage
        return None

    def stages_of(self, method: str, seed: int) -> list[Stage]:
        """The stages of one method and seed, in the order of the flow."""
        return [s for s in self.stages if s.method == method and s.seed == seed]

    def until(self, last: str | None) -> list[Stage]:
        """The distinct stages up to and with `last` (None: all), in the order of the flow."""
        kinds = KINDS[: KINDS.index(last) + 1] if last in KINDS else KINDS
        distinct: dict[str, Stage] = {}
        for stage in sorted(self.stages, key=lambda s: KINDS.index(s.kind)):
            if stage.kind in kinds:
                distinct.setdefault(stage.key, stage)
        return list(distinct.values())


def make(loaded: Loaded) -> Plan:
    """Arrange a checked recipe.

    Raises:
        RecipeError: a genotype cannot be found, or the space refuses it.
    """
    recipe = loaded.recipe
    faults: list[str] = []
    methods: dict[str, MethodPlan] = {}
    stages: list[Stage] = []
    for name, method in recipe.methods.items():
        use = method.search_space or recipe.search_space
        space: SearchSpace = use.plugin
        genotype = None
        if method.genotype is not None:
            try:
                genotype = find_genotype(method.genotype, space, loaded.path.parent)
                space.network(genotype, recipe.dataset.plugin.shape, recipe.dataset.plugin.classes)
            except InputError as fault:
                faults.append(f"{loaded.genotypes[name]}: methods.{name}.genotype: {fault}")
                continue
        methods[name] = MethodPlan(
            name=name,
            space=space,
            metrics=tuple((weight, metric.plugin) for weight, metric in method.metric),
            threat=method.threat or recipe.threat,
            search=method.search,
            train=method.train,
            genotype=genotype,
            genotype_source=method.genotype,
        )
        for seed in recipe.seeds:
            stages += _stages(loaded, name, method, use, genotype, seed)
    if faults:
        raise RecipeError(faults)
    return Plan(
        name=loaded.name,
        dataset=recipe.dataset.plugin,
        threat=recipe.threat,
        methods=methods,
        seeds=recipe.seeds,
        attacks=recipe.attacks,
        certify=recipe.certify,
        evaluate=recipe.evaluate,
        identity={
            "dataset": identity("dataset", recipe.dataset),
            "search_space": identity("search-space", recipe.search_space),
            "threat": attrs.asdict(recipe.threat),
        },
        stages=tuple(stages),
    )


def _stages(loaded: Loaded, name: str, method: Method, space: Use, genotype: Genotype | None, seed: int) -> list[Stage]:
    """The stages of one method and seed."""
    recipe = loaded.recipe
    threat = attrs.asdict(method.threat or recipe.threat)
    dataset = identity("dataset", recipe.dataset)
    stages: list[Stage] = []
    if genotype is None:
        search = settings(method.search, order=ORDERS)
        scored = any("score" in metric_parts(metric.plugin) for _, metric in method.metric)
        if not scored:
            search["gamma"] = 0.0  # it weighs scores and there are none
        metrics = [
            {"weight": weight, **identity("metric", metric)}
            for weight, metric in method.metric
            if search["gamma"] or metric_parts(metric.plugin) != {"score"}
        ]
        search_key = digest(
            "search",
            {
                "dataset": dataset,
                "space": identity("search-space", space, without_stage="train"),
                "metrics": metrics,
                "threat": threat if metrics else None,
                "search": search,
                "seed": seed,
            },
        )
        stages.append(Stage("search", search_key, name, seed))
        origin: Any = search_key
    else:
        origin = genotype
    perturbed = not isinstance(method.train.regime, Standard)
    train_key = digest(
        "train",
        {
            "dataset": dataset,
            "space": identity("search-space", space, without_stage="search"),
            "genotype": origin,
            "threat": threat if perturbed else None,
            "train": settings(method.train, regime=REGIMES),
            "seed": seed,
        },
    )
    stages.append(Stage("train", train_key, name, seed, tuple(s.key for s in stages)))
    read = {"network": train_key, "images": recipe.evaluate.images}
    stages.append(Stage("clean", digest("clean", read), name, seed, (train_key,)))
    for attack in recipe.attacks:
        key = digest(
            "attack",
            {
                **read,
                "attack": identity("attack", attack.use),
                "threat": attrs.asdict(attack.threat or recipe.threat),
                "batch": recipe.evaluate.batch,  # random attacks draw a batch at a time
                "seed": seed,
            },
        )
        stages.append(Stage("attack", key, name, seed, (train_key,), attack))
    if recipe.certify is not None:
        key = digest(
            "certify",
            {
                **read,
                "method": recipe.certify.method,
                "radius_method": recipe.certify.radius_method or recipe.certify.method,
                "norms": sorted(recipe.certify.norms),
                "certified_images": recipe.certify.images,
                "threat": attrs.asdict(recipe.threat),
            },
        )
        stages.append(Stage("certify", key, name, seed, (train_key,)))
    return stages


def settings(section: Any, **choices: Mapping[str, type]) -> dict[str, Any]:
    """A section of the recipe as plain data: what of it determines results.

    Args:
        section: `search` or `train`; a field with `metadata={"identity": False}` changes speed or memory alone and
            is left out.
        choices: for each field that holds one of several classes, these by name.
    """
    plain = {
        field.name: _plain(getattr(section, field.name))
        for field in attrs.fields(type(section))
        if field.metadata.get("identity", True)
    }
    for name, classes in choices.items():
        chosen = next(word for word, cls in classes.items() if cls is type(getattr(section, name)))
        plain[name] = {"name": chosen, **plain[name]}
    return plain


def identity(kind: str, use: Use, without_stage: str | None = None) -> dict[str, Any]:
    """A plugin as plain data: its name, the options that matter to results, and the package that provides it.

    Args:
        kind: of plugin, as `robustnas.registry.REGISTRIES` calls it.
        use: the plugin; a field with `metadata={"identity": False}` (where data lies, how many threads read it)
            changes no result and is left out.
        without_stage: leave out fields with this `metadata["stage"]`, which concern that stage alone.
    """
    options: Mapping[str, Any] = use.options
    cls = type(use.plugin)
    if attrs.has(cls):
        fields = [
            f
            for f in attrs.fields(cls)
            if f.init
            and not f.name.startswith("_")
            and f.metadata.get("identity", True)
            and (without_stage is None or f.metadata.get("stage") != without_stage)
        ]
        options = {f.name: _plain(getattr(use.plugin, f.name)) for f in fields}
    return {"name": use.name, "options": dict(options), "provider": _provider(kind, use.name)}


def _provider(kind: str, name: str) -> str | None:
    """The package that a third-party plugin comes from, with its version: another may compute something else.

    First-party plugins change with `RESULTS`, not with every release.
    """
    for entry in REGISTRIES[kind].entries():
        if entry.name == name:
            return None if entry.distribution == "robustnas" else f"{entry.distribution} {entry.version}"
    return None


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return attrs.asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value


def digest(kind: str, inputs: Any) -> str:
    """The key of a stage: 12 hexadecimal digits."""
    text = json.dumps([RESULTS, kind, inputs], sort_keys=True, default=_by_value)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _by_value(value: Any) -> Any:
    """An option that JSON has no form for, as something that is the same in every process."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, tuple):
        return list(value)
    raise InputError(
        f"an option of a plugin is a {type(value).__name__} ({value!r}), which has no value that can be written down; "
        "numbers, texts, lists and attrs values would do"
    )


def _safe(label: str) -> str:
    """A column's name as part of a folder's."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in label).strip("_")


def find_genotype(source: str, space: SearchSpace, beside: Path) -> Genotype:
    """The genotype a recipe names: published by the space, or in a file `path` or `path#KEY`.

    A path is looked for beside the recipe, then in the working directory.

    Raises:
        InputError: it is nowhere, or not a genotype; says where it was looked for.
    """
    published: Mapping[str, Genotype] = getattr(space, "published", {})
    if source in published:
        return published[source]
    path_text, _, key = source.partition("#")
    tried = [beside / path_text, Path(path_text)]
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        names = ", ".join(sorted(published)) or "none"
        raise InputError(
            f"found {source!r}, neither a file ({', '.join(str(p) for p in dict.fromkeys(tried))}) nor a published "
            f"genotype of the search space{did_you_mean(source, list(published))}; published: {names}"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise InputError(f"{path} is not JSON: {fault}") from fault
    if key:
        data = data.get("genotypes", data) if isinstance(data, dict) else {}
        if key not in data:
            raise InputError(f"{path} has no entry {key!r}; it has {', '.join(sorted(data)[:12])}")
        data = data[key]
    if not isinstance(data, dict):
        raise InputError(f"{path} does not hold a genotype: found {type(data).__name__}, a mapping would do")
    return data
