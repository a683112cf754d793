"""Being registered is being tested: every installed plugin is held to its contract by the kit."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustnas import MOVED
from robustnas.contracts import Resources
from robustnas.errors import DataError, InputError
from robustnas.options import options_of
from robustnas.registry import ATTACKS, DATASETS, METRICS, REGISTRIES, SEARCH_SPACES, STRATEGIES
from robustnas.testing import (
    check_attack,
    check_dataset,
    check_executor,
    check_metric,
    check_order,
    check_regime,
    check_search_space,
    check_strategy,
    check_tracker,
)
from robustnas.testing.discrete_network import check_auxiliary, check_networks
from robustnas.testing.module import Bench
from robustnas.testing.promise import judged, own_randomness
from support.device_recipes import shipped, unmentioned
from support.places import ROOT

MNIST = ROOT.parent / "shared" / "data" / "mnist"

OPTIONS = {
    # the spaces' defaults are those of the papers, too large to build many times
    ("search-space", "darts"): {"cells": 2, "channels": 2, "network_cells": 2, "network_channels": 2},
    ("search-space", "pc-darts"): {"cells": 2, "channels": 4, "network_cells": 1, "network_channels": 4},
    ("search-space", "nas-bench-201"): {"cells": 1, "channels": 4, "network_cells": 1, "network_channels": 4},
    **{
        ("search-space", f"darts-s{number}"): {"cells": 2, "channels": 2, "network_cells": 2, "network_channels": 2}
        for number in (1, 2, 3, 4)
    },
    ("search-space", "wide-resnet"): {"depths": [1, 2], "widths": [1, 2], "channels": 2, "network_channels": 2},
    ("search-space", "robnet"): {"cells": 2, "channels": 2, "network_cells": 2, "network_channels": 2},
    ("attack", "pgd"): {"steps": 5, "step_size": 0.05},
    ("attack", "mi-fgsm"): {"steps": 5, "step_size": 0.25},
    ("attack", "cw-linf"): {"steps": 5, "step_size": 0.25},
    ("attack", "transfer"): {"steps": 5, "step_size": 0.25},
    ("attack", "apgd-ce"): {"steps": 12},
    ("attack", "apgd-dlr"): {"steps": 12},
    ("attack", "apgd-t"): {"steps": 12},
    ("attack", "cw"): {"steps": 20, "binary_search_steps": 4, "step_size": 0.05},
    ("attack", "deepfool"): {"steps": 10},
    ("attack", "ddn"): {"steps": 60},
    ("attack", "fmn"): {"steps": 20},
    ("attack", "boundary"): {"steps": 60},
    ("attack", "hopskipjump"): {"steps": 2, "samples": 20},
    **{
        ("metric", name): {"steps": 2}
        for name in ("adversarial-alpha", "adversarial-training", "feature-distortion", "fsp", "robust-ntk")
    },
    ("metric", "certified-radius"): {"steps": 1},
    ("strategy", "random-search"): {"samples": 2},
    ("attack", "corruptions"): {"severities": [3]},
    ("attack", "fab-t"): {"steps": 5},
    ("attack", "square"): {"queries": 50},
    ("attack", "autoattack"): {"steps": 5, "queries": 20},
    ("dataset", "mnist"): {"folder": str(MNIST)},
    ("executor", "slurm"): {"cluster": "local", "poll": 0.2},
}
"""Options of a plugin that has some without a default, or defaults too large for a test."""

ODD = {
    ("search-space", name): {"shapes": ((3, 9, 7),)}
    for name in ("darts", "darts-s1", "darts-s2", "darts-s3", "darts-s4")
}
"""These are built of the same cells, which pc-darts' walk and both forms of DARTS below meet in even shapes."""

DOWNLOADED = {"mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"}
"""Datasets whose files may not be here; tests download nothing."""

CHECKED_WITH = {
    "search-space": check_search_space,
    "metric": check_metric,
    "attack": check_attack,
    "dataset": lambda plugin: check_dataset(plugin, limit=2000),
    "strategy": check_strategy,
    "order": check_order,
    "regime": check_regime,
    "tracker": check_tracker,
    "executor": check_executor,
}

SLOW = {("search-space", name) for name in ("darts", "darts-s1", "darts-s2", "darts-s3", "darts-s4", "robnet")}
"""What takes four seconds: both forms of DARTS are checked for one shape of images below."""

PROCESSES = {("executor", "ray"), ("executor", "slurm")}
"""What starts a scheduler, or talks to one."""

WALK = [
    pytest.param(
        registry,
        name,
        id=f"{kind} {name}",
        marks=[pytest.mark.slow] * ((kind, name) in SLOW) + [pytest.mark.processes] * ((kind, name) in PROCESSES),
    )
    for kind, registry in REGISTRIES.items()
    for name in registry.names()
]


def drawn_folder(root: Path, splits: tuple[str, str]) -> Path:
    """Two classes of a few drawn photographs of 20x24 pixels, all different."""
    draw = np.random.default_rng(0)
    for split in splits:
        for kind in ("circle", "square"):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def options_for(kind: str, name: str, tmp_path: Path) -> dict[str, object]:
    if (kind, name) == ("dataset", "image-folder"):
        return {"folder": str(drawn_folder(tmp_path, ("train", "test")))}
    if (kind, name) == ("dataset", "imagenet"):
        folder = drawn_folder(tmp_path, ("train", "val"))
        return {"folder": str(folder), "size": 16, "resize": 18, "classes": 2}
    return dict(OPTIONS.get((kind, name), {}))


@pytest.mark.parametrize(("registry", "name"), WALK)
def test_a_registered_plugin_keeps_its_contract(registry, name, tmp_path):
    plugin_class = registry.load(name)
    options = options_for(registry.kind, name, tmp_path)
    missing = [option.name for option in options_of(plugin_class).values() if option.required]
    if set(missing) - set(options):
        assert {entry.distribution for entry in registry.entries() if entry.name == name} != {"robustnas"}
        pytest.skip(f"{name} is not ours and has no defaults for {', '.join(missing)}")
    plugin = plugin_class(**options)
    if registry.kind == "dataset" and name in DOWNLOADED:
        try:
            plugin.split("train")
        except DataError as fault:
            if "not found" not in str(fault):
                raise
            pytest.skip(str(fault).splitlines()[0])
    if registry.kind in ("tracker", "executor") and hasattr(plugin, "check"):
        try:
            plugin.check(*([Resources()],) if registry.kind == "executor" else ())
        except InputError as fault:
            pytest.skip(str(fault))
    CHECKED_WITH[registry.kind](plugin, **ODD.get((registry.kind, name), {}))


def test_the_walk_covers_every_plugin_of_this_distribution():
    """Read from pyproject.toml: an entry that is not installed is not walked."""
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    walked = {(param.values[0].kind, param.values[1]) for param in WALK}
    groups = {registry.group: kind for kind, registry in REGISTRIES.items()}
    assert set(entries) == set(groups)
    ours = {(groups[group], name) for group, names in entries.items() for name in names}
    assert len(ours) >= 18
    assert ours <= walked, f"not registered: {ours - walked}; run pip install -e ."


def test_every_metric_and_attack_runs_on_other_devices_too():
    assert not unmentioned(), f"{unmentioned()}: give each an entry in tests/support/device_recipes.py"


def test_what_ships_is_in_the_documents():
    readme, attacks = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/evaluation.md"))
    readme = readme.replace("`darts-s1` to `darts-s4`", "`darts-s1` `darts-s2` `darts-s3` `darts-s4`")
    for registry in (SEARCH_SPACES, METRICS, ATTACKS, STRATEGIES):
        missing = {name for name in shipped(registry) if f"`{name}`" not in readme}
        assert not missing, f"{missing}: the table of plugins in README.md names each {registry.kind}"
    missing = {name for name in shipped(ATTACKS) if f"`{name}`" not in attacks}
    assert not missing, f"{missing}: docs/evaluation.md names each attack"


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=lambda one: one.kind)
def test_every_kind_is_walked(registry):
    assert registry.names() == sorted(set(registry.names())), "each name once, in order"
    assert registry.names(), f"nothing is registered in {registry.group}: run pip install -e ."
    assert registry.kind in CHECKED_WITH


def test_what_may_be_skipped_for_its_files_is_what_can_be_downloaded():
    can = {name for name in DATASETS.names() if "download" in options_of(DATASETS.load(name))}
    assert can == DOWNLOADED


def test_both_forms_of_darts_have_an_auxiliary_head():
    """The form is the networks' affair: the supernet and the genotypes of both are the same."""
    options = OPTIONS["search-space", "darts"]
    space = SEARCH_SPACES.load("darts")(**options)
    check_search_space(space, shapes=((3, 8, 8),), auxiliary=True, methods=("ibp",))
    other = SEARCH_SPACES.load("darts")(**options, form="imagenet")
    with judged("search-space", other) as verdict, own_randomness(0), torch.enable_grad():
        bench = Bench(other, torch.rand(3, 3, 16, 16), 3, 0, verdict)
        genotypes = [other.sample(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
        check_networks(bench, genotypes, ("ibp",))
        check_auxiliary(bench, genotypes[0], True)


@pytest.mark.parametrize("former", MOVED)
def test_a_public_module_is_found_under_its_former_name(former: str):
    with pytest.warns(DeprecationWarning, match=re.escape(f"{former} is {MOVED[former]} now")):
        assert import_module(former) is import_module(MOVED[former])
    del sys.modules[former]
