"""Reads typed values, and attrs objects of them, from the nodes of a recipe.

The nodes are walked here and not by a cattrs converter: that would need a hook for every type to be strict, a separate
pass for validators, and a way back from its exceptions to the nodes.

Nothing is coerced: `"3"` is no integer, nor is `2.5`, and `no` is text.  Where a number is expected, an integer or a
fraction (`8/255`) will do.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Literal, Union

import attrs

from robustnas.errors import RobustnasError
from robustnas.options import MISSING, Option, options_of, type_text, value_text
from robustnas.recipe.document import Node, below
from robustnas.recipe.faults import Faults
from robustnas.runtime.given_file import shown
from robustnas.runtime.interrupt import wanted
from robustnas.runtime.quoted import quoted
from robustnas.runtime.strangers import described, last_line, text_of
from robustnas.runtime.suggest import did_you_mean
from robustnas.threat import pixels

BAD: Any = object()
"""The value of what could not be read, and whose fault has been noted."""

OPTIONAL: Any = type(attrs.validators.optional([]))
"""The class of what attrs' `optional` returns, which attrs does not export."""

FRACTION = re.compile(r"\s*([-+]?\d+(?:\.\d*)?)\s*/\s*(\d+(?:\.\d*)?)\s*")


def read_value(node: Node, annotation: Any, faults: Faults) -> Any:
    """Read the value of a node as the annotation asks, or return `BAD` with a fault."""
    if annotation is Any or annotation is object:
        return node.plain()
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return _choice(node, arguments, faults)
    if origin in (Union, types.UnionType):
        return _union(node, annotation, arguments, faults)
    kind = origin or annotation
    if not isinstance(kind, type):
        return refuse(node, f"found {found(node.value)}; {type_text(annotation)} cannot be written in a recipe", faults)
    if issubclass(kind, enum.Enum):
        value = _choice(node, [member.value for member in kind], faults)
        return value if value is BAD else kind(value)
    if issubclass(kind, PurePath) and isinstance(node.value, str):
        return kind(node.value)
    if kind is float:
        return _number(node, faults)
    if kind in (bool, int, str, type(None)):
        return node.value if type(node.value) is kind else _expected(node, annotation, faults)
    if issubclass(kind, Mapping):
        return _mapping(node, annotation, arguments, faults)
    if issubclass(kind, (Sequence, Set)) or kind in (typing.Iterable, Iterable):
        return _list(node, annotation, kind, arguments, faults)
    if attrs.has(kind):
        return read_object(kind, node, faults, f"key of {kind.__name__.lower()}")
    return _expected(node, annotation, faults)


def read_object(
    cls: type,
    node: Node,
    faults: Faults,
    what: str,
    reserved: Iterable[str] = (),
    at: Node | None = None,
    read: Mapping[str, Callable[[Node], Any]] = MappingProxyType({}),
) -> Any:
    """Make an object whose options are the keys of a mapping, or return `BAD` with every fault of it.

    Args:
        cls: a section of the schema or a plugin class.
        node: the mapping; null counts as an empty one.
        faults: collects what is wrong.
        what: what messages call a key of the mapping (`key of search`, `option of attack 'pgd'`).
        reserved: keys of the mapping that do not belong to the object.
        at: the node that stands for the whole object in messages, if not `node`.
        read: functions for keys whose values are not plain, from the node to the value or to `BAD`.
    """
    entries = node.value if node.value is not None else {}
    if not isinstance(entries, dict):
        return refuse(node, f"found {found(node.value)}; a mapping would do", faults)
    before = faults.noted
    options = options_of(cls)
    reserved = set(reserved)
    refuse_unknown(node, [*(name for name in options if name not in reserved), *sorted(reserved)], what, faults)
    values = {
        name: read[name](entries[name]) if name in read else _option(entries[name], option, faults)
        for name, option in options.items()
        if name in entries and name not in reserved
    }
    absent = [option for name, option in options.items() if option.required and name not in node.keys]
    for option in absent:
        help_ = f" ({option.help})" if option.help else ""
        faults.missing((at or node).mark, below(node.path, option.name), f"{type_text(option.type)} would do{help_}")
    if attrs.has(cls):
        _validate(cls, options, values, entries, faults)
    if faults.noted > before or absent or any(value is BAD for value in values.values()):
        return BAD
    return construct(lambda: cls(**values), at or node, faults)


def refuse_unknown(node: Node, known: Sequence[str], what: str, faults: Faults) -> None:
    """Note a fault for every key of a mapping that is not among the known ones."""
    for key, mark in node.keys.items():
        if key not in known:
            hint = did_you_mean(key, known) or f"; known: {', '.join(known) or 'none'}"
            faults.add(mark, below(node.path, key), f"unknown {what}{hint}")


def construct(make: Callable[[], Any], node: Node, faults: Faults) -> Any:
    """Return what `make` returns, or `BAD` with a fault at `node` that says what it raised."""
    try:
        return make()
    except BaseException as fault:  # whatever a plugin raises becomes a fault of the recipe like any other
        if wanted(fault):
            raise
        return refuse(node, _told(fault, node.value), faults)


def _told(fault: BaseException, value: Any) -> str:
    """Say what an exception says of a value; unless it is a refusal, add its kind and where it was raised."""
    if isinstance(fault, (ValueError, TypeError, RobustnasError)):
        return _words(fault, value)
    if isinstance(fault, OSError) and fault.strerror:
        return f"{'' if fault.filename is None else f'{shown(str(fault.filename))}: '}{fault.strerror}"
    return f"failed with {described(fault, whole=True, at=last_line(fault))}"


def name_of(node: Node, kind: str, faults: Faults) -> Node | None:
    """Find the node of a name, which is a text or the key `name` of a mapping; None, with a fault, without one."""
    if isinstance(node.value, str):
        return node
    if not isinstance(node.value, dict):
        faults.add(node.mark, node.path, f"found {found(node.value)}; {_a(kind)} by name would do")
        return None
    if "name" not in node.keys:
        faults.missing(node.mark, below(node.path, "name"), f"{_a(kind)} by name would do")
        return None
    name = node.value.get("name")
    if name is not None and not isinstance(name.value, str):
        faults.add(name.mark, name.path, f"found {found(name.value)}; {_a(kind)} by name would do")
        return None
    return name


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def found(value: Any) -> str:
    """Describe a value of a recipe in words short enough for a message."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    return value_text(value)


def _option(node: Node, option: Option, faults: Faults) -> Any:
    """Read one option, not yet converted: of its type, or of the type its converter takes."""
    converter = option.attribute.converter if option.attribute is not None else None
    trial = Faults(partial=faults.partial, most=None)
    value = read_value(node, option.type, trial)
    fraction = isinstance(node.value, str) and FRACTION.fullmatch(node.value)
    if value is BAD and converter is not None and not fraction:
        taken = taken_by(converter)
        if taken is not MISSING:
            again = read_value(node, taken, Faults(most=None))
            value = again if again is not BAD else value
    if value is BAD:
        for fault in trial.found:
            faults.add(fault.mark, fault.path, fault.text)
    return value


def taken_by(converter: Any) -> Any:
    """Find the type that a converter takes; `MISSING` where it has no annotation."""
    function = getattr(converter, "converter", converter)
    if isinstance(function, type):
        return MISSING
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        return MISSING
    return next((hint for name, hint in hints.items() if name != "return"), MISSING)


def _validate(
    cls: type,
    options: Mapping[str, Option],
    written: Mapping[str, Any],
    entries: Mapping[str, Node],
    faults: Faults,
) -> None:
    """Run the validators of every field that is written, so that all faults are noted and not only the first.

    Validators see an object that was never initialised: its fields hold what is written, or their defaults.
    """
    blank: object = object.__new__(cls)
    values: dict[str, Any] = {}
    incomplete = False
    for attribute in attrs.fields(cls):
        name = attribute.alias or attribute.name
        value = written.get(name, MISSING)
        if value is MISSING and attribute.default is not MISSING:
            default: Any = attribute.default
            factory = getattr(default, "factory", None)
            value = default if factory is None else factory(blank) if default.takes_self else factory()
        elif value is not MISSING and value is not BAD and attribute.converter is not None and name in entries:
            value = construct(partial(_converted, attribute, blank, value), entries[name], faults)
        if value is MISSING or value is BAD:
            incomplete = True
            continue
        object.__setattr__(blank, attribute.name, value)
        values[name] = value
    for name in (name for name in written if name in values):
        attribute = options[name].attribute
        assert attribute is not None
        rules = list(leaves(attribute.validator, values[name]))
        numbers = [rule for rule in rules if hasattr(rule, "compare_op")]
        for leaf in rules:
            try:
                leaf(blank, attribute, values[name])
            except AttributeError as fault:
                # A rule that compares fields cannot be judged while one of them is missing or wrong itself.
                if not incomplete:
                    refuse(entries[name], _told(fault, entries[name].value), faults)
                    break
            except BaseException as fault:  # a plugin's validator may raise anything
                if wanted(fault):
                    raise
                rule = _rule(leaf, numbers, entries[name].value) if isinstance(fault, (ValueError, TypeError)) else None
                refuse(entries[name], rule or _told(fault, entries[name].value), faults)
                break


def _converted(attribute: attrs.Attribute[Any], blank: object, value: Any) -> Any:
    converter: Any = attribute.converter
    if isinstance(converter, attrs.Converter):
        wants: Any = converter
        return wants.converter(value, *[blank] * wants.takes_self, *[attribute] * wants.takes_field)
    return converter(value)


def leaves(validator: Any, value: Any) -> Iterator[Any]:
    """Yield the rules of a validator that concern a value, taking attrs' own combinations apart."""
    if validator is None or (isinstance(validator, OPTIONAL) and value is None):
        return
    parts = [validator.validator] if isinstance(validator, OPTIONAL) else getattr(validator, "_validators", None)
    if parts is None:
        yield validator
        return
    for part in parts:
        yield from leaves(part, value)


def _rule(leaf: Any, numbers: list[Any], value: Any) -> str | None:
    """Describe a broken rule of attrs in our words; None for rules that we have no words for."""
    words = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
    if hasattr(leaf, "compare_op") and hasattr(leaf, "bound"):
        bounds = " and ".join(f"{words[n.compare_op]} {value_text(n.bound)}" for n in numbers)
        return f"found {found(value)}; {bounds} would do"
    if hasattr(leaf, "options") and isinstance(leaf.options, (Sequence, Set, Mapping)):
        return _not_among(value, list(leaf.options))
    for name, words_ in (("min_length", "at least"), ("max_length", "at most")):
        if hasattr(leaf, name):
            return f"found {len(value)} of them; {words_} {getattr(leaf, name)} would do"
    if hasattr(leaf, "pattern") and hasattr(leaf.pattern, "pattern"):
        return f"found {found(value)}; text like {leaf.pattern.pattern} would do"
    return None


def _words(fault: BaseException, value: Any) -> str:
    """Write the message of an exception, without the objects that attrs adds to it."""
    arguments = fault.args
    if len(arguments) == 4 and isinstance(arguments[1], attrs.Attribute):
        options, wrong = arguments[2], arguments[3]
        if isinstance(options, (Sequence, Set)) and not isinstance(options, str):
            return _not_among(wrong, list(options))
    text = text_of(ValueError(arguments[0])) if arguments else type(fault).__name__
    return text if "found" in text or isinstance(value, dict) else f"found {found(value)}; {text}"


def _not_among(value: Any, options: Sequence[Any]) -> str:
    texts = [value_text(option) for option in options]
    listed = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
    hint = did_you_mean(value, texts) if isinstance(value, str) else ""
    return f"found {found(value)}; {listed} would do{hint}"


def _choice(node: Node, options: Sequence[Any], faults: Faults) -> Any:
    for option in options:
        if type(option) is type(node.value) and option == node.value:
            return option
    return refuse(node, _not_among(node.value, options), faults)


def _union(node: Node, annotation: Any, members: Sequence[Any], faults: Faults) -> Any:
    """Read the node as the first member of a union that fits; members of exactly its type are tried first."""
    for member in sorted(members, key=lambda member: member is not type(node.value)):
        trial = Faults(most=None)
        value = read_value(node, member, trial)
        if value is not BAD:
            return value
    alone = [member for member in members if member is not type(None)]
    # Where null is the only alternative, the fault of the other member says more than one about both.
    if isinstance(node.value, dict):  # likewise where one alternative alone is a mapping
        alone = [member for member in alone if attrs.has(member)] or alone
    return read_value(node, alone[0], faults) if len(alone) == 1 else _expected(node, annotation, faults)


def _number(node: Node, faults: Faults) -> Any:
    value = node.value
    fraction = FRACTION.fullmatch(value) if isinstance(value, str) else None
    if fraction is not None:
        try:
            numerator, denominator = (pixels(part) for part in fraction.groups())
            return numerator / denominator
        except (ValueError, ZeroDivisionError, OverflowError) as fault:
            why = "which divides by zero" if isinstance(fault, ZeroDivisionError) else "which is not a finite number"
            return refuse(node, f"found {found(value)}, {why}; a number such as 0.03 or 8/255 would do", faults)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _expected(node, float, faults)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return refuse(node, f"found {found(number)}; a finite number would do", faults)
    return number


def _mapping(node: Node, annotation: Any, arguments: Sequence[Any], faults: Faults) -> Any:
    if not isinstance(node.value, dict):
        return _expected(node, annotation, faults)
    wanted = arguments[1] if len(arguments) == 2 else Any
    values = {key: read_value(entry, wanted, faults) for key, entry in node.value.items()}
    return BAD if any(value is BAD for value in values.values()) else values


def _list(node: Node, annotation: Any, kind: type, arguments: Sequence[Any], faults: Faults) -> Any:
    if not isinstance(node.value, tuple) or issubclass(kind, (str, bytes)):
        return _expected(node, annotation, faults)
    wanted: Sequence[Any] = [arguments[0] if arguments else Any] * len(node.value)
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(arguments) != len(node.value):
            text = f"found a list of {len(node.value)}; a list of {len(arguments)} would do"
            return refuse(node, text, faults)
        wanted = arguments
    values = [read_value(item, want, faults) for item, want in zip(node.value, wanted, strict=True)]
    if any(value is BAD for value in values):
        return BAD
    return kind(values) if kind in (tuple, set, frozenset) else values


def _expected(node: Node, annotation: Any, faults: Faults) -> Any:
    """Refuse a value of another type than the annotation's."""
    wanted = {int: "an integer", float: "a number such as 0.03 or 8/255", str: "text", bool: "true or false"}
    would = wanted.get(annotation) or type_text(annotation)
    quoted = " (text)" if isinstance(node.value, str) and annotation in (int, float, bool) else ""
    return refuse(node, f"found {found(node.value)}{quoted}; {would} would do", faults)


def refuse(node: Node, text: str, faults: Faults) -> Any:
    """Note a fault of a node, and return `BAD`."""
    faults.add(node.mark, node.path, text)
    return BAD
