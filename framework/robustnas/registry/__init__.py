"""Names of plugins, and the classes behind them, of each kind: search spaces, metrics, attacks, datasets and so on.

Listing reads the metadata of installed packages and imports no plugin.  Loading imports one, through
stevedore, and compares what it has with what its contract promises.

stevedore keeps a cache of entry points that may be older than an installation, and does not say which
packages register one name twice; both are answered here from `importlib.metadata`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from attrs import field, frozen, has

from robustnas import contracts
from robustnas.errors import PluginError
from robustnas.runtime.quoted import quoted
from robustnas.runtime.signatures import accepts, readable, without_self
from robustnas.runtime.strangers import contained
from robustnas.runtime.suggest import did_you_mean

METRIC_PARTS: dict[str, type] = {
    "score": contracts.RobustnessMetric,
    "inner_loss": contracts.InnerLoss,
    "outer_loss": contracts.OuterLoss,
}
"""The methods of which a metric keeps at least one, and the contract of each."""


@frozen(order=True)
class Entry:
    """A name that a distribution registers.

    Args:
        name: what a recipe says.
        target: `module:Class`.
        distribution: the package that registers it.
        version: of that package.
    """

    name: str
    target: str
    distribution: str
    version: str
    point: importlib.metadata.EntryPoint = field(eq=False, repr=False)

    @property
    def provider(self) -> str:
        """Package and version, for messages."""
        return f"{self.distribution} {self.version}"

    @property
    def stranger(self) -> str | None:
        """The provider of a third-party plugin; None for our own."""
        return None if self.distribution == "robustnas" else self.provider


@frozen
class Registry:
    """The plugins of one kind.

    Args:
        kind: `search-space`, `metric`, `attack`, `dataset`, `strategy`, `order`, `regime`, `tracker` or `executor`.
        group: the entry-point group packages register them in.
        check: what is wrong with a class that was loaded, a line each.
        loaded: the entries of the classes that are known, for `entry_of`.
        given: entries of files that were named in this process (`robustnas.registry.plugin_file`).
    """

    kind: str
    group: str
    check: Callable[[type], list[str]] = field(repr=False)
    loaded: dict[type, Entry] = field(factory=dict, init=False, eq=False, repr=False)
    given: list[Entry] = field(factory=list, init=False, eq=False, repr=False)

    def names(self) -> list[str]:
        """Every registered name, sorted; one that two packages register is there once."""
        return sorted({entry.name for entry in self.entries()})

    def entries(self) -> list[Entry]:
        """Everything registered now, sorted by name; an installation is seen at once.  Imports no plugin."""
        return sorted([*_registered(_installations())[self.group], *self.given])

    def conflicts(self, entries: Sequence[Entry] | None = None) -> dict[str, list[Entry]]:
        """Names registered more than once, with all who do; among `entries`, or all there are now."""
        by_name: dict[str, list[Entry]] = {}
        for entry in self.entries() if entries is None else entries:
            by_name.setdefault(entry.name, []).append(entry)
        return {name: entries for name, entries in by_name.items() if len(entries) > 1}

    def load(self, name: str) -> type:
        """The plugin class called `name`, checked against its contract.

        Raises:
            PluginError: as `entry` and `load_entry`.
        """
        return self.load_entry(self.entry(name))

    def entry(self, name: str, entries: Sequence[Entry] | None = None) -> Entry:
        """Who registers `name`, among `entries` or all there are now; imports nothing.

        Raises:
            PluginError: nothing installed does, or two distributions do.
        """
        entries = self.entries() if entries is None else entries
        matching = [entry for entry in entries if entry.name == name]
        if not matching:
            raise PluginError(self._unknown(name, sorted({entry.name for entry in entries})))
        if len(matching) > 1:
            raise PluginError(self.describe_conflict(name, matching))
        return matching[0]

    def load_entry(self, entry: Entry) -> type:
        """The plugin class that an entry stands for, checked against its contract.

        Raises:
            PluginError: its module does not import, or the class does not keep the contract.
        """
        what = f"{self.kind} {entry.name!r} ({entry.target}, from {entry.provider})"
        plugin = _import(self.group, entry, what)
        with contained(lambda text: PluginError(f"{what} cannot be looked at: {text}")):
            if not isinstance(plugin, type):
                raise PluginError(
                    f"{what} is not a class: found {plugin!r:.80}; a class with options as fields would do"
                )
            changes = self._changes_since(plugin, what)
            wrong = self.check(plugin)
            if wrong or changes:
                raise PluginError("\n  ".join([f"{what} does not keep its contract", *wrong, *changes]))
            self.loaded[plugin] = entry
            return plugin

    def _changes_since(self, plugin: type, what: str) -> list[str]:
        """What changed of the contract since the version that a class names as its `contract`, and what to change.

        Raises:
            PluginError: that is no version, or one that is not known here yet.
        """
        options = {attribute.name for attribute in getattr(plugin, "__attrs_attrs__", ())}
        version = None if "contract" in options else _own(plugin, "contract")
        if version is None:
            return []
        latest = max(contracts.HISTORY)
        if type(version) is not int or version < 1:
            raise PluginError(f"{what}: found contract = {version!r:.40}; a whole number from 1 to {latest} would do")
        if version > latest:
            raise PluginError(
                f"{what} was written for version {version} of the contract, and this robustnas knows {latest}; "
                "pip install -U robustnas would do"
            )
        changes = [
            f"since version {number}: {changed[self.kind]}"
            for number, changed in sorted(contracts.HISTORY.items())
            if number > version and self.kind in changed
        ]
        head = f"it was written for version {version} of the contract; this is version {latest}, so change it"
        return [head, *changes, f"then contract = {latest}"] if changes else []

    def entry_of(self, cls: type) -> Entry:
        """Who registers a class: what a recipe calls it, and the package it comes from.

        Raises:
            PluginError: nobody does.
        """
        if cls not in self.loaded:
            target = f"{cls.__module__}:{cls.__qualname__}"
            matching = [entry for entry in self.entries() if entry.target == target]
            if not matching:
                raise PluginError(f"{target} is registered in no {self.group}; a recipe has no name for it")
            self.loaded[cls] = matching[0]
        return self.loaded[cls]

    def describe_conflict(self, name: str, entries: Sequence[Entry]) -> str:
        """Who registers `name`, and what to do."""
        providers = " and ".join(
            f"{entry.provider} ({entry.target})" for entry in sorted(entries, key=lambda e: e.provider)
        )
        return f"{self.kind} {name!r} is registered twice, by {providers}; uninstall one of the two"

    def _unknown(self, name: str, names: list[str]) -> str:
        article = "an" if self.kind[0] in "aeo" else "a"
        table = f'[project.entry-points."{self.group}"]'
        return "\n  ".join(
            [
                f"no {self.kind} is called {quoted(name)}{did_you_mean(name, names)}",
                f"installed: {', '.join(names) or 'none'}",
                f"to add one: install a package that registers {article} {self.kind} in {table}",
                "or give its file: --plugin FILE.py:CLASS",
            ]
        )


def _installations() -> tuple[object, ...]:
    """What changes where a package is installed, changed or removed: read ten times faster than all metadata."""
    found: list[object] = [*map(id, sys.meta_path)]
    for place in sys.path:
        folder = os.path.abspath(place)
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info")))
        except OSError:  # an archive, or nothing
            names = [""]
        found.append(folder)
        for name in names:
            found.append(name)
            with suppress(OSError):
                stamp = os.stat(os.path.join(folder, name, "entry_points.txt" if name else ""))
                found += [stamp.st_mtime_ns, stamp.st_size]
    return tuple(found)


@lru_cache(maxsize=4)
def _registered(installations: tuple[object, ...]) -> dict[str, list[Entry]]:
    """What the installed packages register in the groups of robustnas.

    Args:
        installations: those of this moment; what was read is right as long as they stay.
    """
    importlib.invalidate_caches()
    points = importlib.metadata.entry_points()
    origins: dict[int, tuple[str, str]] = {}
    registered: dict[str, list[Entry]] = {}
    for registry in REGISTRIES.values():
        found: dict[tuple[str, str, str], Entry] = {}
        for point in points.select(group=registry.group):
            if id(point.dist) not in origins:
                origins[id(point.dist)] = _origin(point)
            distribution, version = origins[id(point.dist)]
            # An editable installation may show its distribution twice: the same name and target count once.
            key = (point.name, point.value, _normalized(distribution))
            found.setdefault(key, Entry(point.name, point.value, distribution, version, point))
        registered[registry.group] = list(found.values())
    return registered


def _origin(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution of an entry point; metadata without them is told as such."""
    distribution = point.dist
    metadata = distribution.metadata if distribution is not None else None
    if metadata is None:
        return "unknown distribution", "without version"
    return metadata["Name"] or "unknown distribution", metadata["Version"] or "without version"


def _normalized(name: str) -> str:
    """The name of a distribution as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _import(group: str, entry: Entry, what: str) -> Any:
    """What the entry point stands for, through stevedore.

    Raises:
        PluginError: anything at all was raised while importing; only the user's Ctrl-C passes.
    """
    from stevedore.driver import DriverManager

    # exactly the entry point found, not what a cache on the disk remembers
    DriverManager.ENTRY_POINT_CACHE[group] = [entry.point]
    # foolbox imports GitPython, which fails to import where git is not installed unless told to keep quiet.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with contained(lambda text: PluginError(f"{what} does not import: {text}")):
        return DriverManager(group, entry.name).driver


def metric_parts(metric: object) -> frozenset[str]:
    """Which of `score`, `inner_loss` and `outer_loss` a metric (class or object) keeps."""
    cls = metric if isinstance(metric, type) else type(metric)
    return frozenset(part for part in METRIC_PARTS if _own(cls, part) is not None)


def is_foolbox_attack(cls: type) -> bool:
    """Whether a class is a foolbox `Attack` as it is, without a `build`; imports nothing, it has imported foolbox."""
    module = sys.modules.get("foolbox.attacks.base")
    return module is not None and issubclass(cls, module.Attack) and _own(cls, "build") is None


def _own(cls: type, name: str) -> Any:
    """The attribute `name` as a class holds it, not looked up through descriptors; None where it has none.

    A class that inherits from its contract has the contract's empty methods; these are not its own.
    """
    for base in cls.__mro__:
        if name in vars(base):
            return None if getattr(base, "_is_protocol", False) else vars(base)[name]
    return None


def _method(cls: type, name: str, contract: type) -> list[str]:
    """What is wrong with a method, promised and found."""
    promised = inspect.signature(getattr(contract, name))
    lines = [f"promised: {name}{readable(promised)}"]
    own = _own(cls, name)
    if own is None:
        return [*lines, f"found:    no {name}"]
    try:
        found = inspect.signature(getattr(cls, name))
    except (TypeError, ValueError):
        return [*lines, f"found:    {name}, which is no method but {own!r:.60}"]
    bound = isinstance(own, (staticmethod, classmethod)) or not hasattr(own, "__get__")
    if accepts(found if bound else without_self(found), without_self(promised)):
        return []
    return [*lines, f"found:    {name}{readable(found)}"]


def _wrong_search_space(cls: type) -> list[str]:
    contract = contracts.SearchSpace
    return [line for name in ("supernet", "genotype", "network") for line in _method(cls, name, contract)]


def _wrong_metric(cls: type) -> list[str]:
    parts = metric_parts(cls)
    if not parts:
        wanted = [f"{part}{readable(inspect.signature(getattr(c, part)))}" for part, c in METRIC_PARTS.items()]
        return ["promised: at least one of", *(f"  {line}" for line in wanted), f"found:    {_public(cls)}"]
    wrong = [line for part in METRIC_PARTS if part in parts for line in _method(cls, part, METRIC_PARTS[part])]
    return [*wrong, *_wrong_check(cls)]


def _wrong_attack(cls: type) -> list[str]:
    if is_foolbox_attack(cls):
        return []
    wrong = _method(cls, "build", contracts.AttackFactory)
    return [*([*wrong, "(or a foolbox Attack class)"] if wrong else []), *_wrong_check(cls)]


def _wrong_check(cls: type) -> list[str]:
    """What is wrong with the `check` of a metric or an attack, which need not have one."""
    return [] if _own(cls, "check") is None else _method(cls, "check", contracts.Suited)


def _wrong_dataset(cls: type) -> list[str]:
    promised = ("shape", "classes", "mean", "std")
    # Options without a default leave no attribute on a class, but attrs keeps them.
    fields = {attribute.name for attribute in getattr(cls, "__attrs_attrs__", ())}
    missing = [name for name in promised if name not in fields and _own(cls, name) is None]
    wrong = []
    if missing:
        wrong = [f"promised: attributes {', '.join(promised)}", f"found:    no {', no '.join(missing)}"]
    return [*wrong, *_method(cls, "split", contracts.Dataset)]


def _wrong_strategy(cls: type) -> list[str]:
    return [*_wrong_options(cls), *_method(cls, "search", contracts.Strategy)]


def _wrong_order(cls: type) -> list[str]:
    return [*_wrong_options(cls), *_method(cls, "gradient", contracts.Order)]


def _wrong_regime(cls: type) -> list[str]:
    return [*_wrong_options(cls), *_method(cls, "loss", contracts.Regime)]


def _wrong_tracker(cls: type) -> list[str]:
    contract = contracts.Tracker
    return [line for name in ("start", "begin", "log", "finish", "end") for line in _method(cls, name, contract)]


def _wrong_executor(cls: type) -> list[str]:
    return _method(cls, "run", contracts.Executor)


def _wrong_options(cls: type) -> list[str]:
    """What is wrong with a class that a section of settings holds: its options enter keys as the fields they are."""
    return [] if has(cls) else ["promised: an attrs class whose fields are its options", "found:    another class"]


def _public(cls: type) -> str:
    """The public methods of a class, for messages."""
    names = sorted(name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name)))
    return f"the methods {', '.join(names)}" if names else "no method"


SEARCH_SPACES = Registry("search-space", "robustnas.search_spaces", _wrong_search_space)
METRICS = Registry("metric", "robustnas.metrics", _wrong_metric)
ATTACKS = Registry("attack", "robustnas.attacks", _wrong_attack)
DATASETS = Registry("dataset", "robustnas.datasets", _wrong_dataset)
STRATEGIES = Registry("strategy", "robustnas.strategies", _wrong_strategy)
ORDERS = Registry("order", "robustnas.orders", _wrong_order)
REGIMES = Registry("regime", "robustnas.regimes", _wrong_regime)
TRACKERS = Registry("tracker", "robustnas.trackers", _wrong_tracker)
EXECUTORS = Registry("executor", "robustnas.executors", _wrong_executor)
REGISTRIES = {
    registry.kind: registry
    for registry in (SEARCH_SPACES, METRICS, ATTACKS, DATASETS, STRATEGIES, ORDERS, REGIMES, TRACKERS, EXECUTORS)
}
