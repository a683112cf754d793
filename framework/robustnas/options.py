"""The options of a plugin class: what a recipe may write beside its name.

Of an attrs class they are its fields, of any other class (a foolbox attack, say) its constructor's arguments.
"""

from __future__ import annotations

import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Literal, Union

import attrs
from attrs import field, frozen
from attrs.validators import and_, ge, instance_of

from robustnas.errors import PluginError
from robustnas.runtime.strangers import contained

MISSING: Any = attrs.NOTHING
"""The default of an option that has none."""


def option(
    default: Any,
    help: str,
    *validators: Any,
    at_least: int | None = None,
    converter: Callable[[Any], Any] | None = None,
    **metadata: Any,
) -> Any:
    """An attrs field that is an option: of a plugin, or of a section of a recipe.

    Args:
        default: what stands when it is left out, `MISSING` where it must be given; `attrs.Factory` makes a new one.
        help: one line of documentation.
        validators: rules of `attrs.validators`, all of which hold.
        at_least: the option is a whole number, and this the least.
        converter: what makes the value of what is given.
        metadata: how keys of stages see it: `identity`, `stage` (see `robustnas.plan.keys`).
    """
    rules = validators if at_least is None else (instance_of(int), ge(at_least), *validators)
    return field(
        default=default,
        validator=and_(*rules) if rules else None,
        converter=converter,
        metadata={"help": help, **metadata},
    )


@frozen
class Option:
    """One option: a key that a recipe may write, and what is known of it.

    Args:
        name: the key in a recipe.
        type: its annotation, resolved; `Any` where there is none or it cannot be resolved.
        default: what stands when it is left out, `MISSING` where it must be given.
        help: one line of documentation, or nothing.
        attribute: the attrs field it comes from, if it comes from one.
    """

    name: str
    type: Any
    default: Any
    help: str
    attribute: attrs.Attribute[Any] | None = None

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is MISSING

    @property
    def type_text(self) -> str:
        """Its type as a person writes it: `integer or null`, `first | unrolled`."""
        return type_text(self.type)

    @property
    def default_text(self) -> str:
        """Its default as a recipe would write it, or `required`."""
        return "required" if self.required else value_text(self.default)


def options_of(cls: type) -> dict[str, Option]:
    """The options of a plugin class by name, in order.

    A field that begins with an underscore or is no argument of the constructor is none.

    Raises:
        PluginError: they cannot be read: a default cannot be made, say.
    """
    with contained(lambda text: PluginError(f"{_qualified(cls)}: its options cannot be read: {text}")):
        return _options_of(cls)


def _options_of(cls: type) -> dict[str, Option]:
    documented = _documented(cls)
    if attrs.has(cls):
        found = {}
        for attribute in attrs.fields(cls):
            if not attribute.init or attribute.name.startswith("_"):
                continue
            name = attribute.alias or attribute.name
            help_ = str(attribute.metadata.get("help") or documented.get(name, ""))
            default = _default(attribute, cls)
            found[name] = Option(name, _resolved(attribute.type, cls), default, help_, attribute)
        return found
    if _constructor(cls) is object.__init__:
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: Option(
            name,
            _resolved(parameter.annotation, cls),
            MISSING if parameter.default is parameter.empty else parameter.default,
            documented.get(name, ""),
        )
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind in named and not name.startswith("_")
    }


def values_of(plugin: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a plugin object with its value as plain data (what JSON and YAML can hold).

    Of an attrs object the values are its fields'; of another, those `given` and the defaults of the others.
    """
    values = {}
    for name, option in options_of(type(plugin)).items():
        if option.attribute is not None:
            values[name] = plain(getattr(plugin, option.attribute.name))
        else:
            values[name] = plain(given.get(name, option.default))
    return values


def qualified_name(value: Any) -> str:
    """The full name of a class or a function, or of the class of anything else."""
    named = value if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def plain(value: Any, otherwise: Callable[[Any], Any] = qualified_name) -> Any:
    """A value as plain data: what JSON and YAML can hold.

    Args:
        value: numbers, texts, lists, mappings, sets, members of an enum, paths, attrs values, and all of these inside
            each other.
        otherwise: what is made of a value that has no plain form, such as a function.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, otherwise)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry, otherwise) for key, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(entry, otherwise) for entry in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(entry, otherwise) for entry in value]
    if attrs.has(type(value)):
        fields = [field for field in attrs.fields(type(value)) if field.init]
        return {field.alias or field.name: plain(getattr(value, field.name), otherwise) for field in fields}
    return otherwise(value)


def type_text(annotation: Any) -> str:
    """A type in words: `integer`, `number`, `text`, `true or false`, `first | unrolled`, `list of text`."""
    simple = {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    if annotation in simple:
        return simple[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(value_text(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return "mapping of " + " to ".join(type_text(argument) for argument in arguments)
        elements = [type_text(argument) for argument in arguments if argument is not Ellipsis]
        fixed = origin is tuple and Ellipsis not in arguments
        return f"list of {', '.join(elements)}" if fixed else f"list of {elements[0] if elements else 'anything'}"
    if isinstance(annotation, type) and attrs.has(annotation):
        return f"{{{', '.join(f'{name}: {option.type_text}' for name, option in options_of(annotation).items())}}}"
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return " | ".join(value_text(member.value) for member in annotation)
        if issubclass(annotation, PurePath):
            return "path"
        if issubclass(annotation, Mapping):
            return "mapping"
        return "list" if issubclass(annotation, (list, tuple, set)) else annotation.__name__
    return str(annotation)


def value_text(value: Any) -> str:
    """Write a value as a recipe would."""
    value = plain(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return format(value, "g") if float(format(value, "g")) == value else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(value_text(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {value_text(entry)}' for key, entry in value.items())}}}"
    return str(value) if value != "" else '""'


def _default(attribute: attrs.Attribute[Any], cls: type) -> Any:
    """What a field holds when it is left out; a factory is called, unless it needs the object itself.

    Raises:
        PluginError: the factory fails.
    """
    default: Any = attribute.default
    if not isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return default
    if default.takes_self:
        return "computed"
    why = f"{_qualified(cls)}: the default of option {attribute.name!r} cannot be made"
    with contained(lambda text: PluginError(f"{why}: {text}")):
        return default.factory()


def _qualified(cls: type) -> str:
    """The full name of a class, which its metaclass has no part in."""
    return ".".join(str(type.__dict__[name].__get__(cls)) for name in ("__module__", "__qualname__"))


def _constructor(cls: type) -> Any:
    """The `__init__` a class has or inherits."""
    return inspect.getattr_static(cls, "__init__")


def _resolved(annotation: Any, cls: type) -> Any:
    """An annotation as a type; one in quotes is looked up where the class and its bases are written.

    A module may import a name for the type checker alone: such an annotation tells nothing, it is `Any`.
    """
    if annotation in (None, inspect.Parameter.empty):
        return Any
    if not isinstance(annotation, str):
        return annotation
    for owner in cls.__mro__:
        module = sys.modules.get(owner.__module__)
        try:
            return eval(annotation, dict(vars(module)) if module else {}, dict(vars(owner)))
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue  # any other exception is the annotation's own, and told
    return Any


def _documented(cls: type) -> dict[str, str]:
    """Lines `name: text` below `Args:` in the docstring of a class or of its constructor."""
    found: dict[str, str] = {}
    for documented in (_constructor(cls), cls):
        lines = inspect.cleandoc(documented.__doc__ or "").splitlines()
        heads = [index for index, line in enumerate(lines) if line.strip() in ("Args:", "Arguments:", "Parameters:")]
        if not heads:
            continue
        name, indent = "", None
        for line in lines[heads[0] + 1 :]:
            depth = len(line) - len(line.lstrip())
            if not line.strip() or depth == 0:
                break
            indent = depth if indent is None else indent
            head, colon, text = line.strip().partition(":")
            if depth == indent and colon:
                name = head.split("(")[0].strip()
                found[name] = text.strip()
            elif name:
                found[name] += " " + line.strip()
    return found
