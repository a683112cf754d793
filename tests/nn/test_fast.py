"""The fence of the speed layer: each part of it on or off, a supernet computes what plain torch computes."""

from __future__ import annotations

import ast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.bounds import margins
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.nn.fast import PARTS, double_backward, plain, switch
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from support.places import ROOT

SPACES = {"darts": Darts(cells=2, channels=2), "pc-darts": PcDarts(cells=2, channels=8, partial=4)}
IMAGES = torch.rand(3, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(3)


def computed(space: str, training: bool) -> list[Tensor]:
    """Logits, bounds, and first and second derivatives in images, alpha and weights, of one supernet."""
    torch.manual_seed(0)
    supernet = SPACES[space].supernet((1, 5, 5), 3).double()
    wanted = list(supernet.parameters())
    images = IMAGES.clone().requires_grad_()
    with scratch_statistics(supernet):
        logits = supernet(images)
        first = torch.autograd.grad(F.cross_entropy(logits, LABELS), [images, *wanted], retain_graph=True)
        if training:
            (slopes,) = torch.autograd.grad(logits.square().sum(), images, create_graph=True)
            return [logits, *first, *torch.autograd.grad(slopes.square().sum(), wanted)]
        with frozen_statistics(supernet):
            with double_backward():
                logits = supernet(images)
            (slopes,) = torch.autograd.grad(logits.square().sum(), images, create_graph=True)
            second = torch.autograd.grad(slopes.square().sum(), wanted, materialize_grads=True)
            bounds = margins(supernet, IMAGES, LABELS, ThreatModel("linf", 1e-3), "crown-ibp")
            return [logits, slopes, *second, bounds, *torch.autograd.grad(bounds.sum(), wanted, materialize_grads=True)]


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, bool], list[Tensor]]:
    """What plain torch computes."""
    with plain():
        return {(space, training): computed(space, training) for space in SPACES for training in (True, False)}


CASES = [(space, training, "") for space in SPACES for training in (True, False)] + [
    # without a part, in one space and one mode; each space and each mode meet half of the parts
    (list(SPACES)[number % 2], number // 2 % 2 == 0, part)
    for number, part in enumerate(PARTS)
]


@pytest.mark.parametrize(("space", "training", "off"), CASES, ids=str)
def test_equal_to_plain_torch(space, training, off, expected):
    """With all parts on, and with all but one."""
    with plain(off) if off else torch.enable_grad():
        found = computed(space, training)
    assert len(found) == len(expected[space, training]) > 50
    for one, other in zip(found, expected[space, training], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10 * (1 + float(other.detach().abs().max())))


def functions(tensor: Tensor) -> set[str]:
    """Names of the functions that a tensor's graph is made of."""
    names, waiting, seen = set(), [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(type(node).__name__)
            waiting += [following for following, _ in node.next_functions]
    return names


@pytest.mark.parametrize("space", SPACES)
def test_with_the_switch_off_nothing_is_computed_by_functions_of_our_own(space):
    supernet = SPACES[space].supernet((1, 5, 5), 3)
    graphs = []
    for context in (torch.enable_grad(), plain()):
        with context:
            graphs.append(functions(supernet.train()(IMAGES.float())))
            with double_backward():
                graphs[-1] |= functions(supernet.eval()(IMAGES.float()))
    ours = {"_MapBackward", "_FusedStageBackward", "_PiecewiseBackward"}
    assert graphs[0] >= ours, "or this test says nothing"
    assert not any(name.startswith("_") for name in graphs[1])


def test_parts_are_switched_off_by_name_and_on_again():
    with plain("stages"):
        assert not switch.is_on("stages")
        with plain("taps"):
            assert [part for part in PARTS if not switch.is_on(part)] == ["taps", "stages"]
        assert switch.is_on("taps")
    with plain():
        assert not any(map(switch.is_on, PARTS))
    with pytest.raises(ValueError, match="is called steam; there are convolutions, depthwise"), plain("steam"):
        pass
    with pytest.raises(KeyboardInterrupt), plain():
        raise KeyboardInterrupt
    assert all(map(switch.is_on, PARTS))


def test_the_rest_of_the_product_imports_the_fence_and_nothing_behind_it():
    inside = ROOT / "framework" / "robustnas" / "nn" / "fast"
    importing = 0
    for folder in ("framework", "plugins"):
        for file in (ROOT / folder).rglob("*.py"):
            if inside in file.parents:
                continue
            text = file.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if "robustnas.nn" in text else ():
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module]
                assert not any(name.startswith("robustnas.nn.fast.") for name in names), f"{file}: {names}"
                importing += module == "robustnas.nn.fast"
    assert importing >= 5
