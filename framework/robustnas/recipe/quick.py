"""`quick: true`, or `--quick`: a few steps of everything, so that a whole recipe is seen to run within minutes.

Every number below is laid over the recipe where it is smaller than what stands there, as `--set` would do it, so that
`recipe.yaml` shows what was done and a quick recipe that is read again stays as it is.  Nothing is refused that the
whole recipe accepts: a plugin that does not take the smaller number keeps its own, and options of third parties'
plugins are left alone, because nobody here knows what they may be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from robustnas.contracts import Dataset
from robustnas.recipe.document import Node
from robustnas.recipe.faults import Faults, Mark
from robustnas.recipe.overlay import node_of, put
from robustnas.recipe.schema import Method, Recipe, Use
from robustnas.recipe.values import BAD, construct
from robustnas.search.settings import Search
from robustnas.train.settings import Train

MARK = Mark("--quick")

TRAIN_IMAGES, IMAGES_A_CLASS = 96, 2
"""Training images: so many, and of each class as many as the two levels of a search need."""

TEST_IMAGES, CERTIFIED_IMAGES, SCORED_IMAGES = 16, 2, 16
VERIFIED_SECONDS = 1.0
RANKED = 3
"""Searches of a recipe that ranks: the fewest architectures that have a correlation."""
EPOCHS, BATCH, PARTS, SAMPLES, RADII, RUNS = 2, 32, 2, 2, 2, 2

SIZES = {"cells": 3, "channels": 8, "network_cells": 3, "network_channels": 8}
"""Options of search spaces: three cells hold both reductions and the auxiliary head."""

EFFORT = {
    **{"steps": 3, "restarts": 1, "eot_samples": 2, "binary_search_steps": 2, "queries": 20},
    **{"draws": 2, "candidates": 3, "samples": 10, "most_samples": 20, "tries": 10},
}
"""Options of attacks: what they cost."""

JUDGED = {"candidates": 3, "population": 2, "tournament": 2, "epochs": 2, "tune": 1, "images": 16}
"""Options of strategies that have candidates judged."""

NOISY = {"selection": 10, "samples": 100}
"""Options of section `smoothing`."""


def shrunk(root: Node, recipe: Recipe) -> Node:
    """Lay the small numbers over a recipe without faults.

    Args:
        root: its tree, in which every key keeps its place.
        recipe: what the tree says.
    """

    def lay(values: dict[str, Any], *above: str) -> None:
        """Put values below a key."""
        nonlocal root
        for key, value in values.items():
            root = put(root, (*above, key), node_of(value, MARK), MARK)

    if any(method.network is None for method in recipe.methods.values()):
        images = max(TRAIN_IMAGES, IMAGES_A_CLASS * _classes(recipe.dataset.plugin))
        lay({"train_images": min(recipe.train_images or images, images)}, "dataset")
    if recipe.search_space is not None:
        lay(_fewer(recipe.search_space, SIZES), "search_space")
    search, seeds = recipe.seeds.search[: 1 if recipe.rank is None else RANKED], recipe.seeds.train
    lay({"seeds": list(search) if seeds is None else {"search": list(search), "train": list(seeds[:1])}})
    searched, trained = _search(recipe.search), _train(recipe.train)
    lay(_changed(searched, recipe.search), "search")
    lay(_changed(trained, recipe.train), "train")
    for name, method in recipe.methods.items():
        if method.network is None:
            _lay_method(root.entries["methods"].entries[name], method, searched, trained, lay)
    for place, attack in enumerate(recipe.attacks):
        harness = {key: RUNS for key in ("runs", "expectation") if getattr(attack, key) > RUNS}
        less = {**_fewer(attack.use, EFFORT), **harness}
        lay({**less, "label": attack.label} if less else {}, "attacks", str(place))
    evaluate = recipe.evaluate
    lay({"images": _least(evaluate.images, TEST_IMAGES), "epsilons": evaluate.epsilons[:RADII]}, "evaluate")
    certify, smoothing, rank = recipe.certify, recipe.smoothing, recipe.rank
    if certify is not None:
        few = _least(certify.images, CERTIFIED_IMAGES)
        brief = {"seconds": min(certify.budget["seconds"], VERIFIED_SECONDS)} if certify.budget else {}
        lay({"images": few, "epsilons": certify.epsilons[:RADII], **brief}, "certify")
    if smoothing is not None:
        few = _least(smoothing.images, CERTIFIED_IMAGES)
        lay({"images": few, **_accepted(smoothing, _smaller(smoothing, NOISY))}, "smoothing")
    if rank is not None:
        lay({"images": _least(rank.settings.images, SCORED_IMAGES)}, "rank")
    return root


def _lay_method(
    node: Node, method: Method, search: dict[str, Any], train: dict[str, Any], lay: Callable[..., None]
) -> None:
    """Lay what a method says otherwise than the recipe, or needs otherwise: an `epochs` that its own regime accepts.

    Args:
        search: what was laid over the recipe's section.
        train: likewise.
    """
    above = ("methods", str(node.path.partition(".")[2]))
    sections = {"train": (_train(method.train), train)}
    if "search" in method.uses:
        sections["search"] = (_search(method.search), search)
    for section, (own, shared) in sections.items():
        there = node.entries[section].entries if section in node.entries else {}
        lay({key: value for key, value in own.items() if key in there or value != shared[key]}, *above, section)
    if method.search_space is not None:
        lay(_fewer(method.search_space, SIZES), *above, "search_space")
    if method.best_of is not None:
        epochs = method.best_of.epochs
        less = {"samples": SAMPLES} | ({} if epochs is None else {"epochs": _epochs(method.train, epochs)})
        if "best_of" in node.given:
            lay({"best_of": {**attrs.asdict(method.best_of), **less}}, *above)
        else:
            lay(less, *above, "strategy")
    elif method.strategy.provider is None:
        less = _smaller(method.strategy.plugin, JUDGED)
        if "epochs" in less:
            less["epochs"] = _epochs(method.train, method.strategy.plugin.epochs)
        lay(less, *above, "strategy")


def _search(search: Search) -> dict[str, Any]:
    """The keys of section `search` that are laid; half of so few images move w, whatever the share."""
    epochs = min(search.epochs, EPOCHS)
    keys = {"epochs": epochs, "warmup_epochs": min(search.warmup_epochs, epochs - 1), "train_share": 0.5}
    return {**keys, "batch": min(search.batch, BATCH), "accumulate": min(search.accumulate, PARTS)}


def _train(train: Train) -> dict[str, Any]:
    """The keys of section `train` that are laid."""
    keys = {"epochs": _epochs(train, train.epochs), "batch": min(train.batch, BATCH)}
    return {**keys, "accumulate": min(train.accumulate, PARTS)}


def _epochs(train: Train, most: int) -> int:
    """The fewest epochs that the regime accepts, of twice as many each time."""
    epochs = EPOCHS
    while epochs < most and not _accepted(train, {"epochs": epochs}):
        epochs *= 2
    return min(epochs, most)


def _fewer(use: Use, most: dict[str, int]) -> dict[str, int]:
    """The options of our own plugin that are larger than `most`, each as small; none where it does not take them."""
    return {} if use.provider is not None else _accepted(use.plugin, _smaller(use.plugin, most))


def _smaller(plugin: Any, most: dict[str, int]) -> dict[str, int]:
    there = {name: getattr(plugin, name, None) for name in most}
    return {name: most[name] for name, value in there.items() if type(value) is int and value > most[name]}


def _accepted(settings: Any, values: dict[str, int]) -> dict[str, int]:
    """The values, where attrs' validators and the class's own let them stand; else none."""
    made = construct(lambda: attrs.evolve(settings, **values), Node(MARK, "", {}), Faults())
    return {} if made is BAD else values


def _changed(laid: dict[str, Any], section: Any) -> dict[str, Any]:
    return {key: value for key, value in laid.items() if value != getattr(section, key)}


def _least(given: int | None, most: int) -> int:
    return most if given is None else min(given, most)


def _classes(dataset: Dataset) -> int:
    """The number of classes; 0 where the data is not here to tell, which is told elsewhere."""
    classes = construct(lambda: int(dataset.classes), Node(MARK, "", {}), Faults())
    return 0 if classes is BAD else classes
