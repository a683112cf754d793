"""What would fail late, looked at before anything runs: data, networks, batches."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from robustnas import interrupt, search, seeding, train
from robustnas.contracts import Genotype
from robustnas.errors import InputError
from robustnas.plan import MethodPlan, Plan
from robustnas.recompute import cells_of
from robustnas.run import data
from robustnas.run.directory import RunDirectory
from robustnas.run.task import load_foreign
from robustnas.train.network import build
from robustnas.world import ALONE, World


def check(plan: Plan, directory: RunDirectory, world: World = ALONE, quiet: bool = True) -> None:
    """All of it.

    Args:
        plan: what will be run.
        directory: of the run, which remembers images that were found good.
        world: the processes that will run it.
        quiet: say nothing while it takes its time.

    Raises:
        InputError: some of it would fail.
    """
    found = data.splits(plan)
    interrupt.check()
    check_networks(plan)
    check_batches(plan, found.labels, world)
    data.verify(plan, found, directory, quiet)


def check_networks(plan: Plan) -> None:
    """Build each distinct supernet and network once, so that what cannot be built fails before anything runs.

    Raises:
        InputError: a space refuses its options, or training asks for a head or drop-path its networks lack, or
            cells are to be computed again and there are none.
    """
    seen: set[Any] = set()
    for method in plan.methods.values():
        told_apart = _told_apart(method)
        if told_apart in seen:
            continue
        seen.add(told_apart)
        if method.network is not None:
            try:
                load_foreign(method.network, plan.dataset)
            except InputError as fault:
                raise InputError(f"methods.{method.name}: {fault}") from fault
            continue
        interrupt.check()
        genotype = method.genotype
        with seeding.seeded(0, "check"):
            if genotype is None:
                supernet: Any = method.space.supernet(plan.dataset.shape, plan.dataset.classes)
                if method.search.recompute_cells:
                    cells_of(supernet, f"methods.{method.name}: search.recompute_cells")
                genotype = method.space.genotype(supernet)
            with torch.device("meta"):
                _build_named(method, genotype, plan)


def _told_apart(method: MethodPlan) -> Any:
    """What of a method decides which networks are built for it, and with what they must comply."""
    if method.network is not None:
        return method.network
    train = method.train
    searched = method.search.recompute_cells if method.genotype is None else json.dumps(method.genotype, sort_keys=True)
    # spaces that are written alike are one object
    return id(method.space), searched, train.auxiliary > 0, train.drop_path > 0, train.recompute_cells


def _build_named(method: MethodPlan, genotype: Genotype, plan: Plan) -> None:
    try:
        network = build(method.space, genotype, plan.dataset, method.train)
        if method.train.recompute_cells:
            cells_of(network.network, "train.recompute_cells")
    except InputError as fault:
        raise InputError(f"methods.{method.name}: {fault}") from fault


def check_batches(plan: Plan, labels: Tensor, world: World = ALONE) -> None:
    """Divide the training images, of these labels (N,), as every search and training will.

    Raises:
        InputError: there are too few for a method's settings, or they cannot be read or shared as it asks.
    """
    seen: set[Any] = set()
    for method in plan.methods.values():
        if method.network is not None:
            continue
        divisions = method.train.division, method.search.division if method.genotype is None else None
        try:
            train.check_augmentation(plan.dataset, method.train)
            if divisions in seen:
                continue
            seen.add(divisions)
            if method.genotype is None:
                search.divided(labels, method.search, plan.seeds[0], world)
            train.divided(labels, method.train, plan.seeds[0], world)
        except InputError as fault:
            raise type(fault)(f"methods.{method.name}: {fault}") from fault
