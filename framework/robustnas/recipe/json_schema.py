"""The JSON Schema of recipes, with the plugins installed here, so that editors complete keys and mark wrong ones.

It says of each key what the loader says of it alone: its type, its bounds, its default and its help.  What keys must be
together, and whether files are there, the loader alone knows; what the schema refuses, the loader refuses too.

Source of the form: JSON Schema, draft 2020-12.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import Any, Literal, Union

import attrs

from robustnas.attack.settings import Evaluate
from robustnas.certify.settings import Certify, Smoothing
from robustnas.errors import PluginError
from robustnas.foreign.settings import Weights
from robustnas.options import MISSING, Option, options_of, plain
from robustnas.recipe import load, methods
from robustnas.recipe.plugins import COUNTS, LONGEST_LABEL, MOST_ATTACKS, MOST_METRICS
from robustnas.recipe.published import SOURCE
from robustnas.recipe.resources import EVERY, KINDS
from robustnas.recipe.schema import Needs, Rank
from robustnas.recipe.values import leaves, taken_by
from robustnas.registry import REGISTRIES, Registry
from robustnas.search.candidates import BestOf
from robustnas.search.settings import Search
from robustnas.threat import ThreatModel, pixels
from robustnas.train.settings import Train

Schema = dict[str, Any]

OptionsByName = dict[str, dict[str, Option] | None]
"""The options of the plugins of a kind; None of one that does not load."""

FRACTION = r"^\s*[-+]?\d+(\.\d*)?\s*/\s*\d+(\.\d*)?\s*$"
"""A number may be written so: 8/255."""

BOUNDS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}

NUMBER: Schema = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": FRACTION}]}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 1}
LABEL: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_LABEL}
REPORTED: Schema = {
    "type": "object",
    "properties": {SOURCE: TEXT},
    "required": [SOURCE],
    "additionalProperties": {**NUMBER, "minimum": 0},
}
SEEDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def recipe_schema() -> Schema:
    """The schema as plain data.  Loads every installed plugin; of one that does not load any option will do."""
    known = {kind.replace("-", "_"): _options_by_name(registry) for kind, registry in REGISTRIES.items()}
    reserved = {"dataset": {"train_images": _or(COUNT)}}
    defined = {kind: _plugins(options, **reserved.get(kind, {})) for kind, options in known.items()}
    own = {"threat": _ref("part_of_threat"), "label": LABEL, **dict.fromkeys(COUNTS, COUNT)}
    defined["attack_with_threat"] = _plugins(known["attack"], **own)
    defined["weighted_metric"] = _plugins(known["metric"], weight={**NUMBER, "minimum": 0, "default": 1})
    defined["labelled_metric"] = _plugins(known["metric"], label=LABEL)
    for kind in ("dataset", "search_space", "order", "regime"):
        defined[f"part_of_{kind}"] = {"anyOf": [_ref(kind), _part(known[kind], **reserved.get(kind, {}))]}
    defined["part_of_threat"] = _object(ThreatModel, whole=False)
    defined["method"] = _method()
    sections = {
        "dataset": _ref("part_of_dataset"),
        "search_space": _ref("part_of_search_space"),
        "threat": _ref("part_of_threat"),
        "methods": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": f"^{methods.NAME.pattern}$"},
            "additionalProperties": _ref("method"),
        },
        "seeds": {"anyOf": [SEEDS, {"type": "object", "properties": {"search": SEEDS, "train": SEEDS}, **CLOSED}]},
        "search": _object(Search),
        "train": _object(Train),
        "attacks": {"type": ["array", "null"], "items": _ref("attack_with_threat"), "maxItems": MOST_ATTACKS},
        "certify": _or({"type": "boolean"}, _object(Certify)),
        "smoothing": _or({"type": "boolean"}, _object(Smoothing)),
        "evaluate": _object(Evaluate),
        "sweep": {"type": ["object", "null"], "properties": {"methods": _or({"type": "array", "items": TEXT})}},
        "quick": {"type": ["boolean", "null"], "default": False},
        "published": {"type": "object", "additionalProperties": _or(REPORTED)},
        "rank": _object(Rank, metrics={"type": "array", "items": _ref("labelled_metric"), "minItems": 1}),
        "trackers": {"type": "array", "items": _ref("tracker")},
        "resources": {
            "type": ["object", "null"],
            "properties": {kind: _object(Needs) for kind in (EVERY, *KINDS)},
            **CLOSED,
        },
    }
    stands_alone = {
        "required": [key for key in load.REQUIRED if key != "search_space"],
        "properties": {"dataset": _ref("dataset"), "threat": _object(ThreatModel)},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "robustnas recipe",
        "type": "object",
        "properties": {
            "extends": {
                **TEXT,
                "description": "another recipe that these keys are laid over: a file, or a shipped name",
            },
            **{key: sections.get(key, {}) for key in load.SECTIONS},
        },
        **CLOSED,
        "if": {"not": {"required": ["extends"]}},
        "then": stands_alone,
        "$defs": defined,
    }


CLOSED: Schema = {"additionalProperties": False}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _or(*schemas: Schema) -> Schema:
    return {"anyOf": [*schemas, {"type": "null"}]}


def _method() -> Schema:
    metric = _ref("weighted_metric")
    several = {"type": "array", "items": metric, "minItems": 1, "maxItems": MOST_METRICS}
    keys: dict[str, Schema] = {
        "metric": _or(metric, several),
        "genotype": {"type": ["string", "object"], "minLength": 1},
        "strategy": _or(_ref("strategy")),
        "best_of": _or({"type": "integer", "minimum": 2}, _object(BestOf)),
        "network": {**TEXT, "pattern": "^[^:]+:.+$", "description": "module:factory of a network made elsewhere"},
        "weights": _or(TEXT, _object(Weights)),
        "normalize": {"type": "boolean", "default": False},
        "search_space": _ref("part_of_search_space"),
        "threat": _ref("part_of_threat"),
        "search": _object(Search, whole=False),
        "train": _object(Train, whole=False),
    }
    return {"type": ["object", "null"], "properties": {key: keys.get(key, {}) for key in methods.KEYS}, **CLOSED}


def _plugins(options_by_name: OptionsByName, **reserved: Schema) -> Schema:
    """A plugin of a kind: the name of one that needs no option, or a mapping of a name and options.

    Args:
        reserved: further keys of the mapping, which belong to its place.
    """
    bare, ways = [], []
    for name, options in options_by_name.items():
        given = None if options is None else {key: _option(one) for key, one in options.items() if key not in reserved}
        required = ["name"]
        if options is not None:
            required += [key for key, option in options.items() if option.required and key not in reserved]
        bare += [name] if required == ["name"] else []
        closed = {} if given is None else CLOSED
        properties = {"name": {"const": name}, **(given or {}), **reserved}
        ways.append({"type": "object", "title": name, "properties": properties, "required": required, **closed})
    return {"anyOf": [{"enum": bare}, *ways]}


def _part(options_by_name: OptionsByName, **reserved: Schema) -> Schema:
    """Options of a plugin that another recipe, or a section above, names.

    Args:
        reserved: as for `_plugins`.
    """
    merged: dict[str, list[Schema]] = {}
    for options in options_by_name.values():
        if options is None:
            return {"type": "object", "not": {"required": ["name"]}}
        for key, option in options.items():
            merged.setdefault(key, []).append(_option(option))
    properties = {
        key: ways[0] if all(way == ways[0] for way in ways) else {"anyOf": ways} for key, ways in merged.items()
    }
    return {"type": "object", "properties": {**properties, **reserved}, **CLOSED}


def _options_by_name(registry: Registry) -> OptionsByName:
    """The options of every installed plugin of a kind."""
    found: OptionsByName = {}
    for entry in registry.entries():
        try:
            found[entry.name] = options_of(registry.load_entry(entry))
        except PluginError:
            found[entry.name] = None  # `plugins list --load` says why, and so does a recipe that uses it
    return found


def _object(cls: type, *, whole: bool = True, **more: Schema) -> Schema:
    """A mapping with the options of a class.

    Args:
        whole: those without a default have to be there; where it is laid over another, they need not.
        more: further keys.
    """
    options = options_of(cls)
    required = [name for name, option in options.items() if option.required] if whole else []
    properties = {**{name: _option(option) for name, option in options.items()}, **more}
    must = {"required": [*required, *(["name"] if "name" in more else [])]}
    null = not must["required"]
    return {
        "type": ["object", "null"] if null else "object",
        "properties": properties,
        **({} if null else must),
        **CLOSED,
    }


def _option(option: Option) -> Schema:
    """One option: its type, or what its converter takes, with bounds, default and help."""
    attribute = option.attribute
    kind = None if attribute is None else attribute.metadata.get("plugin")
    schema = _ref(f"part_of_{kind.replace('-', '_')}") if kind else _type(option.type)
    converter: Any = None if attribute is None else attribute.converter
    taken = MISSING if converter is None or converter is pixels else taken_by(converter)
    if taken is not MISSING and _type(taken) != schema:
        schema = {"anyOf": [schema, _type(taken)]}
    if attribute is not None and taken is MISSING:
        schema = schema | _bounds(attribute)
    computed = attribute is not None and getattr(attribute.default, "takes_self", False)
    default = {} if option.required or kind or computed else {"default": plain(option.default)}
    return {**schema, **default, **({"description": option.help} if option.help else {})}


def _bounds(attribute: attrs.Attribute[Any]) -> Schema:
    """The rules of attrs that JSON Schema has words for; of a number written as a fraction none."""
    found: Schema = {}
    whole: Any = attribute.validator
    for rule in leaves(whole, object()):
        if hasattr(rule, "compare_op") and isinstance(getattr(rule, "bound", None), int | float):
            found[BOUNDS[rule.compare_op]] = rule.bound
        elif isinstance(among := getattr(rule, "options", None), Sequence | Set | Mapping) and rule is whole:
            found["enum"] = sorted(map(plain, among), key=str)
        elif isinstance(getattr(rule, "min_length", None), int):
            found |= {"minItems": rule.min_length, "minLength": rule.min_length}
    return found


def _type(annotation: Any) -> Schema:
    """A type as a recipe may write it (`robustnas.recipe.values`); anything, where nothing is known of it."""
    simple: dict[Any, Schema] = {
        int: {"type": "integer"}, float: NUMBER, str: TEXT, bool: {"type": "boolean"}, type(None): {"type": "null"}
    }  # fmt: skip
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None and annotation in simple:
        return simple[annotation]
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(argument) for argument in arguments]}
    kind = origin or annotation
    if not isinstance(kind, type) or kind is object:
        return {}
    if issubclass(kind, enum.Enum):
        return {"enum": [plain(member) for member in kind]}
    if issubclass(kind, PurePath):
        return TEXT
    if issubclass(kind, Mapping):
        return {"type": "object", "additionalProperties": _type(arguments[1]) if len(arguments) == 2 else {}}
    if issubclass(kind, Sequence | Set) or kind is Iterable:
        return _list(kind, arguments)
    return _object(kind) if attrs.has(kind) else {}


def _list(kind: type, arguments: Sequence[Any]) -> Schema:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        count = len(arguments)
        return {"type": "array", "prefixItems": [_type(one) for one in arguments], "minItems": count, "maxItems": count}
    return {"type": "array", "items": _type(arguments[0]) if arguments else {}}
