"""A recipe as frozen attrs classes: their fields are the keys, their validators the rules.

`metadata["help"]` of a field is its documentation.  Values marked *ours* are defaults where the DSRNA paper is
silent.  Sources of the others: Hosseini et al. 2021 (DSRNA) and the settings of Liu et al. 2019 (DARTS).
Sections have files of their own beside this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import Factory, field, frozen

from robustnas.recipe.evaluation_sections import Certify, Evaluate, Smoothing
from robustnas.recipe.search_section import (
    ORDERS,
    ConjugateGradient,
    Exact,
    FirstOrder,
    Neumann,
    Order,
    Search,
    Unrolled,
)
from robustnas.recipe.train_section import REGIMES, Adversarial, Certified, Regime, Standard, Trades, Train
from robustnas.threat import ThreatModel

__all__ = [
    "ORDERS",
    "REGIMES",
    "Adversarial",
    "Attack",
    "Certified",
    "Certify",
    "ConjugateGradient",
    "Evaluate",
    "Exact",
    "FirstOrder",
    "Method",
    "Neumann",
    "Order",
    "Recipe",
    "Regime",
    "Search",
    "Smoothing",
    "Standard",
    "Trades",
    "Train",
    "Unrolled",
    "Use",
    "Weights",
]


@frozen
class Use:
    """A plugin by name with its options as written: `{name: pgd, steps: 20, step_size: 2/255}` or just `fgsm`.

    Args:
        plugin: the object the loader made of them: names are resolved once, while the recipe is checked.  What is
            written alike, name and options, is one object.
        provider: the package that a third-party plugin comes from, with its version: another may compute something
            else.  None for our own, which change with `robustnas.plan.RESULTS`, not with every release.
    """

    name: str
    options: dict[str, Any] = Factory(dict)
    plugin: Any = field(default=None, eq=False, repr=False)
    provider: str | None = field(default=None, eq=False, repr=False)


@frozen
class Attack:
    """An entry of `attacks`: a plugin with its options, a threat of its own if it has one, and its column's name.

    Args:
        expectation: passes averaged in each evaluation that the attack sees (expectation over transformation), for
            networks whose output is random.
        runs: how often the attack is run, with new random draws, each time on the images that still stand.
    """

    use: Use
    threat: ThreatModel | None = None
    label: str | None = None
    expectation: int = 1
    runs: int = 1


@frozen
class Weights:
    """Key `weights` of a method: the tensors of a network made elsewhere.

    Args:
        file: of torch.save.
        key: where in it the state dict is, parts with `/` between them; None: found by what fits the network.
        prefix: what stands before the network's names, names without it being left aside; None: found as well.
    """

    file: Path
    key: str | None = None
    prefix: str | None = None


@frozen
class Method:
    """An entry of `methods`: a way of searching.  The sections it holds override the recipe's keys for it alone.

    Args:
        genotype: in place of a search: a name, a path, a text in DARTS's notation, or a genotype as plain data.
        network: `module:factory` of a network made elsewhere, which is neither searched nor trained here.
        weights: its weights; None where the factory fills them in.
        normalize: whether the data set's mean and deviation become its first layer.
    """

    metric: tuple[tuple[float, Use], ...] = ()
    genotype: str | dict[str, Any] | None = None
    network: str | None = None
    weights: Weights | None = None
    normalize: bool = False
    search_space: Use | None = None
    threat: ThreatModel | None = None
    search: Search = field(factory=Search)
    train: Train = field(factory=Train)


@frozen
class Recipe:
    """A whole recipe, checked: one comparison of methods on one dataset under one threat.

    Args:
        search_space: None where no method searches or trains.
    """

    dataset: Use
    search_space: Use | None
    threat: ThreatModel
    methods: dict[str, Method]
    attacks: tuple[Attack, ...] = ()
    seeds: tuple[int, ...] = (0,)
    search: Search = field(factory=Search)
    train: Train = field(factory=Train)
    certify: Certify | None = field(factory=Certify)
    smoothing: Smoothing | None = None
    evaluate: Evaluate = field(factory=Evaluate)
