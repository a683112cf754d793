"""What a recipe makes us do: its methods and seeds as stages, each keyed by everything that determines its result.

    search -> train -> clean, probe, certify, attack (one a column), smooth

A network made elsewhere begins at `clean`.
A stage's key is a digest of its inputs, so a stage that is done is never done again, and two methods that share a
stage share its result.  Nothing here runs anything: `make` only arranges what the recipe's loader has checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import frozen

from robustnas import attack_order, foreign
from robustnas.attack_order import Column
from robustnas.contracts import Dataset, Genotype, SearchSpace
from robustnas.errors import InputError, RecipeError
from robustnas.recipe.load import Loaded
from robustnas.recipe.schema import (
    ORDERS,
    REGIMES,
    Certify,
    Evaluate,
    Method,
    Recipe,
    Search,
    Smoothing,
    Standard,
    Train,
    Use,
)
from robustnas.registry import REGISTRIES, metric_parts
from robustnas.suggest import did_you_mean
from robustnas.threat import ThreatModel

Kind = Literal["search", "train", "clean", "probe", "certify", "attack", "smooth"]
KINDS: tuple[Kind, ...] = ("search", "train", "clean", "probe", "certify", "attack", "smooth")

RESULTS = 4
"""Raised whenever a stage computes something else than before: older results are then not taken for new ones."""


@frozen
class Foreign:
    """A network made elsewhere.

    Args:
        factory: `module:factory`.
        weights: file of its weights; None where the factory fills them in.
        normalize: whether the data set's mean and deviation become its first layer.
    """

    factory: str
    weights: Path | None
    normalize: bool


@frozen
class MethodPlan:
    """One method, its names resolved: plugins are objects, sections are complete.

    Args:
        network: the network, where it was made elsewhere; then nothing of it is searched or trained here.
    """

    name: str
    search_space: SearchSpace | None
    metrics: tuple[tuple[float, Any], ...]
    threat: ThreatModel
    search: Search
    train: Train
    genotype: Genotype | None
    genotype_source: str | None
    network: Foreign | None = None

    @property
    def space(self) -> SearchSpace:
        """The search space; a network made elsewhere has none."""
        assert self.search_space is not None
        return self.search_space


@frozen
class Stage:
    """One piece of work.

    Args:
        key: names its result.
        needs: keys of the stages it cannot do without.
        after: keys of stages whose results it uses where they are there, and waits for.
        column: of an attack.
    """

    kind: Kind
    key: str
    method: str
    seed: int
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    column: Column | None = None

    @property
    def title(self) -> str:
        """What a person reads: method, seed and what is done."""
        what = f"attack {self.column.label}" if self.column else self.kind
        return f"{self.method} seed {self.seed} {what}"

    @property
    def folder(self) -> str:
        """Folder below the run directory; the key at its end is what finds it again."""
        label = f"-{_safe(self.column.label)}" if self.column else ""
        return f"{self.kind}/{self.method}-seed{self.seed}{label}-{self.key}"


@frozen
class Plan:
    """Everything a run will do."""

    name: str
    dataset: Dataset
    threat: ThreatModel
    methods: Mapping[str, MethodPlan]
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    certify: Certify | None
    smoothing: Smoothing | None
    evaluate: Evaluate
    identity: Mapping[str, Any]
    stages: tuple[Stage, ...]
    networks: Mapping[tuple[str, int], str]
    """The key of each method's and seed's network: equal keys are one network."""

    def stage(self, kind: Kind, method: str, seed: int, label: str | None = None) -> Stage | None:
        """The stage of a method and seed; for `attack`, the one of the column `label`."""
        for stage in self.stages_of(method, seed):
            if stage.kind == kind and (label is None or (stage.column and stage.column.label == label)):
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
    dataset: Dataset = recipe.dataset.plugin
    faults: list[str] = []
    methods: dict[str, MethodPlan] = {}
    made: dict[tuple[str, int], list[Stage]] = {}
    networks: dict[tuple[str, int], str] = {}
    for name, method in recipe.methods.items():
        try:
            methods[name] = _method(loaded, name, method)
        except InputError as fault:
            faults.append(str(fault))
            continue
        for seed in recipe.seeds:
            made[name, seed], networks[name, seed] = _network_stages(loaded, methods[name], method, seed)
    columns = attack_order.columns(recipe.attacks, recipe.threat, recipe.evaluate.epsilons, dataset.classes)
    for column in columns:
        if column.transfers and len(recipe.methods) < 2:
            faults.append(
                f"{loaded.path}: attacks: {column.label} shows each network images that were made on the others', and "
                "there is one method; a second one, or another attack, would do"
            )
    if faults:
        raise RecipeError(faults)
    stages: list[Stage] = []
    for (name, seed), before in made.items():
        others = {key: other for (other, at), key in networks.items() if at == seed and key != networks[name, seed]}
        needs = tuple(stage.key for stage in before if stage.kind == "train")
        stages += before
        stages += _evaluation_stages(recipe, columns, name, seed, networks[name, seed], needs, others)
    return Plan(
        name=loaded.name,
        dataset=dataset,
        threat=recipe.threat,
        methods=methods,
        seeds=recipe.seeds,
        columns=tuple(columns),
        certify=recipe.certify,
        smoothing=recipe.smoothing,
        evaluate=recipe.evaluate,
        identity={
            "dataset": identity("dataset", recipe.dataset),
            "search_space": None if recipe.search_space is None else identity("search-space", recipe.search_space),
            "threat": attrs.asdict(recipe.threat),
        },
        stages=tuple(stages),
        networks=networks,
    )


def _method(loaded: Loaded, name: str, method: Method) -> MethodPlan:
    """One method with its names resolved.

    Raises:
        InputError: its genotype or its network cannot be found, or does not fit; names the place in the recipe.
    """
    recipe = loaded.recipe
    dataset: Dataset = recipe.dataset.plugin
    if method.network is not None:
        weights = None if method.weights is None else _beside(loaded.path.parent, method.weights)
        return MethodPlan(
            name=name,
            search_space=None,
            metrics=(),
            threat=recipe.threat,
            search=method.search,
            train=method.train,
            genotype=None,
            genotype_source=None,
            network=Foreign(method.network, weights, method.normalize),
        )
    use = method.search_space or recipe.search_space
    assert use is not None
    space: SearchSpace = use.plugin
    genotype = None
    if method.genotype is not None:
        try:
            genotype = find_genotype(method.genotype, space, loaded.path.parent)
            space.network(genotype, dataset.shape, dataset.classes)
        except InputError as fault:
            raise InputError(f"{loaded.genotypes[name]}: methods.{name}.genotype: {fault}") from fault
    return MethodPlan(
        name=name,
        search_space=space,
        metrics=tuple((weight, metric.plugin) for weight, metric in method.metric),
        threat=method.threat or recipe.threat,
        search=method.search,
        train=method.train,
        genotype=genotype,
        genotype_source=method.genotype,
    )


def _beside(folder: Path, path: str) -> Path:
    """A file that a recipe names: beside the recipe, or else in the working directory."""
    return folder / path if (folder / path).is_file() else Path(path)


def _network_stages(loaded: Loaded, plan: MethodPlan, method: Method, seed: int) -> tuple[list[Stage], str]:
    """The stages that make the network of one method and seed, and the key of that network."""
    recipe = loaded.recipe
    name, genotype = plan.name, plan.genotype
    dataset = identity("dataset", recipe.dataset)
    if plan.network is not None:
        normalize = dataset if plan.network.normalize else None
        return [], digest(
            "network", {**foreign.digest(plan.network.factory, plan.network.weights), "normalize": normalize}
        )
    threat = attrs.asdict(method.threat or recipe.threat)
    space = method.search_space or recipe.search_space
    assert space is not None
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
    return stages, train_key


def _evaluation_stages(
    recipe: Recipe,
    columns: Sequence[Column],
    name: str,
    seed: int,
    network: str,
    needs: tuple[str, ...],
    others: Mapping[str, str],
) -> list[Stage]:
    """What is measured on the network of one method and seed.

    Args:
        network: its key.
        needs: the stages that make it; none for one made elsewhere.
        others: the networks of other methods by their keys, for images that are made there.
    """
    evaluate, threat = recipe.evaluate, attrs.asdict(recipe.threat)
    drawn = {} if evaluate.images is None else {"subset": evaluate.subset, "subset_seed": evaluate.subset_seed}
    # the dataset is told by the key of a network that was trained on it; one made elsewhere may see several
    read: dict[str, Any] = {"network": network, "images": evaluate.images, **drawn}
    read["dataset"] = None if needs else identity("dataset", recipe.dataset)
    clean = Stage("clean", digest("clean", read), name, seed, needs)
    stages = [clean]
    certificate: tuple[str, ...] = ()
    if columns:
        key = digest("probe", {**read, "norm": recipe.threat.norm, "seed": seed})
        stages.append(Stage("probe", key, name, seed, (*needs, clean.key)))
    if recipe.certify is not None:
        key = digest(
            "certify",
            {
                **read,
                "method": recipe.certify.method,
                "radius_method": recipe.certify.radius_method or recipe.certify.method,
                "norms": sorted(recipe.certify.norms),
                "certified_images": recipe.certify.images,
                "threat": threat,
            },
        )
        stages.append(Stage("certify", key, name, seed, (*needs, clean.key)))
        certificate = (key,)
    keys: dict[str, str] = {}
    for column in columns:
        sources = sorted((other, key) for key, other in others.items()) if column.transfers else []
        if column.transfers and not sources:
            continue
        earlier = [keys[one.label] for one in attack_order.before(column, columns) if one.label in keys]
        earlier = earlier if evaluate.attacked == "survivors" else []
        keys[column.label] = digest(
            "attack",
            {
                **read,
                "attack": identity("attack", column.attack.use),
                "threat": attrs.asdict(column.threat),
                "radii": column.radii,
                "expectation": column.attack.expectation,
                "runs": column.attack.runs,
                "batch": evaluate.batch,  # some random attacks draw a batch at a time
                "seed": seed,
                "after": earlier,
                "carry": evaluate.attacked == "survivors",
                "sources": sources,
            },
        )
        wanted = (*needs, clean.key, *(key for _, key in sources))
        stages.append(Stage("attack", keys[column.label], name, seed, wanted, (*certificate, *earlier), column))
    if recipe.smoothing is not None:
        key = digest("smooth", {**read, **settings(recipe.smoothing), "seed": seed})
        stages.append(Stage("smooth", key, name, seed, (*needs, clean.key)))
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
