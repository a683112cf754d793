"""What does not fit: every function of the bounds gives a right answer or says what was found and what would do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evidence.soundness.networks import RandomNetwork, activations
from robustnas import bounds, certify
from robustnas.bounds import METHODS
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.threat import NORMS, ThreatModel
from support.bounded import plain_margins

IMAGES = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(3))
THREAT = ThreatModel("linf", 0.01)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(75, 3)
        ).eval()


LABELS = network()(IMAGES).argmax(dim=1)


class Around(nn.Module):
    """A network with something before or after it."""

    def __init__(self, before: Callable[[Tensor], Tensor] = torch.clone, after: Callable[[Tensor], Any] = torch.clone):
        super().__init__()
        self.inner, self.before, self.after = network(), before, after
        self.eval()

    def forward(self, images: Tensor) -> Any:
        return self.after(self.inner(self.before(images)))


def parts_in_training() -> nn.Module:
    net = network()
    net[1].train()
    return net


def autocast(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The first layer in mixed precision, inside a forward pass."""

    def call(images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer[0](images)[:, :1]

    return call


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "bounds.margins": bounds.margins,
    "bounds.log_widths": bounds.log_widths,
    "certify.margins": certify.margins,
    "certify.radius": lambda net, images, labels, threat: certify.radius(net, images, labels, threat.norm),
}
CERTIFYING = ("certify.margins", "certify.radius")
"""These put the network into eval mode themselves."""

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dropout left on": (
        {"net": lambda: Around(lambda x: F.dropout(x, 0.5, training=True))},
        UnsupportedOpError,
        r"dropout.*is on.*network\.eval\(\)",
    ),
    "batch norm without statistics": (
        {"net": lambda: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), *network()).eval()},
        UnsupportedOpError,
        "batch_norm in 0 .*mixes the images.*running statistics",
    ),
    "images mixed": (
        {"net": lambda: Around(lambda x: x - x.mean(dim=0, keepdim=True))},
        UnsupportedOpError,
        "mean in .*reduces over the images.*name the dimensions",
    ),
    "label out of range": (
        {"labels": torch.tensor([0, 1, 2, 3])},
        InputError,
        "label 3 for a network of 3 classes; labels are 0 to 2",
    ),
    "negative label": ({"labels": torch.tensor([0, 1, 2, -1])}, InputError, "label -1 is negative; labels are 0 to"),
    "labels of float": ({"labels": LABELS.float()}, InputError, r"torch\.float32; expected \(4,\) integers"),
    "labels of bool": ({"labels": LABELS > 0}, InputError, r"torch\.bool; expected \(4,\) integers"),
    "too few labels": ({"labels": LABELS[:3]}, InputError, r"labels.*shape \(3,\).*expected \(4,\)"),
    "labels as a column": ({"labels": LABELS[:, None]}, InputError, r"labels.*shape \(4, 1\).*expected \(4,\)"),
    "bytes": ({"images": (255 * IMAGES).to(torch.uint8)}, InputError, r"torch\.uint8.*float32 or float64 in \[0, 1\]"),
    "integers": ({"images": (255 * IMAGES).int()}, InputError, r"torch\.int32.*float32 or float64 in \[0, 1\]"),
    "images up to 255": ({"images": 255 * IMAGES}, InputError, r"reach from 1.* to 25.*expected \[0, 1\]"),
    "normalised images": ({"images": IMAGES - 0.5}, InputError, r"reach from -0.* to 0.*expected \[0, 1\]"),
    "nan in an image": ({"images": IMAGES.where(IMAGES > 0.1, torch.nan)}, InputError, r"nan.*expected \[0, 1\]"),
    "infinite pixel": ({"images": IMAGES.where(IMAGES > 0.1, torch.inf)}, InputError, r"inf.*expected \[0, 1\]"),
    "no images": ({"images": IMAGES[:0], "labels": LABELS[:0]}, InputError, r"\(0, 1, 5, 5\).*at least one image"),
    "half images": ({"images": IMAGES.half()}, InputError, r"torch\.float16.*float32 or float64"),
    "half images and network": (
        {"images": IMAGES.half(), "net": lambda: network().half()},
        InputError,
        r"torch\.float16.*float32 or float64",
    ),
    "half network": ({"net": lambda: network().half()}, InputError, "float16.*float32|float32.*float16"),
    "double network, single images": (
        {"net": lambda: network().double()},
        InputError,
        "float64.*float32|float32.*float64",
    ),
    "single network, double images": ({"images": IMAGES.double()}, InputError, "float64.*float32|float32.*float64"),
    "one class": (
        {"net": lambda: Around(after=lambda x: x[:, :1]), "labels": 0 * LABELS},
        InputError,
        r"\(4, 1\).*at least 2 classes",
    ),
    "one number an image": (
        {"net": lambda: Around(after=lambda x: x[:, 0]), "labels": 0 * LABELS},
        InputError,
        r"\(4,\).*expected \(N, K\)",
    ),
    "mixed precision": (
        {"net": lambda: Around(autocast(network()))},
        UnsupportedOpError,
        r"conv2d in .*bfloat16 of torch\.float32.*take autocast.*out of the forward pass",
    ),
    "a map of logits": (
        {"net": lambda: Around(after=lambda x: x[:, :, None])},
        InputError,
        r"\(4, 3, 1\).*expected \(N, K\)",
    ),
    "a tuple": ({"net": lambda: Around(after=lambda x: (x, x))}, InputError, "returned tuple, not logits"),
    "a constant": (
        {"net": lambda: Around(after=lambda x: torch.zeros(4, 3))},
        InputError,
        "not logits that depend on the images",
    ),
}


def given(change: dict[str, Any]) -> tuple[nn.Module, Tensor, Tensor, ThreatModel]:
    """Arguments that are right but for one change."""
    build = change.get("net", network)
    return build(), change.get("images", IMAGES), change.get("labels", LABELS), change.get("threat", THREAT)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_with_what_was_found_and_what_would_do(case: str, function: str):
    change, error, words = REFUSED[case]
    with pytest.raises(error) as caught:
        FUNCTIONS[function](*given(change))
    assert re.search(words, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("build", "place"),
    [(lambda: network().train(), r"the network \(Sequential\)"), (parts_in_training, r"1 \(BatchNorm2d\)")],
    ids=["all", "a part"],
)
def test_training_mode_is_refused_by_bounds_and_left_and_restored_by_certify(
    function: str, build: Callable[[], nn.Module], place: str
):
    net = build()
    modes = [module.training for module in net.modules()]
    if function in CERTIFYING:
        found = FUNCTIONS[function](net, IMAGES, LABELS, THREAT)
        torch.testing.assert_close(found, FUNCTIONS[function](network(), IMAGES, LABELS, THREAT), rtol=0, atol=0)
    else:
        with pytest.raises(UnsupportedOpError, match=rf"^{place} is in training mode.*network\.eval\(\)"):
            FUNCTIONS[function](net, IMAGES, LABELS, THREAT)
    assert [module.training for module in net.modules()] == modes


def test_coefficients_of_another_number_of_classes_are_refused():
    for coefficients in (torch.ones(2, 4), torch.ones(3, 2, 3), torch.ones(4, 0, 3), torch.ones(3)):
        with pytest.raises(InputError, match=r"coefficients have shape .*expected \(S, 3\) or \(4, S, 3\)"):
            bounds.linear_bounds(network(), IMAGES, coefficients, THREAT)


def test_words_that_are_unknown_are_refused_with_those_that_are_known():
    for call in (
        lambda: bounds.margins(network(), IMAGES, LABELS, THREAT, "crwn"),
        lambda: certify.margins(network(), IMAGES, LABELS, THREAT, "crwn"),
        lambda: certify.radius(network(), IMAGES, LABELS, "linf", "crwn"),
    ):
        with pytest.raises(InputError, match=f"'crwn'.*{', '.join(METHODS)}"):
            call()
    with pytest.raises(InputError, match="targets 'any' is unknown"):
        bounds.margins(network(), IMAGES, LABELS, THREAT, targets="any")
    with pytest.raises(InputError, match=r"'l3'.*linf"):
        certify.radius(network(), IMAGES, LABELS, "l3")


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_0_is_the_clean_margin(norm: str):
    net, threat = network(), ThreatModel(norm, 0.0)
    clean = plain_margins(net, IMAGES, LABELS).detach()
    for method in METHODS:
        found = bounds.margins(net, IMAGES, LABELS, threat, method)
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-6)
        certified = certify.margins(net, IMAGES, LABELS, threat, method)
        assert (certified < clean).all()
        torch.testing.assert_close(certified, clean, rtol=0, atol=1e-4)


def test_epsilon_beyond_the_box_is_refused_in_linf_and_the_whole_box_in_the_others():
    with pytest.raises(ValueError, match=r"at most 1, found 1\.5"):
        ThreatModel("linf", 1.5)
    net = network()
    whole = bounds.margins(net, IMAGES, LABELS, ThreatModel("linf", 1.0))
    for norm, reach in (("l2", 5.0), ("l1", 25.0)):
        # every image lies within sqrt(d) in l_2 and d in l_1: beyond that nothing changes but the multiplier's rounding
        for epsilon in (reach, 4 * reach):
            found = bounds.margins(net, IMAGES, LABELS, ThreatModel(norm, epsilon))
            assert (found <= whole + 1e-5).all()
            torch.testing.assert_close(found, whole, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integers_will_do(dtype: torch.dtype):
    for function in FUNCTIONS.values():
        expected = function(network(), IMAGES, LABELS, THREAT)
        torch.testing.assert_close(function(network(), IMAGES, LABELS.to(dtype), THREAT), expected, rtol=0, atol=0)


def test_double_network_and_images_will_do():
    for function in FUNCTIONS.values():
        found = function(network().double(), IMAGES.double(), LABELS, THREAT)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), function(network(), IMAGES, LABELS, THREAT), rtol=1e-2, atol=1e-4)


def tensors(net: nn.Module) -> list[str]:
    return [name for name, tensor in net.state_dict().items() if tensor.is_floating_point()]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", tensors(network()))
def test_nothing_is_certified_through_a_weight_that_is_no_number(name: str, value: float):
    """Where ReLU or a division makes a number of an infinity again, the bound lies below that number's margin."""
    net = network()
    net.state_dict()[name].view(-1)[0] = value
    clean = plain_margins(net, IMAGES, LABELS).detach()
    known = clean.isfinite()
    assert (~known).any() or value is not torch.nan
    # the norm matters in front of the first layer only; behind it each has its turn
    turn = tensors(net).index(name)
    for norm in NORMS if turn == 0 else NORMS[turn % len(NORMS) :][:1]:
        for method in METHODS:
            found = certify.margins(net, IMAGES, LABELS, ThreatModel(norm, 0.01), method)
            assert not found.isnan().any()
            assert found[~known].isneginf().all()
            assert (found[known] <= clean[known]).all()
    right = net(IMAGES).isfinite().all(dim=1)
    assert not right.any() or value is not torch.nan
    assert (certify.radius(net, IMAGES, LABELS, "linf")[~right] == 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("activation", activations())
def test_no_activation_makes_a_number_of_nan(activation: str, value: float):
    """A saturating function may make a finite logit of infinity: then the bound may be finite, and has to be lower."""
    net = RandomNetwork(1, activation=activation)
    images = torch.rand(2, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    first = net.body[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[0, 0, 1, 1] = value
        clean = plain_margins(net, images, labels)
    for method in METHODS[:3]:
        found = certify.margins(net, images, labels, ThreatModel("linf", 0.01), method)
        assert not found.isnan().any()
        assert found[clean.isnan()].isneginf().all()
        assert not (found > clean).any()
    if value is torch.nan:
        assert clean.isnan().any()


def test_a_nan_image_of_a_batch_is_named_as_a_fault_of_the_batch():
    """Bounds are an image's own, but a batch with a broken image is refused whole: nothing is left out silently."""
    images = IMAGES.clone()
    images[2, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="nan"):
        certify.margins(network(), images, LABELS, THREAT, batch=1)
