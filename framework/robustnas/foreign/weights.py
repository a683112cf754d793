"""A network's tensors from a file that somebody else wrote: read as data, never run."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.nn.parameter import is_lazy

from robustnas.errors import InputError
from robustnas.foreign.messages import few, kind, told

INSIDE = ("state_dict", "model", "model_state_dict", "network", "net")
"""Names under which checkpoints keep the state dict."""

PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")
"""What `nn.DataParallel` and `torch.compile` put before every name."""


def fill(network: nn.Module, path: Path, factory: str) -> None:
    """Every tensor of the network from the file, each exactly once.

    Raises:
        InputError: no such file, not one of tensors, or its tensors are not the network's.
    """
    expected = network.state_dict()
    state = _state_dict(path, expected)
    consume_prefix_in_state_dict_if_present(state, max(PREFIXES, key=lambda one: _matches(state, expected, one)))
    shapes = [
        f"{name}: {_size(state[name])} in the file, {_size(tensor)} in the network"
        for name, tensor in expected.items()
        if name in state and not is_lazy(tensor) and _size(state[name]) != _size(tensor)
    ]
    faults = [f"of another shape: {few(shapes)}"] if shapes else []
    if not shapes:
        # torch knows which names a checkpoint of an older version may lack
        try:
            found = network.load_state_dict(state, strict=False)
        except (RuntimeError, TypeError, AttributeError) as fault:
            raise InputError(f"--weights {path}: {told(fault)}") from fault
        missing, unexpected = list(found.missing_keys), list(found.unexpected_keys)
    else:
        missing = [name for name in expected if name not in state]
        unexpected = [name for name in state if name not in expected]
    faults += [f"missing in the file: {few(missing)}"] if missing else []
    faults += [f"unknown to the network: {few(unexpected)}"] if unexpected else []
    if faults:
        both = f"{len(state)} tensors in the file, {len(expected)} in the network"
        first = f"--weights {path} does not fit the network of {factory} ({both})"
        last = "a factory that makes exactly the network that was saved would do"
        raise InputError("\n  ".join([first, *faults, last]))


def _matches(state: Mapping[str, Any], expected: Mapping[str, Any], prefix: str) -> int:
    """How many of the names are the network's, once the prefix is gone."""
    return sum(name.removeprefix(prefix) in expected for name in state if name.startswith(prefix))


def _size(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else kind(value)


def _state_dict(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a file by name.

    Args:
        expected: what the network names.

    Raises:
        InputError: there is no such file, it holds more than plain data, no state dict, or several that differ.
    """
    advice = "a file written by torch.save(network.state_dict(), path) would do"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as fault:
        raise InputError(f"--weights {path} cannot be read: {fault.strerror or fault}; {advice}") from fault
    except pickle.UnpicklingError as fault:
        raise InputError(
            f"--weights {path} is no file of tensors, or holds objects beside them, which are not loaded because "
            f"loading them can run any code; {advice}"
        ) from fault
    except Exception as fault:  # for bytes of any other kind torch raises whatever their reading happens to hit
        raise InputError(f"--weights {path} is not a file of torch.save ({told(fault)}); {advice}") from fault
    if not isinstance(found, Mapping):
        raise InputError(f"--weights {path} holds {kind(found)}, no state dict; {advice}")
    inner = next((found[name] for name in INSIDE if isinstance(found.get(name), Mapping)), found)
    if not all(isinstance(name, str) for name in inner) or not any(isinstance(one, Tensor) for one in inner.values()):
        raise InputError(
            f"--weights {path} holds {kind(found)}, and no state dict by itself or under {', '.join(INSIDE)}; {advice}"
        )
    _only(path, found, inner, expected)
    return inner if isinstance(inner, dict) else dict(inner)


def _only(path: Path, found: Mapping[Any, Any], chosen: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a checkpoint with other tensors that fit as well as the chosen ones: an average of the weights, say.

    Raises:
        InputError: it has; names the places, and how to choose.
    """
    wanted = _named(chosen, expected)
    if not wanted:
        return  # nothing fits, which is told with the names
    others = [
        place
        for place, state in _dicts(found)
        if state is not chosen and len(named := _named(state, expected)) >= len(wanted) and not _same(named, wanted)
    ]
    if not others:
        return
    places = ["/".join(place) or "the file itself" for place, state in _dicts(found) if state is chosen]
    places += ["/".join(place) or "the file itself" for place in others]
    first = "".join(f"[{name!r}]" for name in others[-1])
    raise InputError(
        f"--weights {path} holds several networks: {few(places)}; a file of the one that is meant would do: "
        f"torch.save(torch.load({str(path)!r}, map_location='cpu'){first}, 'weights.pt'), say"
    )


def _named(state: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """What a state dict holds of the network's, by the network's names."""
    prefix = max(PREFIXES, key=lambda one: _matches(state, expected, one))
    names = {name: name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    return {own: state[name] for name, own in names.items() if own in expected}


def _dicts(
    found: Mapping[Any, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping of a checkpoint that holds tensors by name, and where it is."""
    if any(isinstance(one, Tensor) for one in found.values()) and all(isinstance(name, str) for name in found):
        yield place, found
    for name, value in found.items():
        if isinstance(value, Mapping) and isinstance(name, str):
            yield from _dicts(value, (*place, name))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two state dicts hold equal tensors, NaN equal to NaN."""
    return one.keys() == other.keys() and all(
        isinstance(value, Tensor)
        and isinstance(other[name], Tensor)
        and value.shape == other[name].shape
        and torch.allclose(value.double(), other[name].double(), rtol=0, atol=0, equal_nan=True)
        for name, value in one.items()
    )


def sha256(path: Path, what: str) -> str:
    """Of a file, of any size, in hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise InputError(f"{what}: {path} cannot be read: {fault.strerror}; a file would do") from fault
