"""A network's tensors from a file that somebody else wrote: which of what it holds are the network's.

A checkpoint may hold several state dicts, and each may have the network's names behind a prefix.  What fits in one way
alone is taken.  Where several things fit and differ, or the network's tensors are among others, its user says which.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustnas.errors import InputError
from robustnas.foreign.archive import ADVICE, LEAST, Archive, opened
from robustnas.foreign.messages import few, kind
from robustnas.foreign.pickled import LONGEST, Stored, Thing, mappings, state_of
from robustnas.foreign.settings import Weights
from robustnas.runtime import given_file
from robustnas.runtime.strangers import traced
from robustnas.runtime.suggest import did_you_mean

WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""Parts of names that `nn.DataParallel`, `torch.compile` and others put around a network, or around parts of it."""

COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Last parts of the names of tensors that change no answer: they count batches, averages and (thop) operations."""

DEEPEST = 8
"""Parts of a prefix that are tried: wrappers lie one in another two or three deep."""

SEVERAL = 20
"""Copies of the network in a file that are compared with each other."""


@frozen(eq=False)
class Fit:
    """Says what a state dict holds for a network, behind one prefix.

    Args:
        place: of the state dict in the file.
        prefix: before the names.
        names: the network's name, or what would be one, and the state dict's, for all behind the prefix.
        state: the state dict.
        expected: the network's.
    """

    place: str
    prefix: str
    names: Mapping[str, str]
    state: Thing
    expected: Mapping[str, Any]

    @cached_property
    def found(self) -> dict[str, Any]:
        """The network's own entries, by its names."""
        return {name: self.state[self.names[name]] for name in self.expected if name in self.names}

    @property
    def missing(self) -> list[str]:
        """Names of the network that are not there."""
        return [name for name in self.expected if name not in self.names and not _counts(name)]

    @property
    def unknown(self) -> list[str]:
        """Names behind the prefix that are not the network's."""
        return [name for name in self.names if name not in self.expected and not _counts(name)]

    @property
    def beside(self) -> list[str]:
        """Names that are not behind the prefix."""
        inside = set(self.names.values())
        return [name for name in self.state if name not in inside and not _counts(name)]

    @property
    def misshapen(self) -> list[str]:
        """The message for each tensor of another shape."""
        return [
            f"{name}: {_size(value)} in the file, {_size(self.expected[name])} in the network"
            for name, value in self.found.items()
            if not is_lazy(self.expected[name]) and _size(value) != _size(self.expected[name])
        ]

    @property
    def whole(self) -> bool:
        """Whether they are exactly the network's tensors, whatever stands beside them."""
        return not (self.missing or self.unknown or self.misshapen)

    def __str__(self) -> str:
        return f"{self.place or 'the file itself'}{f' (prefix {self.prefix})' if self.prefix else ''}"


def fill(network: nn.Module, weights: Weights, factory: str) -> str:
    """Fill every tensor of the network from the file, each exactly once.

    Returns:
        What was loaded, in words.

    Raises:
        InputError: no such file, not one of tensors, or its tensors are not the network's.
    """
    try:
        expected = network.state_dict()
        sizes = [one.nbytes for one in expected.values() if isinstance(one, Tensor) and not is_lazy(one)]
        with opened(weights.file, sum(sizes)) as archive:
            fit = _chosen(archive, weights, expected)
            missing, unknown, misshapen = fit.missing, fit.unknown, fit.misshapen
            tensors = {} if misshapen else _read(archive, fit, max(sum(sizes), LEAST))
        if not misshapen:
            missing, unknown = _load(network, tensors, fit)
        faults = [f"of another shape: {few(misshapen)}"] if misshapen else []
        faults += [f"missing in the file: {few(missing)}"] if missing else []
        faults += [f"unknown to the network: {few(unknown)}"] if unknown else []
        if faults:
            both = f"{len(fit.state)} tensors in the file, {len(expected)} in the network"
            where = f" (looked at: {fit})" if fit.place or fit.prefix else ""
            first = f"does not fit the network of {factory} ({both}){where}"
            raise InputError(
                "\n  ".join([first, *faults, "a factory that makes exactly the network that was saved would do"])
            )
    except InputError as fault:
        raise InputError(f"--weights {weights.file} {fault}") from fault
    beside = fit.beside
    notes = [f"from {fit.place}"] if fit.place else []
    notes += [f"prefix {fit.prefix} stripped"] if fit.prefix else []
    notes += [f"left aside: {few(beside)}"] if beside else []
    more = f" ({'; '.join(notes)})" if notes else ""
    return f"{len(fit.found)} tensors of {weights.file.name}{more}"


def _read(archive: Archive, fit: Fit, room: int) -> dict[str, Any]:
    """Read what torch is given: all that is behind the prefix, by the network's names.

    Args:
        room: numbers that tensors may have whose sizes are not the network's: those that only torch knows how to take,
            and may be refused by their names.
    """
    state: dict[str, Any] = OrderedDict()
    for name, full in fit.names.items():
        value = fit.state[full]
        if isinstance(value, Stored):
            sized = name in fit.expected and not is_lazy(fit.expected[name])
            room -= 0 if sized else math.prod(value.shape)
            value = archive.tensor(value) if sized or room >= 0 else None
        state[name] = value
    return state


def _load(network: nn.Module, state: dict[str, Any], fit: Fit) -> tuple[list[str], list[str]]:
    """Hand the tensors to torch; return which names are missing, and which unknown, once it has taken what it knows."""
    # versions of modules, by which torch knows which names an older checkpoint may lack
    versions = {f"{path}.": version for path, version in (fit.state.metadata or {}).items()}
    state._metadata = {  # type: ignore[attr-defined]
        path[len(fit.prefix) : -1]: version for path, version in versions.items() if path.startswith(fit.prefix)
    }
    try:
        found = network.load_state_dict(state, strict=False)
    except (RuntimeError, TypeError, AttributeError) as fault:
        raise InputError(f"is refused by torch: {traced(fault)}") from fault
    return (
        [name for name in found.missing_keys if not _counts(name)],
        [name for name in found.unexpected_keys if not _counts(name)],
    )


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _chosen(archive: Archive, weights: Weights, expected: Mapping[str, Any]) -> Fit:
    """Choose the one thing in a file that fits, or the nearest."""
    states = _states(archive.content)
    if not states:
        raise InputError(f"holds {_kind(archive.content)}, and no mapping of names to tensors; {ADVICE}")
    if weights.key is not None:
        if weights.key not in states:
            near = did_you_mean(weights.key, states)
            raise InputError(f"has no state dict under {weights.key!r}{near}; it has {_list(states)}")
        states = {weights.key: states[weights.key]}
    fits = [fit for place, state in states.items() for fit in _fits(place, state, expected, weights.prefix)]
    if not fits:
        heads = dict.fromkeys(name.partition(".")[0] for state in states.values() for name in state)
        raise InputError(f"has no name that begins with {weights.prefix!r}; they begin with {few(list(heads))}")
    whole = [fit for fit in fits if fit.whole]
    if not whole:
        return max(fits, key=lambda fit: len(fit.found))
    if len(whole) > SEVERAL or not all(_same(archive, whole[0], other) for other in whole[1:]):
        choice = next((f"key: {fit.place}" for fit in whole if fit.place), None)
        choice = choice if len({fit.place for fit in whole}) > 1 and choice else f"prefix: {whole[-1].prefix}"
        raise InputError(
            f"holds several networks: {few([str(fit) for fit in whole])}; the one that is meant is said by "
            f"{_option(choice)}"
        )
    if weights.prefix is not None:
        return whole[0]
    known = {full for fit in whole for full in fit.names.values()}
    for fit in whole:
        others = [name for name in fit.beside if name not in known]
        if not others:
            return fit
    raise InputError(
        f"holds the network's tensors behind {fit.prefix} and others beside them: {few(others)}; if they are part of "
        f"what was trained (a normalisation, say), a factory whose network has them too would do, and if they are not, "
        f"{_option(f'prefix: {fit.prefix}')}"
    )


def _option(choice: str) -> str:
    """Say how a choice is made on the command line and in a recipe."""
    name, _, value = choice.partition(": ")
    return f"--weights-{name} {value} (in a recipe, weights: {{file: ..., {choice}}})"


def _list(places: Iterable[str]) -> str:
    return few([place or "the file itself" for place in places])


def _states(content: Any) -> dict[str, Thing]:
    """Find every state dict of a checkpoint by its place; of a pickled module, the one it would have."""
    found: dict[str, Thing] = {}
    for place, thing in mappings(content):
        state = thing if thing.parts is None else state_of(thing)
        if any(isinstance(value, Stored) for value in state.values()):
            found["/".join(place)] = state
    return found


def _fits(place: str, state: Thing, expected: Mapping[str, Any], prefix: str | None) -> list[Fit]:
    """Find what of a state dict could be the network: what lies behind one prefix with all its names; else the nearest.

    Args:
        prefix: the only one that counts; None tries those there are.
    """
    if prefix is not None:
        behind_it = {name[len(prefix) :]: name for name in state if name.startswith(prefix)}
        names = {bare: behind_it[tail] for tail, bare in _unwrapped(behind_it, expected).items()}
        return [Fit(place, prefix, names, state, expected)] if names else []
    bare = _unwrapped(state, expected)
    behind: dict[str, dict[str, str]] = {}
    matches: Counter[str] = Counter()
    for full, name in bare.items():
        parts = name[:LONGEST].split(".", DEEPEST)
        for depth in range(len(parts)):
            head, tail = ".".join(parts[:depth]), ".".join(parts[depth:])
            behind.setdefault(head, {})[tail] = full
            matches[head] += tail in expected
    least = min(sum(not _counts(name) for name in expected), max(matches.values()))
    return [
        Fit(place, _head(names), names, state, expected)
        for head, names in behind.items()
        if matches[head] >= max(least, 1)
    ] or [Fit(place, "", {name: name for name in state}, state, expected)]


def _head(names: Mapping[str, str]) -> str:
    """Return what stands before the names in the file, if it is the same before all."""
    tail, full = next(iter(names.items()))
    return full.removesuffix(tail) if full.endswith(tail) else ""


def _unwrapped(state: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Map each name to the same without the parts that wrappers add, unless the network has such parts too."""
    own = {part for name in expected for part in name.split(".")}
    wrappers = set(WRAPPERS) - own
    bare = {name: ".".join(part for part in name.split(".") if part not in wrappers) for name in state}
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in bare}


def _size(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Stored | Tensor) else _kind(value)


def _kind(value: Any) -> str:
    """Say what something in a file is, in a few words."""
    if isinstance(value, Stored):
        return f"a tensor of shape {value.shape}"
    if isinstance(value, Thing) and value.kind is not None:
        return f"an object of {value.kind}"
    return f"a dict with {few(list(value))}" if isinstance(value, Thing) else kind(value)


def _same(archive: Archive, one: Fit, other: Fit) -> bool:
    """Whether two whole fits hold equal tensors, NaN equal to NaN."""
    return all(
        _equal(archive, one.found.get(name), other.found.get(name)) for name in one.expected if not _counts(name)
    )


def _equal(archive: Archive, one: Any, other: Any) -> bool:
    if not isinstance(one, Stored) or not isinstance(other, Stored):
        return bool(one == other)
    if one is other or one == other:
        return True
    first, second = archive.tensor(one), archive.tensor(other)
    return first.dtype == second.dtype and bool(torch.isclose(first, second, rtol=0, atol=0, equal_nan=True).all())


def sha256(path: Path, what: str) -> str:
    """The digest of a file of any size, in hexadecimal digits; `what` begins the message where it cannot be read."""
    try:
        with given_file.opened(path, lambda kind: f"{what}: {path} is no file but {kind}; {ADVICE}") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise InputError(f"{what}: {path} cannot be read: {fault.strerror}; a file would do") from fault
