"""A pickle as plain data: what it names is never imported, made or called.

A pickle is a program for a small machine (Python's `pickletools` describes its instructions).  Python's own machine
follows those that hold and gather values; those that would import or call something leave a `Thing` in its place,
which remembers its name alone.  So a file that holds a person's own classes, the arguments of a script or numpy's
numbers beside its tensors can be read, and a file that was made to do harm does none: what it can ask for is bounded by
its size, since no instruction makes more of what it is given.

    Named     what an instruction wanted to import: module and name
    Thing     what would have been made by it, with the entries that were put into it, if it is like a mapping
    Stored    a tensor: which storage, where in it
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from attrs import frozen

from robustnas.errors import InputError

INSTRUCTIONS = 600_000
"""Of one pickle, which takes seconds; a checkpoint of a thousand layers, with its optimiser's state, has 100,000."""


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

    def __setitem__(self, name: Any, value: Any) -> None:
        """Put an entry; one whose name is no text (a class, a number of an optimiser) holds no network and is left."""
        if isinstance(name, str):
            super().__setitem__(name, value)

    def add(self, name: Any) -> None:
        """Put a name without a value, as into a set."""
        self[name] = None

    def extend(self, entries: Any) -> None:
        """Leave out the entries of what is like a list."""

    append = extend

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


class _Counted(dict[int, Any]):
    """What the machine does for each instruction; instructions are counted."""

    done = 0

    def __getitem__(self, code: int) -> Any:
        self.done += 1
        if self.done > INSTRUCTIONS:
            raise InputError(
                f"holds more than {INSTRUCTIONS:,} pickled values; one written by "
                "torch.save(network.state_dict(), path) would do"
            )
        return super().__getitem__(code)


# the machine that is written in Python: that in C makes room for a number of places which the file names
_Pickles: Any = pickle._Unpickler
SET = Named("builtins", "set")


class _Machine(_Pickles):  # type: ignore[misc]
    """Python's machine, without its ways to import, make and call."""

    def __init__(self, file: BinaryIO, storages: dict[str, Storage]):
        super().__init__(file, encoding="latin1")
        self.storages = storages
        self.dispatch = _Counted(_Pickles.dispatch | INSTEAD)

    def find_class(self, module: str, name: str) -> Any:
        return Named(module, name)

    def get_extension(self, code: int) -> None:
        self.append(Named("extension", str(code)))

    def persistent_load(self, identity: Any) -> Any:
        found = _storage(identity)
        if isinstance(found, Storage):
            self.storages[found.key] = found
        return found

    def _instantiate(self, made: Any, given: Any) -> None:
        self.append(_made(made, tuple(given)))

    def gather(self, make: Callable[[list[Any]], Thing]) -> None:
        found = self.pop_mark()
        self.append(make(found))

    def call(self) -> None:
        given, made = self.stack.pop(), self.stack.pop()
        self.append(_made(made, given))

    def call_by_name(self) -> None:
        self.stack.pop()
        self.call()

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, Thing):
            # slots come as a pair of attributes and slots
            for part in state if isinstance(state, tuple) else (state,):
                built.build(part)


INSTEAD = {
    pickle.REDUCE[0]: _Machine.call,
    pickle.NEWOBJ[0]: _Machine.call,
    pickle.NEWOBJ_EX[0]: _Machine.call_by_name,
    pickle.BUILD[0]: _Machine.build,
    pickle.EMPTY_DICT[0]: lambda machine: machine.append(Thing()),
    pickle.DICT[0]: lambda machine: machine.gather(lambda found: _filled(Thing(), found)),
    pickle.EMPTY_SET[0]: lambda machine: machine.append(Thing(SET)),
    pickle.FROZENSET[0]: lambda machine: machine.gather(_words),
    # not a bytearray, for which room would be made before it is known whether the file holds as much
    pickle.BYTEARRAY8[0]: _Pickles.load_binbytes8,
}
"""What takes the place of Python's own instructions: nothing is called, and no name is hashed that is not a text."""


def read(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """Read the pickle that begins here; the file is left at its end.

    Args:
        storages: takes every storage it names, by key.

    Raises:
        InputError: it is too long.
        Exception: it is no pickle, or a damaged one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # texts of Python 2 with escapes that are none
        return _Machine(file, {} if storages is None else storages).load()


def _filled(thing: Thing, found: list[Any]) -> Thing:
    for name, value in zip(found[::2], found[1::2], strict=True):
        thing[name] = value
    return thing


def _words(given: Any) -> Thing:
    words = Thing(SET)
    for word in given:
        words.add(word)
    return words


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
            thing.__setitem__(*pair)
        return thing
    if name in ("builtins.set", "__builtin__.set"):
        return _words(given[0])
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

    def enter(place: tuple[str, ...], value: Any, outer: frozenset[int]) -> None:
        if id(value) in outer:
            raise InputError(f"holds itself: {'/'.join(place)[:200]} is what it stands in")
        if id(value) in places or not isinstance(value, Thing | list | tuple):
            return
        if len(place) > DEEPEST:
            raise InputError(f"holds values that lie more than {DEEPEST} deep")
        places[id(value)] = (place, value)
        entries = value.items() if isinstance(value, Thing) else ((str(at), one) for at, one in enumerate(value))
        for name, entry in entries:
            if isinstance(entry, Thing | list | tuple) and (entry or getattr(entry, "parts", None)):
                enter((*place, name), entry, outer | {id(value)})

    enter((), found, frozenset())
    return sorted(
        ((place, value) for place, value in places.values() if isinstance(value, Thing)), key=lambda one: len(one[0])
    )
