"""What would fail late, looked at before anything runs: data, networks, batches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import attrs
import torch
from attrs import frozen
from torch import Tensor

from robustnas import search, train
from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.contracts import Genotype
from robustnas.errors import DataError, InputError
from robustnas.nn.recompute import cells_of
from robustnas.plan import MethodPlan, Plan
from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults, Mark
from robustnas.recipe.load import Loaded
from robustnas.recipe.values import BAD, construct
from robustnas.run.data import Splits
from robustnas.run.task import load_foreign
from robustnas.runtime import interrupt, seeding
from robustnas.runtime.processes import ALONE, Processes
from robustnas.search.settings import Search
from robustnas.search.weights import weights
from robustnas.train.network import check_drop_path
from robustnas.train.settings import Train


def check(
    plan: Plan, loaded: Loaded, faults: Faults, read: Callable[[], Splits | None], processes: Processes = ALONE
) -> Splits | None:
    """All of it, which `plan` and `run` both ask for.

    Args:
        plan: what of the recipe could be arranged.
        loaded: the recipe, which knows where its keys are written.
        faults: of the recipe, as far as they are known.
        read: returns the images, or None where they are not on this machine.
        processes: the processes that will run it.

    Returns:
        The images.

    Raises:
        RecipeError: something would fail; all there is.
    """
    told = Told(loaded, faults)
    found = told(read, "", "dataset")
    check_networks(plan, told)
    if isinstance(found, Splits):
        check_batches(plan, found.labels, processes, told)
        check_counts(plan, len(found.test.labels), told)
    faults.raise_all()
    return cast("Splits | None", found)


SECTIONS = {"search": Search, "train": Train, "evaluate": Evaluate, "certify": Certify, "smoothing": Smoothing}
KEYS = {f"{section}.{field.name}" for section, cls in SECTIONS.items() for field in attrs.fields(cls)}
"""Keys of the recipe that a message may be about."""


@frozen
class Told:
    """Notes what is wrong where it is written.

    Args:
        loaded: the recipe.
        faults: takes what is wrong.
    """

    loaded: Loaded
    faults: Faults

    def __call__(self, run: Callable[[], Any], method: str, key: str) -> Any:
        """What `run` returns, or `BAD` with a fault at the key it names, of the method or else of all.

        Args:
            method: that is checked.
            key: at fault where no other is named.
        """
        interrupt.check()
        trial = Faults()
        found = construct(run, Node(Mark(""), "", {}), trial)
        for fault in trial.found:
            key = "weights" if fault.text.startswith("--weights") else key
            about = next((word for word in re.findall(r"\w+\.\w+", fault.text) if word in KEYS), key)
            own = f"methods.{method}.{about}"
            path = own if own in self.loaded.places or about in OF_METHODS else about
            self.faults.add(self.loaded.place(path), path, fault.text.removeprefix(f"{about}: "))
        return found


OF_METHODS = ("network", "weights", "genotype")
"""Keys that methods alone have."""


def check_networks(plan: Plan, told: Told) -> None:
    """Build each distinct supernet and network once, so that what cannot be built fails before anything runs."""
    seen: set[Any] = set()
    for method in plan.methods.values():
        told_apart = _told_apart(method)
        if told_apart in seen:
            continue
        seen.add(told_apart)
        if method.network is not None:
            told(partial(load_foreign, method.network, plan.dataset), method.name, "network")
            continue
        genotype = method.genotype
        with seeding.seeded(0, "check"):
            if genotype is None:
                genotype = told(partial(_searched, method, plan), method.name, "search_space")
            if genotype is not BAD:
                with torch.device("meta"):
                    _check_network(method, genotype, plan, told)


def _told_apart(method: MethodPlan) -> Any:
    """What of a method decides which networks are built for it, and with what they must comply."""
    if method.network is not None:
        return method.network
    train = method.train
    searched = method.search.recompute_cells if method.genotype is None else json.dumps(method.genotype, sort_keys=True)
    # spaces that are written alike are one object
    return id(method.space), searched, train.auxiliary > 0, train.drop_path > 0, train.recompute_cells


def _searched(method: MethodPlan, plan: Plan) -> Genotype:
    """A genotype as the search of a method may find it.

    Raises:
        InputError: the supernet cannot be built, or not be searched as the settings ask.
    """
    supernet: Any = method.space.supernet(plan.dataset.shape, plan.dataset.classes)
    if method.search.recompute_cells:
        cells_of(supernet, "search.recompute_cells")
    weights(supernet)
    return method.space.genotype(supernet)


def _check_network(method: MethodPlan, genotype: Genotype, plan: Plan, told: Told) -> None:
    """Build the network of a genotype, and look for the head, the drop-path and the cells that training asks for."""
    space, settings = method.space, method.train
    make = partial(space.network, genotype, plan.dataset.shape, plan.dataset.classes)
    network = told(make, method.name, "search_space")
    if network is BAD:
        return

    def with_head() -> None:
        try:
            make(auxiliary=True)
        except InputError as fault:
            raise InputError(f"found train.auxiliary: {settings.auxiliary:g}: {fault}; 0 would do") from fault

    if settings.auxiliary > 0:
        told(with_head, method.name, "train.auxiliary")
    told(partial(check_drop_path, network, space, settings), method.name, "train.drop_path")
    if settings.recompute_cells:
        told(partial(cells_of, network, "train.recompute_cells"), method.name, "train.recompute_cells")


def check_batches(plan: Plan, labels: Tensor, processes: Processes, told: Told) -> None:
    """Divide the training images, of these labels (N,), as every search and training will."""
    seen: set[Any] = set()
    for method in plan.methods.values():
        if method.network is not None:
            continue
        told(partial(train.check_augmentation, plan.dataset, method.train), method.name, "train")
        divisions = method.train.division, method.search.division if method.genotype is None else None
        if divisions in seen:
            continue
        seen.add(divisions)
        if method.genotype is None:
            told(partial(search.divided, labels, method.search, plan.seeds[0], processes), method.name, "search")
        told(partial(train.divided, labels, method.train, plan.seeds[0], processes), method.name, "train")


def check_counts(plan: Plan, tested: int, told: Told) -> None:
    """No section asks for more than the `tested` test images there are."""

    def enough(name: str, asked: int | None) -> None:
        if asked is not None and asked > tested:
            raise DataError(
                f"{asked} test images are asked for and there are {tested}; leave {name}.images out for all"
            )

    sections = {"evaluate": plan.evaluate, "certify": plan.certify, "smoothing": plan.smoothing}
    for name, section in sections.items():
        if section is not None:
            told(partial(enough, name, section.images), "", name)
