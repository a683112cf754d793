"""The campaign of soundness: networks of every kind, norm, method and number format, whose bounds are checked."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import torch
from attrs import frozen

from evidence.soundness.ledger import Case, Ledger
from evidence.soundness.networks import (
    OF_VALUES,
    Open,
    RandomNetwork,
    activations,
    blind,
    of_space,
    recorded,
    shipped,
    some_images,
    spaces,
)  # fmt: skip
from robustnas.bounds import METHODS, AlphaCrown, Branching
from robustnas.threat import NORMS, ThreatModel

SEEDS = 12
"""Networks of the generator; at least as many as it has functions without weights."""
QUICK = tuple(method for method in METHODS if method != "alpha-crown")
"""The methods that need no optimisation for each bound."""
OPTIMISED = (AlphaCrown(steps=3, inner=1), Branching(steps=3, parts=8, batch=8, seconds=1e9))
"""The methods that optimise and branch, with small budgets: whatever they have chosen by the end is to be sound."""
WALKED = (*METHODS, "bab")
LARGEST = {"linf": 0.5, "l2": 1.0, "l1": 2.0}
"""Epsilons are drawn between 1e-5 and this."""


def some_threat(norm: str, seed: int) -> ThreatModel:
    """Epsilon spread evenly over its orders of magnitude."""
    low, high = torch.tensor([1e-5, LARGEST[norm]]).log10().tolist()
    return ThreatModel(norm, 10 ** Random(f"{norm} {seed}").uniform(low, high))


def random_case(seed: int, norm: str, activation: str = "", block: str = "") -> Case:
    # behind a block of values by values a backward pass for each entry is left to their own tests
    methods = METHODS if seed % 4 == 0 else QUICK[:2] if block else QUICK
    network = RandomNetwork(seed, activation=activation, block=block)
    name = f"RandomNetwork({seed}, activation={activation!r}, block={block!r})"
    return Case(name, network, *some_images(seed), some_threat(norm, seed), methods, seed)


def space_case(space: str, discrete: bool, norm: str, epsilon: float) -> Case:
    shape = (1, 4, 4)
    network = of_space(space, discrete, 1, shape, cells=1, network_cells=1)
    name = f"{space} {'discrete' if discrete else 'supernet'}"
    return Case(name, network, *some_images(7, shape=shape), ThreatModel(norm, epsilon), QUICK)


WIDE = {"linf": 0.1, "l2": 0.4, "l1": 1.0}
"""Epsilons at which lines leave something to methods that optimise and branch."""


def open_case(case: Case, share: float = 0.5) -> Case:
    """The first image alone, every margin of which `crown` leaves open; with the methods that optimise and branch."""
    images, labels, threat = case.images[:1], case.labels[:1], ThreatModel(case.threat.norm, WIDE[case.threat.norm])
    network = Open(case.network, images, labels, threat, share)
    return Case(f"open {case.name}", network, images, labels, threat, OPTIMISED, case.seed)


def enter_open(ledger: Ledger, case: Case | None, other: Case | None) -> None:
    """Enter the first case as far as the budget goes, though its margins are broken, and the second as it is
    certified: its margins are nearly proved, so that PGD does not end it."""
    if case is not None:
        with blind():
            ledger.double(open_case(case))
    if other is not None:
        ledger.single(open_case(other, 0.95))


@frozen
class Campaign:
    """What was checked, the rules that were used, and the names of the networks."""

    ledger: Ledger
    used: set[Any]
    cases: list[str]


def campaign(every: bool = False) -> Campaign:
    """Check every network, each claim in one norm; those of spaces for one claim alone, and genotypes opened.

    Args:
        every: random networks in each norm, and every other one for both claims; that takes minutes.
    """
    ledger, cases = Ledger(), []
    claims = (ledger.double, ledger.single)
    # both look at the rules themselves, not at those that keep the record
    shipped(), activations()
    with recorded() as used:
        for seed, turn in itertools.product(range(SEEDS), range(len(NORMS) if every else 1)):
            case, other = (random_case(seed, NORMS[(seed + turn + more) % len(NORMS)]) for more in (0, 1))
            ledger.double(case)
            ledger.single(other)
            enter_open(ledger, case, other)
            cases += [case.name, f"open {case.name}"]
        # the norm matters in front of the first layer only
        for index, (space, discrete) in enumerate(itertools.product(spaces(), (False, True))):
            norm, other_norm = NORMS[index % len(NORMS)], NORMS[(index + 1) % len(NORMS)]
            single = (index // 2 + discrete) % 2 == 1  # a space's supernet for one claim, its genotype for the other
            # where the bounds are tight enough to be violated, and where float32 has most to round
            if every or not single:
                ledger.double(space_case(space, discrete, norm, 1e-3))
            if every or single:
                ledger.single(space_case(space, discrete, other_norm, 0.02))
            cases.append(f"{space} {discrete}")
            opened = [space_case(space, discrete, one, 0.0) for one in (norm, other_norm)]
            if every:
                enter_open(ledger, *opened)
            elif discrete or space == "darts":  # its supernet stands for those that are slower than what they hold
                enter_open(ledger, *((opened[0], None) if index // 2 % 2 else (None, opened[1])))
            else:
                continue
            cases.append(f"open {space} {discrete}")
        for index, activation in enumerate(activations()):
            for turn, check in enumerate(claims):
                case = random_case(103 + index, NORMS[(index + turn) % len(NORMS)], activation)
                check(case)
            cases.append(case.name)
        for index, block in enumerate(OF_VALUES):
            for turn, check in enumerate(claims):
                if every or (index + turn) % 2:
                    case = random_case(199 + index, NORMS[(index // 2 + turn) % len(NORMS)], block=block)
                    check(case)
            cases.append(block)
    return Campaign(ledger, used, cases)
