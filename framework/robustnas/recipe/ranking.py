"""Section `rank`: which metrics are held against what became of the networks, and on which networks they are measured.

The architectures are those of the recipe's methods and search seeds: thirty random cells, each trained three times, are
`methods: {random: {strategy: random}}` with `seeds: {search: [0, ..., 29], train: [0, 1, 2]}`.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from robustnas.errors import PluginError
from robustnas.options import options_of
from robustnas.recipe.document import Node
from robustnas.recipe.plugins import Plugins
from robustnas.recipe.schema import Rank, Ranking
from robustnas.recipe.values import BAD, found, read_value, refuse
from robustnas.registry import METRICS, metric_parts


def read_ranking(node: Node, plugins: Plugins) -> Any:
    """Read the section; without `metrics` it is about every installed metric with a score, with default options."""
    if node.value is not None and not isinstance(node.value, dict):
        return refuse(node, f"found {found(node.value)}; a mapping would do, {{}} for every metric", plugins.faults)
    own = {name: entry for name, entry in node.entries.items() if name != "metrics"}
    marks = {name: mark for name, mark in node.keys.items() if name != "metrics"}
    settings = plugins.section(Rank, evolve(node, value=own, keys=marks), "rank")
    given = node.given.get("metrics")
    metrics = _installed(node, plugins) if given is None else _listed(given, plugins)
    return BAD if BAD in (settings, metrics) else Ranking(metrics, settings)


def _installed(node: Node, plugins: Plugins) -> Any:
    """Make every installed metric that has a score and needs no option."""
    metrics = {}
    for name in METRICS.names():
        try:
            cls = METRICS.load(name)
        except PluginError as fault:
            return refuse(node, f"{fault}; rank: {{metrics: [...]}} without it would do", plugins.faults)
        if "score" in metric_parts(cls) and not any(option.required for option in options_of(cls).values()):
            metrics[name] = plugins.use(Node(node.mark, f"{node.path}.metrics", name), METRICS)
    return BAD if BAD in metrics.values() else metrics


def _listed(node: Node, plugins: Plugins) -> Any:
    """Read the list of metrics, which `label`s tell apart where one metric is in it with several options."""
    if not isinstance(node.value, tuple) or not node.value:
        what = "an empty list" if node.value == () else found(node.value)
        text = f"found {what}; a list of metrics would do, such as [certified-bound, jacobian]"
        return refuse(node, text, plugins.faults)
    metrics: dict[str, Any] = {}
    for entry in node.value:
        use = plugins.use(entry, METRICS, ("label",))
        label = read_value(entry.entries["label"], str, plugins.faults) if "label" in entry.entries else None
        if use is BAD or label is BAD:
            return BAD
        if "score" not in metric_parts(use.plugin):
            return refuse(
                entry, f"found {use.name!r}, which has no score; a metric with a score would do", plugins.faults
            )
        label = use.name if label is None else label
        if label in metrics:
            return refuse(entry, f"found {label!r} twice; label: ... would tell the two apart", plugins.faults)
        metrics[label] = use
    return metrics
