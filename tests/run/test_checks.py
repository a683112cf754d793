"""What would fail in the middle of a run is refused at its start, with nothing done and nothing written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from robustnas.cli import main
from robustnas.errors import RecipeError
from robustnas.plan import make
from robustnas.recipe.load import load
from robustnas.train.capacity import parameters
from robustnas.train.settings import Train
from robustnas_plugins.datasets.digits import Digits
from support.fake_package import group, install

RECIPE = """
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 0.01}
methods: {one: {}}
train: {auxiliary: 0, drop_path: 0}
"""


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("search={epochs: 5, warmup_epochs: 5}", "search.warmup_epochs: found 5 with epochs: 5, so alpha never moves"),
        ("methods.one={search: {epochs: 3, warmup_epochs: 4}}", "methods.one.search.warmup_epochs: found 4"),
        (
            "methods.one={metric: synflow}",
            "methods.one.metric: found 'synflow', whose score has no",
        ),
        (
            "methods.one={metric: [jacobian, {name: croze, weight: 2}]}",
            "methods.one.metric.1: found 'croze', whose score has no gradient",
        ),
        (
            "methods.one={metric: croze}",
            "{name: evolution, objective: metric, network: untrained} would do, or robustnas rank with rank: {metrics:",
        ),
        ("train.cutout=8", "train.cutout: found 8, and images have 8x8 pixels; at most 7 would do"),
        ("methods.one={search: {crop: 9}}", "methods.one.search.crop: found 9, and images have 8x8 pixels"),
        (
            "threat={norm: l2, epsilon: 128}",
            "threat.epsilon: found 128, and no two images are more than 8 apart in l2; 128/255 would do",
        ),
        ("methods.ones.search.gamma=0", "methods.ones: there is no such method; did you mean 'one'?"),
        (
            "search.train_share=0.001",
            "search.train_share: search.train_share 0.001 splits 1200 training images into 1 and 1199",
        ),
        (
            "train.random_resized_crop=[0.5, 1]\ntrain.read_size=12",
            "train.read_size: found train.read_size: 12, and the dataset, with these options, reads",
        ),
        (
            "train.random_resized_crop=[0.5, 1]\ntrain.read_size=4",
            "train.read_size: found train.read_size: 4, and the network sees 8x8 pixels; 8 or more would do",
        ),
        ("dataset.train_images=1201", "dataset.train_images: found 1201, and there are 1200 training images of 10"),
        ("dataset.train_images=9", "dataset.train_images: found 9, and there are 1200"),
        ("dataset.train_images=0", "dataset.train_images: found 0; a whole number from 1 would do"),
        ("evaluate.images=598", "evaluate.images: 598 test images are asked for and there are 597; leave"),
        ("train.match={}", "train.match: found neither parameters nor multiply_adds; one of the two would do"),
        ("train.match={parameters: 0}", "train.match.parameters: found 0; at least 1 would do"),
        ("train.match={weights: 5}", "train.match.weights: unknown key of match"),
        ("train.match={parameters: 20}", "train.match: 20 parameters are out of reach: the closest network"),
        ("train.match={parameters: 20}", 'would do\n  tried with {"normal": [["'),
        ("train.match={parameters: 900, cells: [500]}", "train.match: network_cells is 500; at most 100 would do"),
        (
            "methods.one={genotype: DARTS_V2, train: {match: {parameters: 9}}}",
            "methods.one.train.match: 9 parameters are",
        ),
        (
            "search_space={name: pc-darts, network_cells: 1, network_channels: 2}\nrank={networks: [inherited]}",
            "rank.networks: PcDarts has no `path`, so no weights can be trained that its networks share",
        ),
        ("certify.images=600", "certify.images: 600 test images are asked for and there are 597; leave"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(
    override: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(RECIPE, encoding="utf-8")
    given = [word for line in override.splitlines() for word in ("--set", line)]
    assert main(["run", str(recipe), "--out", str(out), "--device", "cpu", *given]) == 2
    refused = capsys.readouterr().err
    assert told in refused
    assert not list(out.glob("*/*"))
    assert main(["plan", str(recipe), *given]) == 2
    assert capsys.readouterr().err == refused


def test_a_cutout_that_is_not_given_leaves_half_of_a_small_image() -> None:
    assert [Train().blanked((3, side, side)) for side in (8, 28, 32, 224)] == [4, 14, 16, 16]
    assert Train(cutout=5).blanked((1, 8, 8)) == 5


def test_a_warm_up_matters_where_something_is_searched(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("one: {}", "one: {genotype: DARTS_V2}"), encoding="utf-8")
    assert main(["plan", str(recipe), "--set", "search={epochs: 5, warmup_epochs: 5}"]) == 0


SAMPLERS = """
    import torch
    from robustnas_plugins.search_spaces.darts import Darts

    class Always(Darts):
        def sample(self, generator):
            return {"ops": 1}

    class Sometimes(Darts):
        def sample(self, generator):
            wrong = int(torch.randint(2, (1,), generator=generator))
            return {"ops": 1} if wrong else super().sample(generator)
"""


def test_a_sampler_that_draws_what_its_space_cannot_build_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once where the first draw is such; else the rows of the other seeds are made all the same."""
    monkeypatch.syspath_prepend(str(tmp_path))
    spaces = {"always": "their_samplers:Always", "sometimes": "their_samplers:Sometimes"}
    install(tmp_path, "their-samplers", {group("search_spaces"): spaces}, their_samplers=SAMPLERS)
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    text = RECIPE.replace("one: {}", "one: {strategy: random}").replace("name: darts", "name: always")
    recipe.write_text(f"{text}seeds: [0, 1, 2, 3]\n", encoding="utf-8")
    command = ["run", str(recipe), "--out", str(out), "--device", "cpu", "--until", "search"]
    assert main(command) == 2
    told = "sample drew {'ops': 1}, which Always cannot build: InputError: genotype: normal, normal_concat"
    assert f"methods.one.strategy: Always.{told}" in capsys.readouterr().err
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("always", "sometimes"), encoding="utf-8")
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.count(f"Sometimes.{told.replace('Always', 'Sometimes')}") == 4 - len(
        list(out.glob("search/*/result.json"))
    )
    assert 0 < len(list(out.glob("search/*/result.json"))) < 4


PLAIN = """
    from attrs import frozen
    from torch import nn

    from robustnas.errors import InputError
    from robustnas_plugins.search_spaces.darts import Darts

    class Plain(nn.Sequential):
        pass

    @frozen
    class Space:
        darts = Darts(cells=1, channels=2)
        broken: bool = False

        def supernet(self, shape, classes):
            return {}["missing"] if self.broken else self.darts.supernet(shape, classes)

        def genotype(self, supernet):
            return self.darts.genotype(supernet)

        def network(self, genotype, shape, classes, auxiliary=False):
            if auxiliary:
                raise InputError("plain networks have no auxiliary head")
            return Plain(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a space whose networks have neither auxiliary head nor drop-path, with defaults alone."""
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "plain-space", {group("search_spaces"): {"plain": "plain_space:Space"}}, plain_space=PLAIN)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "dataset: digits\nsearch_space: plain\nthreat: {norm: linf, epsilon: 0.01}\n"
        "search: {epochs: 1, batch: 200}\nmethods:\n  one: {}\n  two: {train: {lr: 0.1}}\n"
        "train: {epochs: 1}\nattacks: []\ncertify: false\nevaluate: {images: 20}\n",
        encoding="utf-8",
    )
    return recipe


def test_a_default_that_a_space_cannot_honour_gives_way(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(plain)]) == 0
    told = capsys.readouterr().out
    assert "train.auxiliary and train.drop_path are 0, by default where networks of the space have no" in told
    assert " ~650" in told, "64 pixels by 10 classes and a bias each"
    out = plain.parent / "out"
    assert main(["run", str(plain), "--out", str(out), "--device", "cpu", "--quiet"]) == 0
    done = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    assert [done["methods"][name]["train"][key] for name in ("one", "two") for key in ("auxiliary", "drop_path")] == [
        0
    ] * 4
    keys = [[stage.key for stage in make(load(path)).stages] for path in (plain, out / "recipe.yaml")]
    assert keys[0] == keys[1]


def test_everything_is_told_at_once_where_it_is_written(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain.write_text(
        "dataset: digits\nsearch_space: plain\nthreat: {norm: linf, epsilon: 0.01}\n"
        "search: {epochs: 1, warmup_epochs: 1, train_share: 0.0001}\nmethods:\n"
        "  one: {train: {auxiliary: 0.4}}\n  two: {train: {recompute_cells: true}}\n"
        "  three: {search_space: {name: plain, broken: true}}\n  four: {genotype: nowhere}\n"
        "  five: {network: 'nowhere:make'}\n"
        "  six: {network: 'json.decoder:JSONDecoder', weights: none.pt}\n"
        "  seven: {train: {drop_path: 0, match: {parameters: 9}}}\n"
        "train: {drop_path: 0.2, epochs: 1}\nevaluate: {images: 1000}\n",
        encoding="utf-8",
    )
    told = []
    for command in ("plan", "run"):
        assert main([command, str(plain)]) == 2
        told.append(capsys.readouterr().err)
    assert told[0] == told[1]
    found = [re.match(rf"{re.escape(str(plain))}:(\d+):(\d+): ([\w.]+): (.*)", line) for line in told[0].splitlines()]
    assert [(int(one[1]), int(one[2]), one[3], one[4][:28]) for one in found if one] == [
        (4, 36, "search.warmup_epochs", "found 1 with epochs: 1, so a"),
        (4, 52, "search.train_share", "search.train_share 0.0001 sp"),
        (6, 28, "methods.one.train.auxiliary", "found train.auxiliary: 0.4: "),
        (7, 34, "methods.two.train.recompute_cells", "Plain has no cells to comput"),
        (8, 25, "methods.three.search_space", "failed with KeyError: 'missi"),
        (9, 20, "methods.four.genotype", "found 'nowhere', neither a f"),
        (10, 19, "methods.five.network", "--network nowhere:make: no m"),
        (11, 55, "methods.six.weights", "--weights: none.pt cannot be"),
        (12, 40, "methods.seven.train.match", "networks of Space have one s"),
        (13, 20, "train.drop_path", "networks of Space have no dr"),
        (14, 20, "evaluate.images", "1000 test images are asked f"),
    ]


def test_what_keys_say_of_each_other_is_told_with_the_file_s_own_faults(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        RECIPE.replace("{one: {}}", "{one: {search: {epoch: 3}}, two: {metric: {name: jacobian, rows: 11}}}")
    )
    overrides = ["search={epochs: 3, warmup_epochs: 3}", "train.cutout=9", "threat={norm: l2, epsilon: 9}", "seed=1"]
    with pytest.raises(RecipeError) as caught:
        load(recipe, overrides)
    assert [re.split(r"found|; did|unknown", fault)[0] for fault in caught.value.faults] == [
        f"{recipe}:5:26: methods.one.search.epoch: ",
        f"{recipe}:5:52: methods.two.metric: rows: 11 of a network with 10 classes; at most 10 would do",
        "--set seed=1: seed: ",
        "--set search={epochs: 3, warmup_epochs: 3}: search.warmup_epochs: ",
        "--set train.cutout=9: train.cutout: ",
        "--set threat={norm: l2, epsilon: 9}: threat.epsilon: ",
    ]
    with pytest.raises(RecipeError) as caught:
        load(recipe, ["methods={one: {train: {lr: 0.1}}}", "train.batch=1"])
    told = ["--set train.batch=1: train.batch: found 1; at least 2 would do"]
    assert caught.value.faults == told, "the method that shares it says nothing more"


@pytest.mark.parametrize(
    ("space", "network", "note"),
    [
        (
            "{name: darts, cells: 2, channels: 4}",
            "~",
            "cells: 2 and channels: 4 sizes the supernet; trained networks have network_cells: 20 and network_chann",
        ),
        ("{name: darts, cells: 2, network_cells: 3, network_channels: 4}", "~", None),
        ("darts", "", None),
    ],
)
def test_a_plan_shows_the_size_of_every_network(space, network, note, tmp_path, capsys) -> None:
    recipe = tmp_path / "r.yaml"
    method = "{}" if network else "{genotype: DARTS_V1}"
    recipe.write_text(
        RECIPE.replace("{name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}", space).replace(
            "one: {}", f"one: {method}"
        )
    )
    assert main(["plan", str(recipe)]) == 0
    told = capsys.readouterr().out
    plugin = load(recipe).recipe.search_space.plugin
    count = parameters(plugin, plugin.published["DARTS_V1"], Digits())
    (row,) = [line for line in told.splitlines() if line.startswith("one ")]
    assert row.split()[-1] == f"{network}{count:,}"
    assert ("sizes the supernet" in told) == (note is not None)
    assert note is None or note in told
