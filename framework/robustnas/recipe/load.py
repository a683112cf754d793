"""Makes a recipe from its file: reads, extends, overrides, and checks it as a whole.

    file -> nodes -> extends below it -> --set over it -> sections and plugins -> Recipe

Nothing is raised before everything has been looked at, so that all faults of a file come at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen
from yaml import YAMLError

from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.errors import InputError, RecipeError
from robustnas.options import MISSING
from robustnas.recipe import shelf, together
from robustnas.recipe.document import Node, parse, read, text_of
from robustnas.recipe.faults import Faults, Mark, nearest
from robustnas.recipe.methods import read_methods
from robustnas.recipe.noting import Noting
from robustnas.recipe.overlay import assign, overlay
from robustnas.recipe.plugins import Plugins
from robustnas.recipe.published import read_published
from robustnas.recipe.quick import shrunk
from robustnas.recipe.ranking import read_ranking
from robustnas.recipe.resources import read_resources
from robustnas.recipe.schema import Attack, Recipe
from robustnas.recipe.seeds import Seeds, read_seeds
from robustnas.recipe.sweep import expanded
from robustnas.recipe.values import BAD, construct, found, read_object, read_value, refuse_unknown
from robustnas.registry import SEARCH_SPACES
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel, beyond_range
from robustnas.train.regimes.defaults import member
from robustnas.train.settings import Train

REQUIRED = {
    "dataset": "the name of a dataset would do, such as digits",
    "search_space": "the name of a search space would do, such as darts",
    "threat": "a threat model would do, such as {norm: linf, epsilon: 8/255}",
    "methods": "a mapping of names to methods would do, such as {darts: {}}",
}
SECTIONS = (
    *(*REQUIRED, "seeds", "search", "train", "attacks", "certify", "smoothing", "evaluate", "rank", "published"),
    *("sweep", "quick", "trackers", "resources"),
)

MOST_STAGES = 300_000
"""A recipe may have so many stages, each with a folder: those of five thousand rows with fifty attacks."""


@frozen
class Loaded:
    """A recipe, and what is known of the file it comes from.

    Args:
        recipe: the recipe, checked, its plugins made.
        name: the stem of the file's name.
        path: the file.
        source: its text.
        overrides: the `KEY=VALUE` of each `--set`, in order.
        places: where every key of it is written, by its path (`methods.mine.genotype`).
        crossed: faults between several keys, which `robustnas.plan` raises together with those it finds.
    """

    recipe: Recipe
    name: str
    path: Path
    source: str
    overrides: tuple[str, ...] = ()
    places: Mapping[str, Mark] = field(factory=dict, repr=False)
    crossed: Faults = field(factory=Faults, repr=False)

    def place(self, path: str) -> Mark:
        """Find where a key is written, or else the nearest key above it."""
        return nearest(self.places, path, str(self.path))

    def says(self, method: str, key: str) -> bool:
        """Whether a key is written, for this method or for all of them."""
        return key in self.places or f"methods.{method}.{key}" in self.places

    def noting(self, faults: Faults) -> Noting:
        """Make a `Noting` that adds to `faults`."""
        return Noting(self.places, str(self.path), faults)

    def beside(self, path: str) -> Path:
        """The folder to which a file named by a key is relative: that of the recipe with the key, perhaps the base."""
        mark = self.place(path)
        return Path(mark.file).parent if mark.line else self.path.parent


def load(source: str | Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a recipe, and check it as a whole.

    Args:
        source: a path, or the name of a recipe that ships with robustnas.
        overrides: `KEY=VALUE` each, VALUE in YAML, laid over the file in this order.

    Raises:
        RecipeError: there is no such recipe, or it has faults: all of them.
    """
    path = shelf.find(source)
    faults = Faults()
    text, root = _read(path, faults)
    if root is not None:
        root = _extended(root, path, faults)
        for override in overrides:
            root = assign(root, override, faults)
    return _checked(root, faults, path, text, overrides)


def written(recipe: Mapping[str, Any], path: Path, by: str, overrides: Sequence[str] = ()) -> Loaded:
    """Check a recipe that a command or a script writes, before it is a file.

    Args:
        recipe: plain data.
        path: the path of the future file.
        by: who writes it, which faults name instead of a place.
        overrides: as for `load`; they become part of the recipe.

    Raises:
        RecipeError: it has faults; lists all of them.
    """
    faults = Faults()
    try:
        root = parse(text_of(dict(recipe)), by, faults, at=Mark(by))
    except YAMLError as fault:
        what = f"found {fault.args[-1]!r:.60}; mappings, lists, texts, numbers, true, false and null would do"
        raise RecipeError([f"{by}: {what}"]) from fault
    text = ""
    if root is not None:
        for override in overrides:
            root = assign(root, override, faults)
        text = text_of(root.plain())
    head = f"# Written by {by}; it runs as it stands: robustnas run FILE --out DIR\n"
    return _checked(root, faults, path, head + text, ())


def _checked(root: Node | None, faults: Faults, path: Path, text: str, overrides: Sequence[str]) -> Loaded:
    """Make the recipe of a tree.

    Raises:
        RecipeError: there are faults.
    """
    parts, places, crossed = {}, {}, Faults()
    if root is not None:
        root = expanded(root, faults)
        parts = _parts(root, faults)
        if parts["quick"] and not len(faults):
            root = shrunk(root, Recipe(**parts))
            parts = _parts(root, faults)
        places = _places(root)
        _check_together(parts, root, Noting(places, str(path), crossed))
    if len(faults):
        faults.join(crossed)
        faults.raise_all()
    return Loaded(Recipe(**parts), path.stem, path, text, tuple(overrides), places, crossed)


def _check_together(parts: Mapping[str, Any], root: Node, note: Noting) -> None:
    """Check against each other the parts that could be read."""
    attacks = parts.get("attacks", ())
    good = {key: parts[key] for key in ("dataset", "threat") if parts.get(key) not in (None, BAD)}
    together.check(
        together.Parts(
            dataset=good["dataset"].plugin if "dataset" in good else None,
            threat=good.get("threat"),
            methods=parts.get("methods", {}),
            # with one missing, places in the list would be wrong
            attacks=attacks if _all_read(attacks, root.entries.get("attacks")) else (),
        ),
        note,
    )


def _all_read(attacks: Sequence[Attack], listed: Node | None) -> bool:
    """Whether every entry of section `attacks` could be read."""
    entries = () if listed is None or listed.value is None else listed.value
    return isinstance(entries, tuple) and len(entries) == len(attacks)


def _places(node: Node) -> dict[str, Mark]:
    """Return the places of a node and of all below it, by their paths."""
    below_it = node.value.values() if isinstance(node.value, dict) else node.value
    places = {node.path: node.mark}
    for entry in below_it if isinstance(below_it, Iterable) and not isinstance(below_it, str) else ():
        places.update(_places(entry))
    return places


def _read(path: Path, faults: Faults) -> tuple[str, Node | None]:
    """Read the text of a recipe and its top node; None, with faults, where that is no mapping."""
    try:
        text, root = read(path, faults)
    except RecipeError:
        raise  # there are more faults than are collected
    except InputError as fault:
        raise RecipeError([str(fault)]) from fault
    if root is None:
        if not len(faults):
            raise RecipeError([f"{path}:1:1: found nothing in the file; a recipe has {', '.join(REQUIRED)}"])
        return text, None
    if not isinstance(root.value, dict):
        faults.add(root.mark, "", f"found {found(root.value)}; a mapping with {', '.join(REQUIRED)} would do")
        return text, None
    return text, root


def _extended(root: Node, path: Path, faults: Faults) -> Node:
    """Lay a recipe over the one it extends, and drop the key `extends`; `faults` are partial if that fails."""
    if "extends" not in root.keys:
        return root
    assert isinstance(root.value, dict)
    own = evolve(
        root,
        value={key: node for key, node in root.value.items() if key != "extends"},
        keys={key: mark for key, mark in root.keys.items() if key != "extends"},
    )
    node = root.value.get("extends")
    base = _base(node, path, faults) if node is not None else None
    if base is None:
        faults.partial = True
        return own
    laid = overlay(base, own)
    assert laid is not None
    return laid


def _base(node: Node, path: Path, faults: Faults) -> Node | None:
    """Read the recipe that the one at `path` extends by the key `node`; None, with faults, where that fails."""
    name = read_value(node, str, faults)
    if name is BAD:
        return None
    try:
        base_path = shelf.find(name, beside=path)
        if realpath(base_path) == realpath(path):
            raise RecipeError([f"found a cycle: {path} -> {base_path}; a recipe cannot extend itself"])
        _, base = _read(base_path, faults)
        if base is not None and "extends" in base.keys:
            further = base.entries["extends"].value if "extends" in base.entries else None
            if isinstance(further, str) and realpath(base_path.parent / further) == realpath(path):
                raise RecipeError([f"found a cycle: {path} -> {base_path} -> {path}; one of the two stands alone"])
            raise RecipeError([f"found {str(base_path)!r}, which extends a recipe itself; one level would do"])
    except RecipeError as fault:
        faults.add(node.mark, node.path, str(fault))
        return None
    return base


def _parts(root: Node, faults: Faults) -> dict[str, Any]:
    """Read those parts of a recipe that have no faults."""
    assert isinstance(root.value, dict)
    nodes = root.value
    refuse_unknown(root, SECTIONS, "section", faults)
    for key, would in REQUIRED.items():
        if key not in root.keys:
            if key != "search_space" or not _all_foreign(nodes.get("methods")):
                faults.missing(root.mark, key, would)
        elif key in nodes and nodes[key].value is None:
            faults.add(nodes[key].mark, key, f"found nothing; {would}")
    sections = {key: node for key, node in nodes.items() if key not in REQUIRED or node.value is not None}
    plugins = Plugins(faults)
    parts: dict[str, Any] = {}

    def section(key: str, cls: type, absent: Any) -> Any:
        """Read a section of settings: its defaults where it has faults (already noted), `absent` without it."""
        if key not in sections:
            return absent
        value = plugins.section(cls, sections[key], key)
        return cls() if value is BAD else value

    def switched(key: str, cls: type, absent: Any) -> Any:
        """Read a section that may be `true` or `false` as a whole."""
        switch = sections[key].value if key in sections else MISSING
        return section(key, cls, absent) if not isinstance(switch, bool | None) else cls() if switch else None

    parts["search"], parts["train"] = section("search", Search, Search()), section("train", Train, Train())
    parts["evaluate"] = section("evaluate", Evaluate, Evaluate())
    parts["certify"] = switched("certify", Certify, Certify())
    parts["smoothing"] = switched("smoothing", Smoothing, None)
    threat: Any = read_object(ThreatModel, sections["threat"], faults, "key of threat") if "threat" in sections else BAD
    parts["threat"] = threat
    parts["dataset"], parts["train_images"] = plugins.dataset(sections.get("dataset"))
    parts["search_space"] = plugins.use(sections["search_space"], SEARCH_SPACES) if "search_space" in sections else None
    quick = read_value(sections["quick"], bool | None, faults) if "quick" in sections else False
    parts["quick"] = quick is True
    if "seeds" in sections:
        parts["seeds"] = read_seeds(sections["seeds"], faults)
    if "attacks" in sections:
        known = None if threat is BAD else threat
        parts["attacks"] = plugins.attacks(sections["attacks"], sections.get("threat"), known)
    if "rank" in sections:
        parts["rank"] = read_ranking(sections["rank"], plugins)
    if "published" in sections:
        attacks = parts.get("attacks", ())
        whole = attacks if _all_read(attacks, sections.get("attacks")) else None
        parts["published"] = read_published(sections["published"], whole, parts["certify"], faults)
    if "trackers" in sections:
        parts["trackers"] = plugins.trackers(sections["trackers"])
    if "resources" in sections:
        parts["resources"] = read_resources(sections["resources"], faults)
    if "methods" in sections:
        parts["methods"] = read_methods(sections["methods"], sections, parts["search"], parts["train"], plugins)
    _check_size(root, parts, faults)
    if threat is not BAD:
        _check_radii(root, parts, threat, faults)
    return parts


def _check_size(root: Node, parts: Mapping[str, Any], faults: Faults) -> None:
    """Note methods, seeds and attacks that together make more stages than a run directory could hold."""
    methods, seeds, attacks = (
        parts.get("methods", {}),
        len(parts.get("seeds", Seeds()).all),
        len(parts.get("attacks", ())),
    )
    candidates = sum(2 * method.best_of.samples for method in methods.values() if method.best_of is not None)
    stages = len(methods) * seeds * (attacks + 6) + seeds * candidates
    if stages > MOST_STAGES:
        text = f"found {len(methods):,} methods, {seeds:,} seeds and {attacks:,} attacks, up to {stages:,} stages"
        faults.add(root.mark, "methods", f"{text}; at most {MOST_STAGES:,} would do")


def _all_foreign(node: Node | None) -> bool:
    """Whether every method is a network made elsewhere, so that no search space is needed."""
    methods = [] if node is None else list(node.entries.values())
    return bool(methods) and all("network" in method.entries for method in methods)


def _check_radii(root: Node, parts: Mapping[str, Any], threat: ThreatModel, faults: Faults) -> None:
    """Check radii in sections other than `threat`; in linf they are fractions of the pixel range too."""
    for section in ("evaluate", "certify"):
        epsilons = [] if parts[section] is None else parts[section].epsilons
        if any(beyond_range(threat.norm, epsilon) for epsilon in epsilons):
            text = f"found {epsilons}; fractions of the pixel range, at most 1 in linf, would do"
            faults.add(root.entries[section].mark, f"{section}.epsilons", text)
    for name, method in parts.get("methods", {}).items():
        asked = partial(member(method.train.regime, "check"), method.train.epochs, method.threat or threat)
        mark = root.entries["methods"].entries[name].mark
        construct(asked, Node(mark, f"methods.{name}.train.regime", {}), faults)
