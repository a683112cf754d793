"""From a checked recipe to a plan: which stages there are, what each needs, and their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from os.path import isfile
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from robustnas import foreign
from robustnas.attack.column import Column
from robustnas.contracts import Dataset, SearchSpace
from robustnas.data import promises as dataset_promises
from robustnas.foreign.settings import Weights
from robustnas.genotype.darts_notation import is_call
from robustnas.plan.columns import before, columns
from robustnas.plan.genotypes import find_genotype, read_genotypes
from robustnas.plan.keys import contents, digest, identity, settings
from robustnas.plan.stages import Foreign, MethodPlan, Plan, Stage, each_once
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import Loaded
from robustnas.recipe.schema import Method, Recipe, Use
from robustnas.recipe.values import BAD
from robustnas.registry import metric_parts
from robustnas.train.regimes.defaults import member
from robustnas.train.sizes import Sizes


@frozen
class Known:
    """What is found out once while a plan is made, however many methods ask for it.

    Args:
        sizes: of networks.
        read: what a file of genotypes holds.
        foreign: the digest of a network made elsewhere.
    """

    sizes: Sizes
    read: Callable[[Path], Any]
    foreign: Callable[[str, Weights | None], dict[str, Any]]


def make(loaded: Loaded) -> Plan:
    """Arrange a checked recipe.

    Raises:
        RecipeError: a genotype or a network made elsewhere cannot be found, or does not fit, or a plugin refuses the
            dataset or the threat; or the dataset is not there, where it tells itself by its files, or not what a
            dataset promises; all there are.
    """
    faults = Faults()
    plan = arranged(loaded, faults)
    faults.raise_all()
    return plan


def arranged(loaded: Loaded, faults: Faults) -> Plan:
    """The plan of what of a recipe can be arranged; without faults that is all of it.

    Args:
        faults: takes what is wrong, as `make` says.

    Raises:
        RecipeError: with the dataset nothing can be arranged.
    """
    faults.join(loaded.crossed)
    recipe = loaded.recipe
    dataset: Dataset = recipe.dataset.plugin

    def declared() -> dict[str, Any]:
        dataset_promises.declared(dataset, dataset_promises.refused(recipe.dataset.name))
        return identity("dataset", recipe.dataset)

    note = loaded.noting(faults)
    seen = note.attempt(declared, "dataset")
    if seen is BAD:
        faults.raise_all()  # nothing can be said of networks for images that are not known
    about = {
        "dataset": seen,
        "search_space": None if recipe.search_space is None else identity("search-space", recipe.search_space),
        "threat": recipe.threat,
    }
    methods: dict[str, MethodPlan] = {}
    notes: dict[str, list[str]] = {}
    made: dict[tuple[str, int], list[Stage]] = {}
    networks: dict[tuple[str, int], str] = {}
    known = Known(Sizes(dataset), cache(read_genotypes), cache(foreign.digest))
    for name, method in recipe.methods.items():

        def planned(name: str = name, method: Method = method) -> None:
            found = _method(loaded, name, method, known)
            if found.network is None:
                found = _without_what_is_not_there(loaded, found, known.sizes, notes)
                for text in _sizes_by_default(method.search_space or recipe.search_space):
                    notes.setdefault(text, []).append(name)
            stages_at = _network_stages(loaded, found, method, seen, known)
            for seed in recipe.seeds:
                made[name, seed], networks[name, seed] = stages_at(seed)
            methods[name] = found

        key = "search_space" if method.searches else "genotype" if method.network is None else "network"
        note.attempt(planned, key, name)
    attacks = columns(recipe, dataset.classes)
    evaluated = Evaluated.of(recipe, attacks)
    transfers = any(column.transfers for column in attacks)
    others = {seed: each_once(networks, seed) if transfers else {} for seed in recipe.seeds}
    stages: list[Stage] = []
    for (name, seed), own in made.items():
        needs = tuple(stage.key for stage in own if stage.kind == "train")
        stages += own
        stages += _evaluation_stages(evaluated, name, seed, networks[name, seed], needs, others[seed])
    return Plan(
        name=loaded.name,
        dataset=dataset,
        threat=recipe.threat,
        methods=methods,
        seeds=recipe.seeds,
        columns=tuple(attacks),
        attacks={str(attack.label): attack.use.plugin for attack in recipe.attacks},
        certify=recipe.certify,
        smoothing=recipe.smoothing,
        evaluate=recipe.evaluate,
        identity=about,
        stages=tuple(stages),
        networks=networks,
        notes=notes,
    )


def _method(loaded: Loaded, name: str, method: Method, known: Known) -> MethodPlan:
    """Resolve the names of one method.

    Raises:
        InputError: its genotype cannot be found, or does not fit.
    """
    recipe = loaded.recipe
    if method.network is not None:
        weights = method.weights
        if weights is not None:
            weights = attrs.evolve(weights, file=_beside(loaded.beside(f"methods.{name}.weights"), weights.file))
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
    genotype, parameters = None, None
    if method.genotype is not None:
        genotype = find_genotype(method.genotype, space, loaded.beside(f"methods.{name}.genotype"), known.read)
        parameters = known.sizes.network(space, genotype)
    return MethodPlan(
        name=name,
        search_space=space,
        metrics=tuple((weight, metric.plugin) for weight, metric in method.metric),
        threat=method.threat or recipe.threat,
        search=method.search,
        train=method.train,
        genotype=genotype,
        genotype_source=None if genotype is None else _named(method.genotype),
        parameters=parameters,
    )


def _without_what_is_not_there(
    loaded: Loaded, plan: MethodPlan, sizes: Sizes, notes: dict[str, list[str]]
) -> MethodPlan:
    """The method without the defaults of training that networks of its space cannot honour; given ones stay, and fail.

    Args:
        notes: takes what gives way, and for which methods.
    """
    gone = [
        key
        for key in ("auxiliary", "drop_path")
        if getattr(plan.train, key) > 0
        and not any(path in loaded.places for path in (f"train.{key}", f"methods.{plan.name}.train.{key}"))
        and not getattr(sizes.offers(plan.space), key)
    ]
    if not gone:
        return plan
    named = " and ".join(f"train.{key}" for key in gone)
    note = f"{named} {'is' if len(gone) == 1 else 'are'} 0, by default where networks of the space have no such thing"
    notes.setdefault(note, []).append(plan.name)
    without: dict[str, Any] = dict.fromkeys(gone, 0.0)
    return attrs.evolve(plan, train=attrs.evolve(plan.train, **without))


def _sizes_by_default(use: Use | None) -> Iterator[str]:
    """A note where a recipe sizes the supernet of a space and leaves the network that is trained at its default."""
    if use is None or not attrs.has(type(use.plugin)):
        return
    fields = attrs.fields_dict(type(use.plugin))
    given = [name for name in use.options if fields.get(name) and fields[name].metadata.get("stage") == "search"]
    sizes = [name for name in given if f"network_{name}" in fields and f"network_{name}" not in use.options]
    if sizes:
        theirs = " and ".join(f"{name}: {use.options[name]}" for name in sizes)
        defaults = " and ".join(f"network_{name}: {getattr(use.plugin, f'network_{name}')}" for name in sizes)
        yield f"search_space {use.name}: {theirs} sizes the supernet; trained networks have {defaults}, by default"


def _named(genotype: str | Mapping[str, Any] | None) -> str:
    """What to call a genotype: as the recipe names it, or that it stands there."""
    return genotype if isinstance(genotype, str) and not is_call(genotype) else "of the recipe"


def _beside(folder: Path, path: Path) -> Path:
    """A file that a recipe names: beside the recipe, or else in the working directory."""
    return folder / path if isfile(folder / path) else path


def _network_stages(
    loaded: Loaded, plan: MethodPlan, method: Method, dataset: Mapping[str, Any], known: Known
) -> Callable[[int], tuple[list[Stage], str]]:
    """For each seed the stages that make the network of one method, and the key of that network.

    Args:
        dataset: its identity.
    """
    recipe = loaded.recipe
    name, genotype = plan.name, plan.genotype
    if plan.network is not None:
        made = known.foreign(plan.network.factory, plan.network.weights)
        network = digest("network", {**made, "normalize": dataset if plan.network.normalize else None})
        return lambda seed: ([], network)
    threat = method.threat or recipe.threat
    space = method.search_space or recipe.search_space
    assert space is not None
    searched: dict[str, Any] = {}
    if genotype is None:
        search = settings(method.search)
        scored = any("score" in metric_parts(metric.plugin) for _, metric in method.metric)
        if not scored:
            search["gamma"] = 0.0  # it weighs scores and there are none
        metrics = [
            {"weight": weight, **identity("metric", metric)}
            for weight, metric in method.metric
            if search["gamma"] or metric_parts(metric.plugin) != {"score"}
        ]
        searched = {
            "dataset": dataset,
            "space": identity("search-space", space, without_stage="train"),
            "metrics": metrics,
            "threat": threat if metrics else None,
            "search": search,
        }
    shape = recipe.dataset.plugin.shape
    trained = {
        "dataset": dataset,
        "space": identity("search-space", space, without_stage="search"),
        "genotype": genotype,
        "threat": threat if member(plan.train.regime, "sees_threat") else None,
        "train": settings(plan.train) | {"cutout": plan.train.blanked(shape)},
    }

    def stages_at(seed: int) -> tuple[list[Stage], str]:
        stages: list[Stage] = []
        origin: dict[str, Any] = {}
        if searched:
            stages.append(Stage("search", digest("search", {**searched, "seed": seed}), name, seed))
            origin = {"genotype": stages[0].key}
        train_key = digest("train", {**trained, **origin, "seed": seed})
        stages.append(Stage("train", train_key, name, seed, tuple(s.key for s in stages)))
        return stages, train_key

    return stages_at


@frozen
class Evaluated:
    """What the evaluations of all networks share.

    Args:
        dataset: its identity, by its test images.
        test_contents: what tells these from others, where the dataset does so.
        before: the attacks before each, by label.
        attacks: the identity of each attack and of its setting, by label.
    """

    recipe: Recipe
    dataset: Mapping[str, Any]
    test_contents: str | None
    columns: Sequence[Column]
    before: Mapping[str, list[Column]]
    attacks: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, recipe: Recipe, columns: Sequence[Column]) -> Evaluated:
        """Find out what the evaluations of a recipe share."""
        uses = {attack.label: attack.use for attack in recipe.attacks}
        return cls(
            recipe=recipe,
            dataset=identity("dataset", recipe.dataset, split="test"),
            test_contents=contents(recipe.dataset, "test"),
            columns=columns,
            before={column.label: before(column, columns) for column in columns},
            attacks={
                column.label: {
                    "attack": identity("attack", uses[column.label]),
                    "threat": column.threat,
                    "radii": column.radii,
                    "expectation": column.expectation,
                    "runs": column.runs,
                    "batch": recipe.evaluate.batch,  # some random attacks draw a batch at a time
                    "carry": recipe.evaluate.attacked == "survivors",
                }
                for column in columns
            },
        )


def _evaluation_stages(
    shared: Evaluated, name: str, seed: int, network: str, needs: tuple[str, ...], others: Mapping[str, str]
) -> list[Stage]:
    """What is measured on the network of one method and seed.

    Args:
        network: its key.
        needs: the stages that make it; none for one made elsewhere.
        others: keys of all networks of the seed with their methods, for images that are made on the others.
    """
    recipe, evaluate = shared.recipe, shared.recipe.evaluate
    threat = recipe.threat
    drawn = {} if evaluate.images is None else {"subset": evaluate.subset, "subset_seed": evaluate.subset_seed}
    # the dataset is told by the key of a network that was trained on it, but for the test images, which may change
    # without a new training; a network made elsewhere may see several datasets
    read: dict[str, Any] = {"network": network, "images": evaluate.images, **drawn}
    read["dataset"] = shared.test_contents if needs else shared.dataset
    clean = Stage("clean", digest("clean", read), name, seed, needs)
    stages = [clean]
    certificate: tuple[str, ...] = ()
    if shared.columns:
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
    for column in shared.columns:
        given = sorted((method, key) for key, method in others.items() if key != network) if column.transfers else []
        if column.transfers and not given:
            continue
        earlier = [keys[one.label] for one in shared.before[column.label] if one.label in keys]
        told = {**read, **shared.attacks[column.label], "seed": seed, "after": earlier, "sources": given}
        keys[column.label] = digest("attack", told)
        wanted = (*needs, clean.key, *(key for _, key in given))
        stages.append(Stage("attack", keys[column.label], name, seed, wanted, (*certificate, *earlier), column))
    if recipe.smoothing is not None:
        key = digest("smooth", {**read, **settings(recipe.smoothing), "seed": seed})
        stages.append(Stage("smooth", key, name, seed, (*needs, clean.key)))
    return stages
