"""From a checked recipe to a plan: which stages there are, what each needs, and their keys."""

from __future__ import annotations

from functools import cache
from typing import Any

from attrs import evolve

from robustnas import foreign
from robustnas.contracts import Dataset
from robustnas.data import promises as dataset_promises
from robustnas.data.subset import Subset
from robustnas.plan.columns import columns
from robustnas.plan.genotypes import read_genotypes
from robustnas.plan.keyed import Evaluated, evaluation_stages, network_stages, ranking_stages
from robustnas.plan.keys import identity
from robustnas.plan.methods import Known, beside, resolved, sizes_by_default, without_unfit_defaults
from robustnas.plan.stages import MethodPlan, Plan, Stage, each_once
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import Loaded
from robustnas.recipe.schema import Method, Ranking, Recipe
from robustnas.recipe.seeds import Seed
from robustnas.recipe.values import BAD
from robustnas.train.sizes import Sizes


def make(loaded: Loaded) -> Plan:
    """Arrange a checked recipe.

    Raises:
        RecipeError: lists every fault: a genotype or a network made elsewhere cannot be found, or does not fit; a
            plugin refuses the dataset or the threat; the dataset breaks its promises, or lacks files that key it.
    """
    faults = Faults()
    plan = arranged(loaded, faults)
    faults.raise_all()
    return plan


def arranged(loaded: Loaded, faults: Faults) -> Plan:
    """Arrange those parts of a recipe that have no faults.

    Args:
        faults: collects what is wrong, as listed for `make`.

    Raises:
        RecipeError: the dataset is at fault, without which nothing can be arranged.
    """
    faults.join(loaded.crossed)
    recipe = loaded.recipe
    dataset: Dataset = recipe.dataset.plugin

    def declared() -> dict[str, Any]:
        dataset_promises.declared(dataset, dataset_promises.refused(recipe.dataset.name))
        seen = identity("dataset", recipe.dataset)
        few = {} if recipe.train_images is None else {"train_images": recipe.train_images}
        return {**seen, "options": {**seen["options"], **few}}

    note = loaded.noting(faults)
    seen = note.attempt(declared, "dataset")
    if seen is BAD:
        faults.raise_all()  # without the images' shape no network can be built
    about = {
        "dataset": seen,
        "search_space": None if recipe.search_space is None else identity("search-space", recipe.search_space),
        "threat": recipe.threat,
    }
    methods: dict[str, MethodPlan] = {}
    notes: dict[str, list[str]] = {}
    made: dict[tuple[str, Seed], list[Stage]] = {}
    networks: dict[tuple[str, Seed], str] = {}
    known = Known(Sizes(dataset), cache(read_genotypes), cache(foreign.digest))
    for name, method in recipe.methods.items():

        def planned(name: str = name, method: Method = method) -> None:
            method_plan = resolved(loaded, name, method, known)
            use = method.search_space or recipe.search_space
            if method_plan.network is None and use is not None:
                method_plan, gone = without_unfit_defaults(loaded, method_plan, known.sizes)
                for text in (*gone, *sizes_by_default(use, method.train.match)):
                    notes.setdefault(text, []).append(name)
            stages_at = network_stages(recipe, method_plan, method, seen, known)
            for seed in method_plan.seeds_of(recipe.seeds):
                made[name, seed], networks[name, seed] = stages_at(seed)
            methods[name] = method_plan

        key = "network" if method.network is not None else "search_space" if method.genotype is None else "genotype"
        note.attempt(planned, key, name)
    attacks = columns(recipe, dataset.classes)
    evaluated = Evaluated.of(recipe, attacks)
    transfers = any(column.transfers for column in attacks)
    others = {seed: each_once(networks, seed) if transfers else {} for seed in recipe.seeds.all}
    stages: list[Stage] = []
    for (name, seed), own in sorted(made.items(), key=lambda item: _place(item[0], recipe)):
        needs = tuple(stage.key for stage in own if stage.kind == "train")
        measured_elsewhere = recipe.rank is not None and recipe.rank.settings.published is not None
        if measured_elsewhere:
            own = [stage for stage in own if stage.kind != "train"]
            needs = tuple(stage.key for stage in own[-1:])
        stages += own
        if not measured_elsewhere:
            stages += evaluation_stages(evaluated, name, seed, networks[name, seed], needs, others[seed])
        if recipe.rank is not None and methods[name].network is None:
            stages += ranking_stages(recipe, methods[name], seed, networks[name, seed], needs, seen)
    return Plan(
        name=loaded.name,
        dataset=dataset if recipe.train_images is None else Subset(dataset, recipe.train_images, recipe.quick),
        threat=recipe.threat,
        methods=methods,
        seeds=recipe.seeds,
        search=recipe.search,
        columns=tuple(attacks),
        attacks={str(attack.label): attack.use.plugin for attack in recipe.attacks},
        certify=recipe.certify,
        smoothing=recipe.smoothing,
        evaluate=recipe.evaluate,
        identity=about,
        stages=tuple(stages),
        networks=networks,
        sizes=known.sizes,
        train_images=recipe.train_images,
        quick=recipe.quick,
        ranking=None if recipe.rank is None else _found(loaded, recipe.rank),
        published=recipe.published,
        notes=notes,
    )


def _place(network: tuple[str, Seed], recipe: Recipe) -> tuple[int, int, int]:
    """Say where the stages of a network stand: search seed by search seed, method by method, training by training."""
    name, seed = network
    trainings = recipe.seeds.search if recipe.seeds.train is None else recipe.seeds.train
    return recipe.seeds.search.index(seed.search), list(recipe.methods).index(name), trainings.index(seed.train)


def _found(loaded: Loaded, ranking: Ranking) -> Ranking:
    """Name a published table by where it lies: beside the recipe, or in the working directory."""
    published = ranking.settings.published
    if published is None:
        return ranking
    file = beside(loaded.beside("rank.published.file"), published.file)
    return evolve(ranking, settings=evolve(ranking.settings, published=evolve(published, file=file)))
