"""How far bounds lie below the truth: exact minima of tiny networks, closed forms, and another verifier's values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from evidence.soundness import formula_networks as formulas
from evidence.soundness.exact import Array, Layers, by_integers, by_patterns, over_region
from robustnas.bounds import METHODS, margins
from robustnas.threat import NORMS, ThreatModel
from support import places

FLAT = tuple(norm for norm in NORMS if norm != "l2")
"""The norms whose ball is a polytope: a linear program describes it."""


EPSILONS = (0.03, 0.3)
"""Where hardly a neuron may turn, and where most may."""


def numbers(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


def mlp(seed: int, sizes: tuple[int, ...]) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        net = nn.Sequential(*layers[:-1]).eval().double()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.7)
    return net


def convolutional(seed: int) -> nn.Sequential:
    """4x4 images; the layers between ReLUs are affine, with a strided convolution, batch norm and average pooling."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 2, stride=2), nn.ReLU(), nn.Conv2d(2, 3, 2, padding=1),
            nn.BatchNorm2d(3), nn.AvgPool2d(2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3),
        )  # fmt: skip
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(2.0)
            net[4].running_mean.normal_(std=0.2)
    return net.eval().double()


def layers_of(net: nn.Sequential, inputs: int) -> Layers:
    """The affine maps between the ReLUs as matrices, by feeding unit vectors."""
    found: list[tuple[Array, Array]] = []
    block: list[nn.Module] = []
    shape = torch.Size([inputs])
    for module in [*net, nn.ReLU()]:
        if not isinstance(module, nn.ReLU):
            block.append(module)
            continue
        size = shape.numel()
        values = nn.Sequential(*block)(torch.cat([torch.zeros(1, size), torch.eye(size)]).double().view(-1, *shape))
        block, shape, values = [], values.shape[1:], values.flatten(1)
        found.append((numbers((values[1:] - values[:1]).T), numbers(values[0])))
    return found


TINY: dict[str, tuple[nn.Sequential, int]] = {
    "one hidden layer": (mlp(0, (3, 6, 3)), 3),
    "two hidden layers": (mlp(1, (4, 6, 5, 3)), 4),
    "three hidden layers": (mlp(2, (3, 5, 5, 4, 3)), 3),
    "wide": (mlp(3, (6, 12, 3)), 6),
    "convolutions": (convolutional(4), 16),
}
PIXELS = torch.tensor([[0.0, 1.0, 0.45, 0.6, 0.2, 0.85] * 3, [0.5, 0.35, 0.9, 0.05, 0.7, 0.1] * 3]).double()


def differences(label: int, classes: int = 3) -> Array:
    """(K - 1, K) rows f_y - f_j."""
    unit = np.eye(classes)
    return np.stack([unit[label] - unit[j] for j in range(classes) if j != label])


@pytest.mark.parametrize("norm", FLAT)
@pytest.mark.parametrize("name", ["one hidden layer", "three hidden layers"])
def test_both_ways_to_the_exact_minimum_agree(name: str, norm: str):
    net, size = TINY[name]
    if name == "three hidden layers":
        net = mlp(2, (3, 4, 3, 3))
    layers, clean = layers_of(net, size), numbers(PIXELS[0, :size])
    one, other = (solve(layers, differences(1)[0], clean, norm, 0.4) for solve in (by_integers, by_patterns))
    assert one == pytest.approx(other, abs=1e-6)


@pytest.fixture(scope="module")
def looseness() -> dict[tuple[str, float, str], list[float]]:
    """(norm, epsilon, method) -> exact minimum less bound, for every tiny network, image and margin."""
    found: dict[tuple[str, float, str], list[float]] = {}
    for net, size in TINY.values():
        layers = layers_of(net, size)
        labels = torch.tensor([0, 2])
        for norm, epsilon in ((norm, epsilon) for norm in FLAT for epsilon in EPSILONS):
            bound = {
                method: numbers(margins(net, PIXELS[:, :size], labels, ThreatModel(norm, epsilon), method))
                for method in METHODS
            }
            for image, label in enumerate(labels.tolist()):
                for column, row in enumerate(differences(label)):
                    exact = by_integers(layers, row, numbers(PIXELS[image, :size]), norm, epsilon)
                    for method in METHODS:
                        gap = exact - float(bound[method][image, column])
                        found.setdefault((norm, epsilon, method), []).append(gap)
    return found


def test_no_bound_is_above_the_exact_minimum(looseness: dict[tuple[str, float, str], list[float]]):
    assert len(looseness) == len(FLAT) * len(EPSILONS) * len(METHODS)
    for case, gaps in looseness.items():
        assert len(gaps) == len(TINY) * 2 * 2
        assert min(gaps) > -1e-6, case


def test_looseness_falls_with_the_method(
    looseness: dict[tuple[str, float, str], list[float]], capsys: pytest.CaptureFixture[str]
):
    with capsys.disabled():
        print("\nmean looseness (exact minimum less bound, in logits) on tiny networks, and relative to intervals'")
        for norm, epsilon in sorted({case[:2] for case in looseness}):
            means = [float(np.mean(looseness[norm, epsilon, method])) for method in METHODS]
            cells = [f"{m} {mean:.4f} ({mean / means[0]:.0%})" for m, mean in zip(METHODS, means, strict=True)]
            print(f"  {norm} {epsilon}: {', '.join(cells)}")
    for norm, epsilon in {case[:2] for case in looseness}:
        gaps = np.array([looseness[norm, epsilon, method] for method in METHODS])
        assert (np.diff(gaps, axis=0) <= 1e-9).all()
        assert gaps[METHODS.index("crown-ibp")].mean() < 0.8 * gaps[0].mean()
        assert gaps[METHODS.index("crown")].mean() < 0.6 * gaps[0].mean()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.05, 0.4, 1.0])
def test_a_linear_network_is_bounded_by_its_exact_minimum(norm: str, epsilon: float):
    """Against a linear program or SLSQP, with pixels at 0 and 1, where the box cuts the ball."""
    net, labels = mlp(5, (12, 3)), torch.tensor([1, 0])
    images = PIXELS[:, :12]
    bound = {method: numbers(margins(net, images, labels, ThreatModel(norm, epsilon), method)) for method in METHODS}
    logits = numbers(net(images))
    cut = 0
    for image, label in enumerate(labels.tolist()):
        for column, row in enumerate(differences(label)):
            slopes, clean = row @ numbers(net[0].weight), numbers(images[image])
            exact = float(row @ logits[image]) + over_region(slopes, clean, norm, epsilon)
            dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
            cut += exact > float(row @ logits[image]) - epsilon * np.linalg.norm(slopes, dual) + 1e-3
            for method in METHODS[1:]:
                assert float(bound[method][image, column]) == pytest.approx(exact, abs=1e-6)
            assert float(bound["ibp"][image, column]) <= exact + 1e-6
    assert cut > 0 or epsilon < (1.0 if norm == "l1" else 0.1), "the box has no part in this test"


@pytest.mark.parametrize("norm", NORMS)
def test_affine_layers_in_a_row_are_exact(norm: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        net = nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(12, 3),
        ).eval().double()  # fmt: skip
    images, labels, epsilon = PIXELS[:, :12], torch.tensor([1, 0]), 0.3
    ((weight, bias),) = layers_of(net, 12)
    for method in METHODS[1:]:
        bound = numbers(margins(net, images, labels, ThreatModel(norm, epsilon), method))
        for image, label in enumerate(labels.tolist()):
            clean = numbers(images[image])
            for column, row in enumerate(differences(label)):
                exact = row @ (weight @ clean + bias) + over_region(row @ weight, clean, norm, epsilon)
                assert float(bound[image, column]) == pytest.approx(exact, abs=1e-6)


def test_one_hidden_neuron_by_hand():
    """Logits (relu(x1 - x2), c), x = (0.5, 0.4), epsilon 0.2: the neuron's interval is [-0.3, 0.5].

    Margin of class 0: its minimum is relu(-0.3) - c = -c. Intervals: -c. Lines: 0.5 > 0.3, so the line below is the
    identity, which gives -0.3 - c; the larger of both counts. Margin of class 1: c - relu(0.5) exactly, from intervals
    as from the chord, which meets ReLU at both ends.
    """
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).eval().double()
    constant = 0.125
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net[2].bias.copy_(torch.tensor([0.0, constant]))
    images = torch.tensor([[0.5, 0.4], [0.5, 0.4]]).double()
    for method in METHODS:
        bound = numbers(margins(net, images, torch.tensor([0, 1]), ThreatModel("linf", 0.2), method))[:, 0].tolist()
        assert bound == pytest.approx([-constant, constant - 0.5], abs=1e-7)


GOLDEN = yaml.safe_load((places.GOLDEN / "auto_lirpa.yaml").read_text(encoding="utf-8"))


def test_reference_values_say_where_they_come_from():
    made = GOLDEN["made"]
    assert {"program", "torch", "numpy", "command", "date", "tolerance", "networks", "relaxation"} <= set(made)
    assert len(GOLDEN["cases"]) == len(formulas.NETWORKS) * sum(map(len, formulas.EPSILONS.values()))
    assert {case["network"] for case in GOLDEN["cases"]} == set(formulas.NETWORKS)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", formulas.NETWORKS)
def test_bounds_agree_with_auto_lirpa(name: str, norm: str):
    """Equal where the relaxation is the same; where it is not, at least as tight.

    Ours is the larger of a method and its predecessors, so the reference is, too. Relaxations differ in l_2 and l_1
    behind a convolution, whose interval the reference takes from the box and we from the dual norm; and in the slopes
    that alpha-crown finds.
    """
    tolerance = GOLDEN["made"]["tolerance"]
    cases = [case for case in GOLDEN["cases"] if (case["network"], case["norm"]) == (name, norm)]
    assert len(cases) == len(formulas.EPSILONS[norm])
    net, images, labels = formulas.network(name), formulas.images(name), torch.tensor(formulas.LABELS)
    for case in cases:
        epsilon = case["epsilon"]
        assert ((images - epsilon >= 0) & (images + epsilon <= 1)).all()
        reference = torch.full((2, formulas.CLASSES - 1), -torch.inf, dtype=torch.float64)
        for method in METHODS:
            reference = torch.maximum(reference, torch.tensor(case["lower"][method], dtype=torch.float64))
            found = margins(net, images, labels, ThreatModel(norm, epsilon), method).detach()
            assert (found >= reference - tolerance).all(), f"{method} is looser than the reference"
            if method != "alpha-crown" and (norm == "linf" or name == "mlp"):
                torch.testing.assert_close(found, reference, rtol=0, atol=tolerance)
