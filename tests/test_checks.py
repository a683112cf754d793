"""What would fail in the middle of a run is refused at its start, with nothing done and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.cli import main
from robustnas.recipe.schema import Train

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
        ("train.cutout=8", "train.cutout: found 8, and images have 8x8 pixels; at most 7 would do"),
        ("methods.one={search: {crop: 9}}", "methods.one.search.crop: found 9, and images have 8x8 pixels"),
        (
            "threat={norm: l2, epsilon: 128}",
            "threat.epsilon: found 128, and no two images are more than 8 apart in l2; 128/255 would do",
        ),
        ("methods.ones.search.gamma=0", "methods.ones: there is no such method; did you mean 'one'?"),
        (
            "search.train_share=0.001",
            "methods.one: search.train_share 0.001 splits 1200 training images into 1 and 1199",
        ),
        (
            "train.random_resized_crop=[0.5, 1]\ntrain.read_size=12",
            "methods.one: found train.read_size: 12, and the dataset, with these options, reads",
        ),
        (
            "train.random_resized_crop=[0.5, 1]\ntrain.read_size=4",
            "methods.one: found train.read_size: 4, and the network sees 8x8 pixels; 8 or more would do",
        ),
        ("evaluate.images=598", "598 test images are asked for and there are 597; leave evaluate.images out for all"),
        ("certify.images=600", "600 test images are asked for and there are 597; leave certify.images out for all"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(
    override: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text(RECIPE, encoding="utf-8")
    given = [word for line in override.splitlines() for word in ("--set", line)]
    assert main(["run", str(recipe), "--out", str(out), "--device", "cpu", *given]) == 2
    assert told in capsys.readouterr().err
    assert not list(out.glob("*/*"))


def test_a_cutout_that_is_not_given_leaves_half_of_a_small_image() -> None:
    assert [Train().blanked((3, side, side)) for side in (8, 28, 32, 224)] == [4, 14, 16, 16]
    assert Train(cutout=5).blanked((1, 8, 8)) == 5


def test_a_warm_up_matters_where_something_is_searched(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("one: {}", "one: {genotype: DARTS_V2}"), encoding="utf-8")
    assert main(["plan", str(recipe), "--set", "search={epochs: 5, warmup_epochs: 5}"]) == 0
