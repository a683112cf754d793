"""A pickle as plain data: what it names is never imported, made or called.

A pickle is a program for a small machine (Python's `pickletools` describes its instructions).  The instructions that
hold and gather values are followed; those that would import or call something leave a `Thing` in its place, which
remembers its name alone.  So a file that holds a person's own classes, the arguments of a script or numpy's numbers
beside its tensors can be read, and a file that was made to do harm does none: what it can ask for is bounded by its
size, since no instruction makes more of what it is given.

    Named     what an instruction wanted to import: module and name
    Thing     what would have been made by it, with the entries that were put into it, if it is like a mapping
    Stored    a tensor: which storage, where in it
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from attrs import frozen

from robustnas.errors import InputError

INSTRUCTIONS = 600_000
"""Of one pickle, which takes seconds; a checkpoint of a thousand layers, with its optimiser's state, has 100,000."""

LONGEST_LINE = 100_000
"""Bytes of an instruction that ends with its line: names and numbers."""


@frozen
class Named:
    """Names what a pickle wanted to import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Thing(dict[str, Any]):
    """An object that was not made: of this kind, with the entries and attributes that were put into it by name.

    Plain dictionaries are things too, without a kind.

    Attributes:
        kind: what makes it, or None for a dictionary.
        parts: attributes of an `nn.Module`, else None.
        metadata: torch's notes on a state dict.
    """

    __slots__ = ("kind", "metadata", "parts")

    def __init__(self, kind: Named | None = None):
        super().__init__()
        self.kind = kind
        self.parts: dict[str, Any] | None = None
        self.metadata: dict[str, Any] | None = None

    def put(self, name: Any, value: Any) -> None:
        """Put an entry; one whose name is no text (a class, a number of an optimiser) holds no network and is left."""
        if isinstance(name, str):
            self[name] = value

    def build(self, state: Any) -> None:
        """Take the attributes that the object would have been given."""
        if not isinstance(state, Thing):
            return
        if isinstance(state.get("_metadata"), Thing):
            self.metadata = state["_metadata"]
        elif isinstance(state.get("_parameters"), Thing) and isinstance(state.get("_modules"), Thing):
            self.parts = state
        elif self.kind is not None:
            self.update(state)


@frozen(eq=False)
class Storage:
    """Says where a file keeps the numbers of tensors.

    Args:
        key: which.
        kind: its class, as torch calls it.
        count: of numbers.
        start: of a view, the number in the file's storage that it begins with.
    """

    key: str
    kind: str
    count: int
    start: int = 0


@frozen(eq=False)
class Stored:
    """Says where in a storage a tensor lies that has not been read; offset, shape and stride count numbers, not bytes.

    Args:
        dtype: its name where the storage does not tell.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


class _Bounded:
    """Bounds a file: its lines have an end, and reads ask for no more than is there."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self.size))

    def readline(self) -> bytes:
        return self.file.readline(LONGEST_LINE)

    def tell(self) -> int:
        return self.file.tell()


def read(file: BinaryIO, size: int, storages: dict[str, Storage] | None = None) -> Any:
    """Read the pickle that begins here; the file is left at its end.

    Args:
        size: bytes of the file.
        storages: takes every storage it names, by key.

    Raises:
        InputError: it is too long.
        ValueError, IndexError, KeyError, TypeError, Warning: it is no pickle, or a damaged one.
    """
    machine = _Machine({} if storages is None else storages)
    bounded: Any = _Bounded(file, size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # texts of Python 2 with escapes that are none
        for count, (instruction, argument, _) in enumerate(pickletools.genops(bounded)):
            if count == INSTRUCTIONS:
                raise InputError(
                    f"holds more than {INSTRUCTIONS:,} pickled values; one written by "
                    "torch.save(network.state_dict(), path) would do"
                )
            machine.do(instruction.name, argument)
    (value,) = machine.stack
    return value


SET = Named("builtins", "set")
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": Thing,
    "EMPTY_SET": lambda: Thing(SET),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME", "STOP", "READONLY_BUFFER")
_FROM_MARK = ("TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "ADDITEMS", "SETITEMS", "INST", "OBJ", "POP_MARK")


class _Machine:
    """Follows the instructions of a pickle on a stack and a memo."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if name in _IGNORED:
            pass
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _TUPLES:
            stack.append(tuple(self._popped(_TUPLES[name])))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name in _FROM_MARK:
            self._marked(name, argument, self._since_mark())
        elif name == "APPEND":
            self._marked("APPENDS", None, self._popped(1))
        elif name == "SETITEM":
            self._marked("SETITEMS", None, self._popped(2))
        elif name == "GLOBAL":
            stack.append(Named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(Named(*(str(part) for part in self._popped(2))))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            made, *given = self._popped(3 if name == "NEWOBJ_EX" else 2)
            stack.append(_made(made, given[0]))
        elif name == "BUILD":
            (state,) = self._popped(1)
            if isinstance(stack[-1], Thing):
                # slots come as a pair of attributes and slots
                for part in state if isinstance(state, tuple) else (state,):
                    stack[-1].build(part)
        elif name in ("PERSID", "BINPERSID"):
            found = _storage(argument if name == "PERSID" else self._popped(1)[0])
            if isinstance(found, Storage):
                self.storages[found.key] = found
            stack.append(found)
        elif name.startswith("EXT"):
            stack.append(Named("extension", str(argument)))
        else:
            stack.append(argument)  # numbers, texts and bytes, which stand in the instruction

    def _popped(self, count: int) -> list[Any]:
        found = self.stack[-count:]
        if len(found) < count or any(one is _MARK for one in found):
            raise ValueError("an instruction has nothing to work on")
        del self.stack[-count:]
        return found

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def _marked(self, name: str, argument: Any, found: list[Any]) -> None:
        """Follow an instruction on the values since a mark."""
        stack = self.stack
        if name == "TUPLE":
            stack.append(tuple(found))
        elif name == "LIST":
            stack.append(found)
        elif name == "FROZENSET":
            stack.append(Thing(Named("builtins", "frozenset")))
        elif name == "DICT":
            stack.append(_filled(Thing(), found))
        elif name == "INST":
            stack.append(_made(Named(*argument.split(" ", 1)), tuple(found)))
        elif name == "OBJ":
            stack.append(_made(found[0], tuple(found[1:])))
        elif name == "APPENDS" and isinstance(stack[-1], list):
            stack[-1].extend(found)
        elif name == "SETITEMS" and isinstance(stack[-1], Thing):
            _filled(stack[-1], found)
        elif name == "ADDITEMS" and isinstance(stack[-1], Thing):
            _filled(stack[-1], [one for word in found for one in (word, None)])


def _filled(thing: Thing, found: list[Any]) -> Thing:
    for name, value in zip(found[::2], found[1::2], strict=True):
        thing.put(name, value)
    return thing


DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
PLAIN = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


def _made(made: Any, given: Any) -> Any:
    """Return what a call would have made, as far as it concerns tensors; else a thing of that name."""
    if not isinstance(made, Named):
        return Thing()
    name = str(made)
    if name in DICTIONARIES:
        thing = Thing()
        # Python 2 wrote an ordered dictionary as its pairs
        for pair in given[0] if given and isinstance(given[0], list) else ():
            thing.put(*pair)
        return thing
    if name in ("builtins.set", "__builtin__.set"):
        return _filled(Thing(SET), [one for word in given[0] for one in (word, None)])
    if name in TENSORS:
        return _tensor(given)
    if name in PARAMETERS and isinstance(given[0], Stored):
        return given[0]
    if name == SUBCLASS and str(given[1]) in PLAIN:
        return _made(given[0], given[2])
    if name == "torch.Size":
        return given[0]
    return Thing(made)


def _tensor(given: Any) -> Stored:
    storage, offset, shape, stride, *more = given
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or len(shape) != len(stride):
        raise TypeError("a tensor without a storage")
    if not all(type(one) is int and 0 <= one < 2**62 for one in numbers):
        raise ValueError("a tensor whose sizes are none")
    dtype = next((one.name for one in more if isinstance(one, Named) and one.module == "torch"), None)
    return Stored(storage, offset, tuple(shape), tuple(stride), dtype)


def _storage(identity: Any) -> Any:
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        return Thing(Named("persistent", "object"))
    _, kind, key, _, count, *view = identity
    start = 0
    if view and isinstance(view[0], tuple):
        _, start, count = view[0]
    if not isinstance(kind, Named) or not all(type(one) is int and one >= 0 for one in (start, count)):
        raise TypeError("a storage without a class or a size")
    return Storage(str(key), kind.name, count, start)


def state_of(module: Thing) -> Thing:
    """Gather the state dict of a pickled `nn.Module`: parameters and persistent buffers by their names.

    Raises:
        InputError: it holds itself, or the same part thousands of times.
    """
    state = Thing()
    todo = [("", module)]
    while todo:
        prefix, one = todo.pop()
        parts = one.parts or {}
        passing = parts.get("_non_persistent_buffers_set") or {}
        for name, value in [*parts["_parameters"].items(), *_entries(parts.get("_buffers"))]:
            if value is not None and name not in passing:
                state[prefix + name] = value
        children = [(f"{prefix}{name}.", child) for name, child in _entries(parts["_modules"])]
        todo += [(path, child) for path, child in reversed(children) if isinstance(child, Thing) and child.parts]
        if len(prefix) > LONGEST or len(state) + len(todo) > MOST:
            raise InputError("holds a module that holds itself, or a part of it thousands of times")
    return state


def _entries(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Thing) else []


LONGEST = 1000
"""Letters of a name in a network."""

MOST = 100_000
"""Tensors of a network."""

DEEPEST = 50
"""Mappings and lists in each other."""


def mappings(found: Any) -> list[tuple[tuple[str, ...], Thing]]:
    """Find every mapping inside a value, each once and those further out first, with the names that lead to it.

    Raises:
        InputError: one holds itself, or they lie too deep.
    """
    places: dict[int, tuple[tuple[str, ...], Any]] = {}
    open_: set[int] = set()
    stack: list[tuple[tuple[str, ...], Any, Iterator[tuple[str, Any]]]] = []

    def enter(place: tuple[str, ...], value: Any) -> None:
        if id(value) in open_:
            raise InputError(f"holds itself: {'/'.join(place)[:200]} is what it stands in")
        if id(value) in places or not isinstance(value, Thing | list | tuple):
            return
        if len(place) > DEEPEST:
            raise InputError(f"holds values that lie more than {DEEPEST} deep")
        places[id(value)] = (place, value)
        open_.add(id(value))
        entries = value.items() if isinstance(value, Thing) else ((str(at), one) for at, one in enumerate(value))
        stack.append((place, value, iter(entries)))

    enter((), found)
    while stack:
        place, value, entries = stack[-1]
        for name, entry in entries:
            if isinstance(entry, Thing | list | tuple) and (entry or getattr(entry, "parts", None)):
                enter((*place, name), entry)
                break
        else:
            open_.remove(id(value))
            stack.pop()
    return sorted(
        ((place, value) for place, value in places.values() if isinstance(value, Thing)), key=lambda one: len(one[0])
    )
