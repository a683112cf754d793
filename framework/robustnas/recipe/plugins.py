"""Makes the plugins of a recipe: from a name and options to an object of the plugin's class."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from attrs import Factory, define, fields_dict

from robustnas.contracts import AttackTraits
from robustnas.errors import OptionError, PluginError
from robustnas.options import options_of
from robustnas.recipe.document import Node, below
from robustnas.recipe.faults import Faults
from robustnas.recipe.overlay import overlay
from robustnas.recipe.schema import Attack, Use
from robustnas.recipe.values import BAD, construct, found, name_of, read_object, read_value, refuse
from robustnas.registry import (
    ATTACKS,
    DATASETS,
    METRICS,
    REGISTRIES,
    TRACKERS,
    Entry,
    Registry,
    is_foolbox_attack,
    metric_parts,
)
from robustnas.runtime.quoted import quoted
from robustnas.threat import USUAL_RADIUS, ThreatModel

MOST_METRICS, MOST_ATTACKS = 20, 100
"""A recipe may have so many attacks: each waits for those before it, and is a column of the table."""

LONGEST_LABEL = 80
"""A label may have so many characters, because it names a folder."""

COUNTS = ("expectation", "runs")
"""Keys of an attack's entry that belong to the harness and not to the plugin: whole numbers from 1."""

LP = {math.inf: "linf", 2: "l2", 1: "l1"}
"""The order of a foolbox distance, and the norm it measures."""


@define
class Plugins:
    """Reads the plugins of one recipe.

    Each class is loaded once, and a class that cannot be loaded is a fault wherever it is used.  Plugins written alike,
    name and options, become one object, so that what is made from it later is made only once.
    """

    faults: Faults
    installed: dict[str, list[Entry]] = Factory(dict)
    classes: dict[tuple[str, str], tuple[type, str | None] | PluginError] = Factory(dict)
    made: dict[tuple[str, str, str], Use] = Factory(dict)

    def use(self, node: Node, registry: Registry, reserved: tuple[str, ...] = ()) -> Any:
        """Make a plugin from its name and options; `BAD` with faults."""
        name_node = name_of(node, registry.kind, self.faults)
        if name_node is None:
            return BAD
        name = str(name_node.value)
        loaded = self._loaded(registry, name)
        if isinstance(loaded, PluginError):
            return refuse(name_node, str(loaded), self.faults)
        cls, provider = loaded
        options = node if isinstance(node.value, dict) else Node(node.mark, node.path, {})
        what = f"option of {registry.kind} {name!r}"
        plugin = read_object(cls, options, self.faults, what, ("name", *reserved), at=name_node)
        if plugin is BAD:
            return BAD
        written = {key: entry.plain() for key, entry in options.entries.items() if key not in ("name", *reserved)}
        return self.made.setdefault((registry.kind, name, repr(written)), Use(name, written, plugin, provider))

    def dataset(self, node: Node | None) -> tuple[Any, Any]:
        """Read section `dataset`: the plugin, and how many of its training images train (None: all); `BAD` with faults.

        Args:
            node: the section; None where there is none.
        """
        if node is None:
            return None, None
        count = node.given.get("train_images")
        return self.use(node, DATASETS, ("train_images",)), None if count is None else self._count(count)

    def section(self, cls: type, node: Node, key: str) -> Any:
        """Read a section of settings, some of whose keys are plugins (`order`, `regime`); `BAD` with faults."""
        kinds = {name: field.metadata.get("plugin") for name, field in fields_dict(cls).items()}
        read = {name: partial(self._made, REGISTRIES[kind]) for name, kind in kinds.items() if kind is not None}
        return read_object(cls, node, self.faults, f"key of {key}", read=read)

    def _made(self, registry: Registry, node: Node) -> Any:
        use = self.use(node, registry)
        return use if use is BAD else use.plugin

    def _loaded(self, registry: Registry, name: str) -> tuple[type, str | None] | PluginError:
        """Load a plugin's class and name the package it comes from (None for ours), or say why that fails."""
        class_or_fault = self.classes.get((registry.kind, name))
        if class_or_fault is None:
            try:
                if registry.kind not in self.installed:
                    self.installed[registry.kind] = registry.entries()
                entry = registry.entry(name, self.installed[registry.kind])
                loaded = registry.load_entry(entry)
                options_of(loaded)  # called for its errors: a plugin's defaults may fail
                class_or_fault = loaded, entry.stranger
            except PluginError as fault:
                class_or_fault = fault
            self.classes[registry.kind, name] = class_or_fault
        return class_or_fault

    def metrics(self, node: Node) -> Any:
        """Read the key `metric` of a method, one metric or a weighted list; `BAD` with faults."""
        nodes = node.value if isinstance(node.value, tuple) else (node,)
        if not nodes:
            return refuse(node, "found an empty list; leave metric out for plain DARTS", self.faults)
        if len(nodes) > MOST_METRICS:
            return refuse(node, f"found {len(nodes)} metrics; at most {MOST_METRICS} would do", self.faults)
        weighted = [self._weighted(entry) for entry in nodes]
        if any(entry is BAD for entry in weighted):
            return BAD
        for part in ("inner_loss", "outer_loss"):
            owners = [entry for entry in zip(nodes, weighted, strict=True) if part in metric_parts(entry[1][1].plugin)]
            for extra, (_, use) in owners[1:]:
                refuse(extra, f"found {use.name!r}, the second metric with {part}; a level has one loss", self.faults)
            if len(owners) > 1:
                return BAD
        return tuple(weighted)

    def _weighted(self, node: Node) -> Any:
        """Read a metric with its weight, 1 by default; `BAD` with faults."""
        use = self.use(node, METRICS, ("weight",))
        entry = node.entries.get("weight")
        weight = 1.0
        if entry is not None:
            weight = read_value(entry, float, self.faults)
            if weight is not BAD and weight < 0:
                weight = refuse(entry, f"found {found(entry.value)}; at least 0 would do", self.faults)
            if use is not BAD and "score" not in metric_parts(use.plugin):
                text = f"found a weight for {use.name!r}, which has no score to weigh; leave weight out"
                return refuse(entry, text, self.faults)
        return BAD if BAD in (use, weight) else (weight, use)

    def attacks(self, node: Node, threat_node: Node | None, threat: ThreatModel | None) -> tuple[Attack, ...]:
        """Read section `attacks`: a list of attacks with their threats and labels.

        Args:
            node: the list.
            threat_node: section `threat`, over which an attack's own threat is laid.
            threat: the threat of that section; None where it has faults.
        """
        if node.value is None:
            return ()
        if not isinstance(node.value, tuple):
            self.faults.add(node.mark, node.path, f"found {found(node.value)}; a list of attacks would do")
            return ()
        if len(node.value) > MOST_ATTACKS:
            self.faults.add(node.mark, node.path, f"found {len(node.value)} attacks; at most {MOST_ATTACKS} would do")
            return ()
        attacks = []
        labels: dict[str, Node] = {}
        for entry in node.value:
            attack = self._attack(entry, threat_node, threat)
            if attack is BAD:
                continue
            attacks.append(attack)
            first = labels.setdefault(attack.label, entry)
            if first is not entry:
                text = f"found a second attack with the label {attack.label!r}; one of the two needs another"
                self.faults.add(entry.mark, below(entry.path, "label"), f"{text} (label: ...)")
        return tuple(attacks)

    def trackers(self, node: Node) -> tuple[Use, ...]:
        """Read section `trackers`: a list of trackers, each of which has a folder of its name."""
        if not isinstance(node.value, tuple):
            would = "a list of trackers would do, such as [tensorboard]"
            self.faults.add(node.mark, node.path, f"found {found(node.value)}; {would}")
            return ()
        trackers: dict[str, Use] = {}
        for entry in node.value:
            use = self.use(entry, TRACKERS)
            if use is not BAD and use.name in trackers:
                self.faults.add(entry.mark, entry.path, f"found a second tracker {use.name!r}; one of the two would do")
            elif use is not BAD:
                trackers[use.name] = use
        return tuple(trackers.values())

    def _attack(self, node: Node, threat_node: Node | None, threat: ThreatModel | None) -> Any:
        use = self.use(node, ATTACKS, ("threat", "label", *COUNTS))
        own: Any = threat
        if "threat" in node.given:
            own = self._own_threat(node.given["threat"], threat_node, threat)
        label = self._label(node.entries["label"]) if "label" in node.entries else None
        counts = {key: self._count(node.entries[key]) for key in COUNTS if key in node.entries}
        if use is BAD or own is BAD or own is None or label is BAD or BAD in counts.values():
            return BAD
        if not self._suits(use, own, node):
            return BAD
        for key in counts if AttackTraits.of(use.plugin).access == "corruption" else ():
            text = "found for a corruption, which looks for nothing and is a mean; leave it out"
            return refuse(node.entries[key], text, self.faults)
        differs = threat is not None and own != threat
        if label is None:
            steps = use.options.get("steps")
            label = f"{use.name}-{steps}" if type(steps) is int else use.name
            label += f" ({own})" if differs else ""
        return Attack(use, own if differs else None, label, **counts)

    def _own_threat(self, node: Node, recipe: Node | None, threat: ThreatModel | None) -> Any:
        """Read the threat of one attack, laid over the recipe's; `BAD` with a fault."""
        merged = overlay(recipe, node)
        assert merged is not None
        own = read_object(ThreatModel, merged, self.faults, "key of threat")
        if own is BAD or threat is None or own.norm == threat.norm or "epsilon" in node.entries:
            return own
        text = f"missing beside norm: {own.norm}, in which {threat.norm}'s radius means something else"
        self.faults.add(node.mark, below(node.path, "epsilon"), f"{text}; epsilon: {USUAL_RADIUS[own.norm]} would do")
        return BAD

    def _label(self, node: Node) -> Any:
        """Read the name of an attack's column; `BAD` with a fault."""
        label = read_value(node, str, self.faults)
        if label is BAD or (label.strip() and label.isprintable() and len(label) <= LONGEST_LABEL):
            return label
        what = f"found {quoted(label)}" if label.strip() else "found no text"
        return refuse(node, f"{what}; a name of at most {LONGEST_LABEL} printable characters would do", self.faults)

    def _count(self, node: Node) -> Any:
        """Read a whole number from 1; `BAD` with a fault."""
        count = read_value(node, int, self.faults)
        if count is not BAD and count < 1:
            return refuse(node, f"found {count}; a whole number from 1 would do", self.faults)
        return count

    def _suits(self, use: Use, threat: ThreatModel, node: Node) -> bool:
        """Whether an attack knows the norm of its threat; a fault where it does not."""
        place = node.entries.get("threat", node)
        if not is_foolbox_attack(type(use.plugin)):
            return construct(lambda: use.plugin.build(threat), place, self.faults) is not BAD
        return construct(lambda: _compare(use, threat), place, self.faults) is not BAD


def _compare(use: Use, threat: ThreatModel) -> None:
    """Compare the distance of a foolbox attack, where it has one, with a threat.

    Raises:
        OptionError: it measures another norm.
    """
    try:
        distance = use.plugin.distance
    except ValueError:  # foolbox: "unknown distance, please pass `distance` to the attack initializer"
        return
    norm = LP.get(getattr(distance, "p", None), str(distance))  # type: ignore[arg-type]
    if norm != threat.norm:
        raise OptionError(f"found the threat {threat} for {use.name!r}, an attack of {norm}; {norm} would do")
