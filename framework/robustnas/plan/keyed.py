"""Makes the stages of one method and seed, each with the key of all that determines its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from robustnas.attack.column import Column
from robustnas.contracts import estimation
from robustnas.plan.columns import before
from robustnas.plan.keys import contents, digest, identity, settings
from robustnas.plan.methods import Known
from robustnas.plan.stages import MethodPlan, Stage
from robustnas.recipe.schema import Method, Recipe, Use
from robustnas.recipe.seeds import Seed
from robustnas.registry import metric_parts
from robustnas.runtime.derived import derive
from robustnas.search.settings import OF_ALPHA
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.search.strategies.random import Random
from robustnas.search.strategies.random_search import RandomSearch
from robustnas.threat import ThreatModel
from robustnas.train.regimes.defaults import member


def network_stages(
    recipe: Recipe, plan: MethodPlan, method: Method, dataset: Mapping[str, Any], known: Known
) -> Callable[[Seed], tuple[list[Stage], str]]:
    """Return a function from a seed to the stages that make a method's network, and the key of that network.

    Args:
        dataset: identity of the dataset.
    """
    name, genotype = plan.name, plan.genotype
    if plan.network is not None:
        made = known.foreign(plan.network.factory, plan.network.weights)
        network = digest("network", {**made, "normalize": dataset if plan.network.normalize else None})
        return lambda seed: ([], network)
    threat = method.threat or recipe.threat
    space = method.search_space or recipe.search_space
    assert space is not None
    searched: dict[str, Any] = {}
    shape = recipe.dataset.plugin.shape
    trained = {
        "dataset": dataset,
        "space": identity("search-space", space, without_stage="search"),
        "genotype": genotype,
        "threat": threat if member(plan.train.regime, "sees_threat") else None,
        "train": settings(plan.train) | {"cutout": plan.train.blanked(shape)},
    }
    if genotype is None:
        searched = _searched(plan, method, space, dataset, threat, trained)
    judged: dict[str, Any] = {}
    if plan.best_of is not None:
        section = plan.of_candidates
        judged = {**trained, "threat": threat, "train": settings(section) | {"cutout": section.blanked(shape)}}

    def search_stage(seed: Seed, candidate: int | None = None) -> Stage:
        # the first candidate is what a method without candidates finds, so that the two share the search
        number = derive(seed.search, "candidate", candidate) if candidate else seed.search
        return Stage("search", digest("search", {**searched, "seed": number}), name, seed, candidate=candidate)

    def stages_at(seed: Seed) -> tuple[list[Stage], str]:
        stages = [search_stage(seed)] if searched and plan.best_of is None else []
        if plan.best_of is not None:
            for number in range(plan.best_of.samples):
                search = search_stage(seed, number)
                key = digest("candidate", {**judged, "genotype": search.key, "seed": seed.of_candidates})
                stages += [search, Stage("candidate", key, name, seed, (search.key,), candidate=number)]
            keys = tuple(stage.key for stage in stages if stage.kind == "candidate")
            stages.append(Stage("choose", digest("choose", keys), name, seed, tuple(stage.key for stage in stages)))
        origin = {"genotype": stages[-1].key} if stages else {}
        train_key = digest("train", {**trained, **origin, "seed": seed.train})
        stages.append(Stage("train", train_key, name, seed, tuple(stage.key for stage in stages[-1:])))
        return stages, train_key

    return stages_at


def _searched(
    plan: MethodPlan,
    method: Method,
    space: Use,
    dataset: Mapping[str, Any],
    threat: ThreatModel,
    trained: Mapping[str, Any],
) -> dict[str, Any]:
    """Collect what determines the genotype that a method finds, but for the seed.

    Args:
        dataset: identity of the dataset.
        trained: what determines the training of a network, for strategies that train candidates.
    """
    if type(plan.strategy) in (Random, RandomSearch):
        return {"strategy": "random", "space": identity("search-space", space, without_stage="train")}
    search = settings(method.search)
    scored = any("score" in metric_parts(metric.plugin) for _, metric in method.metric)
    if not scored:
        search["gamma"] = 0.0  # without scores gamma weighs nothing, so it must not tell keys apart
    metrics = [
        {"weight": weight, **identity("metric", metric)}
        for weight, metric in method.metric
        if search["gamma"] or metric_parts(metric.plugin) != {"score"} or type(plan.strategy) is not Bilevel
    ]
    searched = {
        "dataset": dataset,
        "space": identity("search-space", space, without_stage="train"),
        "metrics": metrics,
        "threat": threat if metrics else None,
        "search": search,
    }
    if type(plan.strategy) is Bilevel:
        return searched
    judges: dict[str, Any] = {}
    if estimation(plan.strategy) is not None:
        judges = {"threat": threat, "trained": trained}
        search = {
            name: value for name, value in search.items() if name not in OF_ALPHA
        }  # weights are shared, not alpha
    return {
        **searched,
        "strategy": identity("strategy", method.strategy),
        "metrics": metrics if "metric" in method.uses else [],
        "search": search if "search" in method.uses else {},
        **judges,
    }


@frozen
class Evaluated:
    """What the evaluations of all networks share.

    Args:
        dataset: identity of the dataset, by its test images.
        test_contents: what tells the test images from others, where the dataset does so.
        before: the attacks before each attack, by label.
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
        """Collect what the evaluations of a recipe share."""
        uses = {attack.label: attack.use for attack in recipe.attacks}
        return cls(
            recipe=recipe,
            dataset=identity("dataset", recipe.dataset, split="test"),
            test_contents=contents(recipe.dataset, "test"),
            columns=columns,
            before={column.label: before(column, columns) for column in columns},
            attacks={
                column.label: {
                    "attack": identity("attack", uses[column.label], split="test"),
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


def evaluation_stages(
    shared: Evaluated, name: str, seed: Seed, network: str, needs: tuple[str, ...], others: Mapping[str, str]
) -> list[Stage]:
    """Make the stages that evaluate the network of one method and seed.

    Args:
        network: key of the network.
        needs: the stages that make it; none for one made elsewhere.
        others: keys of all networks of the seed with their methods, for images that are made on the others.
    """
    recipe, evaluate = shared.recipe, shared.recipe.evaluate
    threat = recipe.threat
    drawn = {} if evaluate.images is None else {"subset": evaluate.subset, "subset_seed": evaluate.subset_seed}
    # the key of a network that was trained here determines the dataset, except for the test images, which may change
    # without a new training; a network made elsewhere may be evaluated on several datasets
    read: dict[str, Any] = {"network": network, "images": evaluate.images, **drawn}
    read["dataset"] = shared.test_contents if needs else shared.dataset
    clean = Stage("clean", digest("clean", read), name, seed, needs)
    stages = [clean]
    certificate: tuple[str, ...] = ()
    of_an_image = {name: read[name] for name in ("network", "dataset")}
    if shared.columns:
        key = digest("probe", {**read, "norm": recipe.threat.norm, "seed": seed.train})
        stages.append(Stage("probe", key, name, seed, (*needs, clean.key)))
    if recipe.certify is not None:
        bounds = {
            "method": recipe.certify.method,
            "radius_method": recipe.certify.of_radii,
            "norms": sorted(recipe.certify.norms),
            "threat": threat,
            **recipe.certify.budget,
        }
        asked: dict[str, Any] = {"certified_images": recipe.certify.images}
        if recipe.certify.epsilons:  # they came later
            asked["epsilons"] = recipe.certify.epsilons
        key = digest("certify", {**read, **bounds, **asked})
        question = digest("certify an image", {**of_an_image, **bounds})
        stages.append(Stage("certify", key, name, seed, (*needs, clean.key), question=question))
        certificate = (key,)
    keys: dict[str, str] = {}
    for column in shared.columns:
        transferred = (
            sorted((method, key) for key, method in others.items() if key != network) if column.transfers else []
        )
        if column.transfers and not transferred:
            continue
        earlier = [keys[previous.label] for previous in shared.before[column.label] if previous.label in keys]
        inputs = {**shared.attacks[column.label], "seed": seed.train, "sources": transferred}
        keys[column.label] = key = digest("attack", {**read, **inputs, "after": earlier})
        question = digest("attack an image", {**of_an_image, **inputs})
        wanted = (*needs, clean.key, *(key for _, key in transferred))
        after = (*certificate, *earlier)
        stages.append(Stage("attack", key, name, seed, wanted, after, column, question=question))
    if recipe.smoothing is not None:
        key = digest("smooth", {**read, **settings(recipe.smoothing), "seed": seed.train})
        stages.append(Stage("smooth", key, name, seed, (*needs, clean.key)))
    return stages


def ranking_stages(
    recipe: Recipe, plan: MethodPlan, seed: Seed, network: str, needs: tuple[str, ...], dataset: Mapping[str, Any]
) -> list[Stage]:
    """Make the stages that score a network by every metric that is ranked, and the supernet whose path is scored.

    Args:
        network: key of the trained network, which determines the untrained one as well.
        needs: the stages that make it, or its genotype where nothing is trained.
        dataset: identity of the dataset.
    """
    space, ranking = recipe.methods[plan.name].search_space or recipe.search_space, recipe.rank
    assert space is not None
    assert ranking is not None
    stages = []
    if "inherited" in ranking.settings.states:
        sampled = {"space": identity("search-space", space, without_stage="train"), "dataset": dataset}
        # one supernet serves all genotypes of the space, or they could not be compared
        section = {name: value for name, value in settings(recipe.search).items() if name not in OF_ALPHA}
        key = digest("supernet", {**sampled, "search": section, "seed": recipe.seeds.search[0]})
        stages.append(Stage("supernet", key, plan.name, seed))
    scored = {
        "network": network,
        "supernet": [stage.key for stage in stages],
        "threat": plan.threat,
        "metrics": {label: identity("metric", use) for label, use in ranking.metrics.items()},
        "rank": {"states": ranking.settings.states, **settings(ranking.settings)},
        "seed": seed.train,
    }
    stages.append(Stage("score", digest("score", scored), plan.name, seed, (*needs, *(s.key for s in stages))))
    return stages
