"""Checks data, networks and batches before anything runs, so that nothing fails late."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from robustnas import search, train
from robustnas.contracts import Estimation, Genotype, check_test_of, decisions, estimation, sampler
from robustnas.data.batches import check_fit
from robustnas.data.order import shuffled
from robustnas.errors import DataError, InputError
from robustnas.nn.recompute import cells_of
from robustnas.plan import MethodPlan, Plan
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import Loaded
from robustnas.recipe.noting import Noting
from robustnas.recipe.values import BAD
from robustnas.registry import STRATEGIES
from robustnas.run.data import Splits
from robustnas.run.task import load_foreign
from robustnas.runtime import seeding
from robustnas.runtime.processes import ALONE, Processes
from robustnas.search.single_path import SinglePathTask
from robustnas.search.strategies.bilevel import Bilevel
from robustnas.search.weights import weights
from robustnas.train.network import check_drop_path
from robustnas.train.settings import Match


def check(
    plan: Plan, loaded: Loaded, faults: Faults, read: Callable[[], Splits | None], processes: Processes = ALONE
) -> Splits | None:
    """Look for everything that would fail late; the commands `plan` and `run` both do.

    Args:
        plan: the parts of the recipe that could be arranged.
        loaded: the recipe, which knows where its keys are written.
        faults: the recipe's faults so far, to which new ones are added.
        read: returns the images, or None where they are not on this machine.
        processes: the processes that will run it.

    Returns:
        The images.

    Raises:
        RecipeError: something would fail; it lists every fault.
    """
    note = loaded.noting(faults)
    images = note.attempt(read, "dataset")
    check_networks(plan, note)
    check_paths(plan, note)
    if isinstance(images, Splits):
        check_batches(plan, images.labels, processes, note)
        check_counts(plan, len(images.test.labels), note)
        for place, attack in enumerate(plan.attacks.values()):
            check_test = check_test_of(attack)
            if check_test is not None:
                note.attempt(partial(check_test, images.test), f"attacks.{place}")
    faults.raise_all()
    return cast("Splits | None", images)


def check_networks(plan: Plan, note: Noting) -> None:
    """Build each distinct supernet and network once, so that what cannot be built fails before anything runs."""
    seen: set[Any] = set()
    for method in plan.methods.values():
        differing = _differing(method)
        if differing in seen:
            continue
        seen.add(differing)
        if method.network is not None:
            note.attempt(partial(load_foreign, method.network, plan.dataset), "network", method.name)
            continue
        genotype = method.genotype
        with seeding.seeded(0, "check"):
            if genotype is None and type(method.strategy) is not Bilevel:
                genotype = note.attempt(partial(_found, method, plan), "strategy", method.name)
            elif genotype is None:
                genotype = note.attempt(partial(_searched, method, plan), "search_space", method.name)
            if genotype is not BAD:
                with torch.device("meta"):
                    _check_network(method, genotype, plan, note)


def check_paths(plan: Plan, note: Noting) -> None:
    """Refuse inherited networks of a space whose supernet does not hold the networks of its genotypes."""
    if plan.ranking is not None and "inherited" in plan.ranking.settings.states:
        for space in {id(method.search_space): method.search_space for method in plan.methods.values()}.values():
            if space is not None:
                note.attempt(partial(SinglePathTask, plan.dataset, space, plan.search), "rank.networks")


def _differing(method: MethodPlan) -> Any:
    """Collect what tells the networks of one method, and the demands on them, from those of another."""
    if method.network is not None:
        return method.network
    train = method.train
    searched: Any = str(method.strategy), method.search.recompute_cells
    if not method.finds:
        searched = json.dumps(method.genotype, sort_keys=True)
    # an `id` will do, because the loader makes one object of spaces that are written alike
    return id(method.space), searched, train.auxiliary > 0, train.drop_path > 0, train.recompute_cells, str(train.match)


def _searched(method: MethodPlan, plan: Plan) -> Genotype:
    """Make a genotype that the search of a method may find.

    Raises:
        InputError: the supernet cannot be built, or not be searched as the settings ask.
    """
    supernet: Any = method.space.supernet(plan.dataset.shape, plan.dataset.classes)
    if method.search.recompute_cells:
        cells_of(supernet, "search.recompute_cells")
    weights(supernet)
    return method.space.genotype(supernet)


def _found(method: MethodPlan, plan: Plan) -> Genotype:
    """Make a genotype that a strategy other than the bilevel search may find.

    Raises:
        InputError: the strategy needs what the space has not, or what is not installed, or judges candidates in a way
            that is not to be had.
    """
    space, strategy = method.space, method.strategy
    name = STRATEGIES.entry_of(type(strategy)).name
    for member in getattr(strategy, "needs", ()):
        if not getattr(space, member, None):
            raise InputError(
                f"found {name}, which needs the space's `{member}`, and {type(space).__name__} has none; "
                "strategy: bilevel would do, or another space"
            )
    own = getattr(strategy, "check", None)
    if own is not None:
        own()
    how = estimation(strategy)
    if how is not None and how.network == "inherited":
        SinglePathTask(plan.dataset, space, method.search)
    if method.searches:
        return _searched(method, plan)
    if sampler(space) is not None:
        return search.drawn(space, plan.dataset, 0)
    free = decisions(space)
    return _searched(method, plan) if free is None else free[1]([0] * len(free[0]))


def _check_network(method: MethodPlan, genotype: Genotype, plan: Plan, note: Noting) -> None:
    """Build the network of a genotype, and look for the head, the drop-path and the cells that training asks for."""
    space, settings = method.space, method.train
    make = partial(space.network, genotype, plan.dataset.shape, plan.dataset.classes)
    network = note.attempt(make, "search_space", method.name)
    if network is BAD:
        return

    def with_head() -> None:
        try:
            make(auxiliary=True)
        except InputError as fault:
            raise InputError(f"found train.auxiliary: {settings.auxiliary:g}: {fault}; 0 would do") from fault

    def near(match: Match) -> None:
        try:
            plan.sizes.network(space, genotype, match)
        except InputError as fault:
            tried = "" if method.genotype is not None else f"\n  tried with {json.dumps(genotype)}, before any search"
            raise InputError(f"{fault}{tried}") from fault

    if settings.auxiliary > 0:
        note.attempt(with_head, "train.auxiliary", method.name)
    note.attempt(partial(check_drop_path, network, space, settings), "train.drop_path", method.name)
    if settings.match is not None:
        note.attempt(partial(near, settings.match), "train.match", method.name)
    if settings.recompute_cells:
        note.attempt(partial(cells_of, network, "train.recompute_cells"), "train.recompute_cells", method.name)


def check_batches(plan: Plan, labels: Tensor, processes: Processes, note: Noting) -> None:
    """Divide the training images, whose labels are (N,), as every search and training will."""
    seen: set[Any] = set()
    for method in plan.methods.values():
        if method.network is not None:
            continue
        note.attempt(partial(train.check_augmentation, plan.dataset, method.train), "train", method.name)
        of_search = method.search.division if method.searches else None
        divisions = method.train.division, of_search, method.best_of, str(method.strategy)
        if divisions in seen:
            continue
        seen.add(divisions)
        seed = plan.seeds.all[0]
        if method.searches:
            note.attempt(partial(search.divided, labels, method.search, seed.search, processes), "search", method.name)
        how = estimation(method.strategy) if method.finds else None
        if how is not None:
            note.attempt(partial(_judges, method, how, labels, seed.of_candidates, processes), "strategy", method.name)
        if method.best_of is not None:
            train_candidates = partial(train.divided, labels, method.of_candidates, seed.search, processes)
            note.attempt(train_candidates, "best_of", method.name)
        note.attempt(partial(train.divided, labels, method.train, seed.train, processes), "train", method.name)


def _judges(method: MethodPlan, how: Estimation, labels: Tensor, seed: int, processes: Processes) -> None:
    """Divide the images of candidates, and those of the weights that they share, as a strategy will.

    Raises:
        InputError: batches that these processes cannot share, or settings that the regime refuses.
    """
    kept, _ = train.divided(labels, method.estimated(how), seed, processes)
    if how.network == "inherited":
        batch = method.search.batch
        check_fit(shuffled(kept, batch, torch.Generator()), batch, method.search.accumulate, processes, "search")


def check_counts(plan: Plan, tested: int, note: Noting) -> None:
    """Refuse sections that ask for more than the `tested` test images there are."""

    def enough(name: str, asked: int | None) -> None:
        if asked is not None and asked > tested and not plan.quick:
            raise DataError(
                f"{asked} test images are asked for and there are {tested}; leave {name}.images out for all"
            )

    sections = {"evaluate": plan.evaluate, "certify": plan.certify, "smoothing": plan.smoothing}
    for name, section in sections.items():
        if section is not None:
            note.attempt(partial(enough, name, section.images), name)
