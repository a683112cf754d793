"""A device that is not the CPU and needs no hardware: `elsewhere`, whose tensors lie on the CPU and say otherwise.

    python tests/support/fake_device.py RECIPE DIR [RECIPE DIR ...]      whole runs of the recipes there

It is as strict as CUDA: an operation on tensors of both devices fails, unless those of the CPU are single numbers or
indices; so does a generator of the other device; nothing becomes a numpy array without being fetched first.  What is
saved is read back on the CPU.  It knows nothing of memory, streams, graphs and mixed precision.

Backends of torch are for the life of a process, hence a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves

NAME = "elsewhere"
INDEXING = ("aten.index.", "aten.index_put", "aten._unsafe_index", "aten.copy_", "aten._to_copy", "aten._copy_from")
"""What takes tensors of both devices, as on CUDA."""

COPY = torch.ops.aten.copy_.default


class Elsewhere(torch.Tensor):
    """A tensor there; `inner` is the same on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.detach().inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"a tensor on {NAME} is no numpy array; .cpu() fetches it")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().inner.__reduce_ex__(protocol)


# foolbox asks for the name of the module, which is torch's for tensors of real devices
Elsewhere.__module__ = "torch"


def there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation with tensors there, or that makes one there: done on the CPU, if CUDA would do it."""
    away: list[Elsewhere] = []
    home: list[torch.Tensor] = []

    def fetched(value: Any) -> Any:
        if isinstance(value, Elsewhere):
            away.append(value)
            return value.inner
        if isinstance(value, torch.Tensor):
            if value.dim() > 0:
                home.append(value)
        elif isinstance(value, list | tuple):
            return type(value)([fetched(one) for one in value])
        return value

    inside, options = fetched(args), {name: fetched(value) for name, value in kwargs.items()}
    if away and home and not str(func).startswith(INDEXING):
        raise RuntimeError(f"{func} on tensors of {NAME} and of the CPU, of shapes {[tuple(t.shape) for t in home]}")
    device = options.get("device")
    if there(device):
        options["device"] = torch.device("cpu")
    found = func(*inside, **options)
    if func is COPY:
        return args[0]
    if device is not None and not there(device):
        return found
    known = {id(tensor.inner): tensor for tensor in away}

    def sent(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            # what was changed in place is the tensor that it was
            return known[id(value)] if id(value) in known else Elsewhere(value)
        return type(value)([sent(one) for one in value]) if isinstance(value, list | tuple) else value

    return sent(found)


class Generator(torch.Generator):
    """A generator that says where it is."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.home = torch.device(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self.home


class Strict(TorchFunctionMode):
    """Refuses a generator of the other device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, Generator):
            used = there(kwargs.get("device")) or any(isinstance(leaf, Elsewhere) for leaf in tree_leaves(args))
            if there(generator.device) != used:
                raise RuntimeError(f"{func}: the generator is on {generator.device}")
        return func(*args, **kwargs)


class Module(backend_registration._DummyBackendModule):
    """What torch.autocast asks of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> list[torch.library.Library]:
    """Make the device known to torch; what is returned has to be kept."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    torch.Generator = Generator  # type: ignore[misc]
    every = torch.library.Library("_", "IMPL")
    every.fallback(lambda op, *args, **kwargs: computed(op, args, kwargs), "PrivateUse1")
    some = torch.library.Library("aten", "IMPL")
    for name in (
        "empty.memory_format",
        "empty_strided.default",
        "_copy_from.default",
        "_to_copy.default",
        "copy_.default",
    ):
        op = torch.ops.aten
        for part in name.split("."):
            op = getattr(op, part)
        registered = name.removesuffix(".default")
        some.impl(registered, lambda *args, _op=op, **kwargs: computed(_op, args, kwargs), "PrivateUse1")
    return [every, some]


def run(recipe: Path, out: Path) -> None:
    """A whole run there."""
    from robustnas import pipeline
    from robustnas.plan import make
    from robustnas.recipe.faults import Faults
    from robustnas.recipe.load import load
    from robustnas.run.directory import RunDirectory
    from robustnas.run.leases import Leases
    from robustnas.run.presence import Presence
    from robustnas.run.progress import Progress
    from robustnas.run.scheduler import run_all
    from robustnas.runtime.processes import ALONE
    from robustnas.table import finished

    loaded = load(str(recipe), [])
    plan, directory = make(loaded), RunDirectory(out)
    stages = plan.until(None)
    device = torch.device(NAME, 0)
    leases = Leases.of(Presence(out, quiet=True))
    with leases.begun():
        pipeline._prepare(loaded, plan, stages, directory, ALONE, Faults(), leases, [device])
    with Strict():
        failures = run_all(plan, stages, directory, [device], Progress(quiet=True))
    finished.write(directory, quiet=True)
    assert not failures, "\n".join(f"{stage.title}: {fault}" for stage, fault in failures)


def strictness() -> None:
    """The device does notice what it is there for."""
    tensor = torch.ones(3, device=NAME)
    wrong = {
        "both devices": lambda: tensor + torch.ones(3),
        "generator": lambda: torch.rand(3, device=NAME, generator=torch.Generator()),
        "numpy": lambda: tensor.numpy(),
    }
    for name, attempt in wrong.items():
        try:
            with Strict():
                attempt()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError(f"{name} passed")


if __name__ == "__main__":
    libraries = register()
    strictness()
    for recipe, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        run(Path(recipe), Path(out))
