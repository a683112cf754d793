"""The conformance kit itself: what it passes, what it says, and what it leaves alone."""

from __future__ import annotations

import contextlib
import inspect
import random

import numpy as np
import pytest
import torch
from test_kit_attacks import Sign
from test_kit_datasets import NeverTheSame
from test_kit_metrics import LinfOnly, OwnNoise, UnseededDraw, WrongSign

from robustnas.errors import OptionError
from robustnas.testing import (
    ConformanceError,
    check_attack,
    check_dataset,
    check_metric,
    check_search_space,
    parametrize,
)
from robustnas.testing.networks import TinySupernet, fit, tiny_images, tiny_network
from support.kept_promises import Chain, Doubled, Noisy, Slope, Stripes

LINF = {"norms": ("linf",)}


@pytest.mark.parametrize("plugin", [Slope(), Slope, Noisy, Doubled], ids=str)
def test_metrics_that_keep_their_promises_pass(plugin):
    check_metric(plugin, norms=("linf", "l2") if plugin == Slope() else ("l1",))


def test_a_dataset_that_keeps_its_promises_passes():
    check_dataset(Stripes())


def test_a_search_space_that_keeps_its_promises_passes():
    check_search_space(Chain(), auxiliary=False)


@pytest.mark.parametrize(
    ("check", "plugin", "options"),
    [(check_metric, Slope, LINF), (check_attack, Sign, LINF), (check_dataset, Stripes, {}),
     (check_search_space, Chain, {"shapes": ((1, 8, 8),)}), (check_metric, UnseededDraw, LINF),
     (check_metric, OwnNoise, LINF), (check_dataset, NeverTheSame, {})],
    ids=["metric", "attack", "dataset", "search-space", "wrong-metric", "wrong-loss", "wrong-dataset"],
)  # fmt: skip
def test_the_global_generators_are_left_as_found(check, plugin, options):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with contextlib.suppress(ConformanceError):
        check(plugin, **options)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_a_finding_is_an_assertion_with_its_parts():
    with pytest.raises(AssertionError) as caught:
        check_metric(WrongSign(), norms=("linf",))
    fault = caught.value
    assert isinstance(fault, ConformanceError)
    assert fault.plugin == "WrongSign"
    (broken,) = fault.broken
    assert broken.promise == "score does not grow with epsilon"
    for line in (broken.promise, broken.found, broken.usually):
        assert line in str(fault)
    assert broken.promise in fault.tried
    assert "score is finite" in fault.tried


def test_what_a_plugin_raised_is_the_cause():
    with pytest.raises(ConformanceError, match="OptionError: linf only") as caught:
        check_metric(LinfOnly(), norms=("l2",))
    assert isinstance(caught.value.__cause__, OptionError)


def test_the_kit_needs_no_test_runner():
    import sys
    from pathlib import Path

    import robustnas.testing

    files = list(Path(robustnas.testing.__file__).parent.glob("*.py"))
    assert len(files) >= 6
    assert "pytest" in sys.modules  # this test would be empty in another runner
    importing = [file.name for file in files if "import pytest" in file.read_text(encoding="utf-8")]
    assert importing == ["per_promise.py"]
    assert "    import pytest\n" in inspect.getsource(parametrize)


def test_the_tiny_images_can_be_learned_and_are_about_one_apart():
    torch.manual_seed(0)
    images, labels = tiny_images(60)
    network = tiny_network()
    fit(network, images, labels, steps=150)
    assert (network(images).argmax(1) == labels).float().mean() > 0.9
    assert images.min() >= 0
    assert images.max() <= 1
    centres = torch.stack([images[labels == k].mean(0).flatten() for k in range(3)])
    assert 1.0 < torch.cdist(centres, centres)[0, 1] < 1.6


def test_the_tiny_supernet_mixes_with_what_it_is_given():
    supernet = TinySupernet().eval()
    images, _ = tiny_images(4)
    nothing = {"edges": torch.eye(4)[[3, 3]]}
    assert torch.allclose(supernet(images, nothing), supernet.head.bias.expand(4, -1))
    assert torch.equal(supernet(images, supernet.mixing()), supernet(images))
