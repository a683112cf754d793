"""What forward computes with besides parameters and buffers: constants, number formats, wrappers, compiled code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustnas import bounds, certify
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.foreign.factory import made_by
from robustnas.nn.float64 import doubled
from robustnas.threat import ThreatModel

IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2])
THREAT = ThreatModel("linf", 0.01)
MASK = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) > 0.3
THIRD = torch.tensor([1 / 3])


class Prefixed(nn.Module):
    """A function of the images, then a small network; `kept` hangs on it as an attribute, not as a buffer."""

    def __init__(self, before: Callable[[Any, Tensor], Tensor], kept: Any = None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(32, 3)
        self.before, self.kept = before, kept
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.first(self.before(self.kept, images))).flatten(1))


CERTIFIED: dict[str, tuple[Callable[[Any, Tensor], Tensor], Any, Callable[[Tensor], Tensor]]] = {
    "a tensor": (lambda k, x: x - k, THIRD, lambda x: x - THIRD.to(x.dtype)),
    "a tensor first": (lambda k, x: k - x, THIRD, lambda x: THIRD.to(x.dtype) - x),
    "in a list": (lambda k, x: (x - k[0]) - k[1], [THIRD, THIRD], lambda x: x - 2 * THIRD.to(x.dtype)),
    "in a dictionary": (lambda k, x: x / k["std"], {"std": THIRD}, lambda x: x / THIRD.to(x.dtype)),
    "a matrix": (lambda k, x: x @ k, MASK.float(), lambda x: x @ MASK.to(x.dtype)),
    "a function's weight": (lambda k, x: F.conv2d(x, k), THIRD.view(1, 1, 1, 1), lambda x: x * THIRD.to(x.dtype)),
    "of 16 bits": (lambda k, x: x * k, THIRD.half(), lambda x: x * THIRD.half().to(x.dtype)),
    "made on the way": (lambda k, x: x * torch.tensor(1 / 3), None, lambda x: x * THIRD.to(x.dtype)),
    "of a number format": (lambda k, x: x + torch.ones(4, dtype=torch.float32), None, lambda x: x + 1),
    "of numpy": (lambda k, x: x - torch.from_numpy(k), THIRD.numpy(), lambda x: x - THIRD.to(x.dtype)),
    "a number of numpy": (lambda k, x: k * x, np.float64(0.5), lambda x: 0.5 * x),
    "float()": (lambda k, x: x.float(), None, lambda x: x),
    "to(float32)": (lambda k, x: x.to(torch.float32) - x.to(dtype=torch.float32) / 2, None, lambda x: x / 2),
    "type(float32)": (lambda k, x: x.type(torch.float32).type("torch.FloatTensor"), None, lambda x: x),
    "type_as": (lambda k, x: x.type_as(k), THIRD, lambda x: x),
    "a mask": (lambda k, x: k * x * k[None], MASK, lambda x: x * MASK.to(x.dtype)),
    "a mask of integers": (lambda k, x: x * k / (k + 1), MASK.int(), lambda x: x * MASK.to(x.dtype) / 2),
    "a mask added": (lambda k, x: x + k, MASK, lambda x: x + MASK.to(x.dtype)),
    "compiled": (lambda k, x: torch.compile(lambda y: y / 2, backend="eager")(x), None, lambda x: x / 2),
}  # fmt: skip
"""A function of what is kept and the images, what is kept, and the same function with all constants in its format."""


@pytest.mark.parametrize("name", CERTIFIED)
def test_constants_of_forward_are_certified_as_what_they_are(name: str):
    before, kept, same = CERTIFIED[name]
    net, plain = Prefixed(before, kept), Prefixed(lambda _, x: same(x))
    exact = plain.double()(IMAGES.double())
    torch.testing.assert_close(doubled(net)(IMAGES.double()), exact, rtol=1e-15, atol=1e-15)
    for method in ("ibp", "crown"):
        found = certify.margins(net, IMAGES, LABELS, THREAT, method)
        assert found.dtype == torch.float32
        wide = bounds.margins(plain, IMAGES.double(), LABELS, THREAT, method).float()
        torch.testing.assert_close(found, wide, rtol=0, atol=1e-4)
        assert (found <= wide).all()
    assert not net.training
    assert all(tensor.dtype == torch.float32 for tensor in net.state_dict().values())


def test_a_buffer_made_in_forward_is_written_into():
    def padded(_: Any, x: Tensor) -> Tensor:
        blank = torch.zeros(3, 1, 4, 4)
        blank[:, :, 1:] = x[:, :, 1:]
        return blank

    torch.testing.assert_close(
        doubled(Prefixed(padded))(IMAGES.double()).float(), Prefixed(padded)(IMAGES), rtol=1e-5, atol=1e-5
    )


def script(made: Any) -> Any:
    """TorchScript, which torch deprecates and people have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(made, IMAGES) if isinstance(made, nn.Flatten) else torch.jit.script(made)


def twice(x: Tensor) -> Tensor:
    return x * 2


SCRIPTED = script(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))


class Rounds(nn.Module):
    """Sees which number format it is given, as foreign kernels do."""

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype == torch.float64:
            raise RuntimeError("expected scalar type Float but found Double")
        return images


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (lambda: SCRIPTED, "the network is TorchScript"),
    "a part is scripted": (
        lambda: nn.Sequential(nn.Flatten(), script(nn.Linear(16, 3))),
        "^1 is TorchScript.*the module that was scripted",
    ),
    "a part is traced": (
        lambda: nn.Sequential(script(nn.Flatten()), nn.Linear(16, 3)),
        "^0 is TorchScript",
    ),
    "a scripted function": (lambda: Prefixed(lambda _, x: script(twice)(x)), "TorchScript.*without the decorator"),
    "a part is parallel": (
        lambda: nn.Sequential(nn.Flatten(), nn.DataParallel(nn.Linear(16, 3))),
        "^1 is DataParallel.*1.module in its place",
    ),
    "16 bits": (lambda: Prefixed(lambda _, x: x.half().float()), "half in .*float32 on cpu to torch.float16"),
    "numpy": (lambda: Prefixed(lambda _, x: torch.from_numpy(x.numpy())), "numpy in .*leaves the graph.*from_numpy"),
    "numbers": (lambda: Prefixed(lambda _, x: x * float(x.flatten(1)[:, 0].sum())), "leaves|Python|over the images"),
    "a branch": (lambda: Prefixed(lambda _, x: x if (x > 0.5).all() else -x), "jumps.*amax"),
    "tensors that do not fit": (
        lambda: Prefixed(lambda _, x: F.conv2d(x.unsqueeze(0)[0], torch.ones(1, 3, 1, 1, dtype=x.dtype))),
        "moves entries|its rule fails",
    ),
    "float32 alone": (lambda: nn.Sequential(Rounds(), nn.Flatten(), nn.Linear(16, 3)), "float64.*buffer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_certified_is_refused_in_one_sentence(name: str):
    build, words = REFUSED[name]
    net = build().eval()
    for call in (
        lambda: certify.margins(net, IMAGES, LABELS, ThreatModel("linf", 1e-6), "crown-ibp"),
        lambda: certify.radius(net, IMAGES, LABELS, "linf"),
    ):
        with pytest.raises(UnsupportedOpError) as caught:
            call()
        assert re.search(words, str(caught.value)), str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_mistake_in_shapes_names_function_place_and_shapes():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(8, 3)).eval()
    with pytest.raises(UnsupportedOpError, match=r"conv2d in 1 \(Conv2d\): its rule fails.*\(3, 2, 2, 2\).*channels"):
        bounds.margins(net, IMAGES, LABELS, THREAT)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))])
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]):
    net = Prefixed(lambda _, x: x)
    expected = certify.margins(net, IMAGES, LABELS, THREAT)
    torch.testing.assert_close(certify.margins(wrap(net), IMAGES, LABELS, THREAT), expected, rtol=0, atol=0)
    assert certify.radius(wrap(net), IMAGES, LABELS, "linf").equal(certify.radius(net, IMAGES, LABELS, "linf"))
    assert bounds.margins(wrap(net), IMAGES, LABELS, THREAT).isfinite().all()


def test_torchscript_is_refused_when_it_is_loaded():
    with pytest.raises(InputError, match=r"--network test_certify_constants:SCRIPTED: the network is TorchScript"):
        made_by("test_certify_constants:SCRIPTED")
