"""Networks matched to a capacity go through a whole run in their own sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustnas.cli import main
from support.fake_package import install

RECIPE = """
dataset: bars
search_space: {name: SPACE, cells: 1, channels: 2, network_cells: 1, network_channels: 9}
threat: {norm: linf, epsilon: 0.01}
search: {epochs: 1, batch: 12}
methods: {found: {}, published: {genotype: PUBLISHED}, smaller: {train: {match: {parameters: 500}}}}
train: {epochs: 1, batch: 16, cutout: 0, auxiliary: 0, drop_path: 0, match: {parameters: 900, cells: [1, 2]}}
attacks: [fgsm]
certify: false
evaluate: {images: 8}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "published", "targets"), [("darts", "DARTS_V2", (900, 500)), ("nas-bench-201", "ResNet", (4000, 2000))]
)
def test_each_network_is_trained_and_evaluated_in_its_size(
    space: str,
    published: str,
    targets: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(tmp_path, "match-toys", {"robustnas.datasets": {"bars": "support.networks:Bars"}})
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe, out = tmp_path / "r.yaml", tmp_path / "run"
    text = RECIPE.replace("SPACE", space).replace("PUBLISHED", published)
    recipe.write_text(text.replace("900", str(targets[0])).replace("500", str(targets[1])), encoding="utf-8")
    assert main(["run", str(recipe), "--out", str(out), "--device", "cpu", "--quiet"]) == 0
    trained = {
        file.parent.name.partition("-")[0]: json.loads(file.read_text(encoding="utf-8"))
        for file in out.glob("train/*/result.json")
    }
    rows = {row["method"]: row for row in json.loads((out / "table.json").read_text(encoding="utf-8"))["rows"]}
    capsys.readouterr()
    assert main(["plan", str(recipe), "--out", str(out)]) == 0
    planned = capsys.readouterr().out
    for name, target in zip(("found", "published", "smaller"), (targets[0], *targets), strict=True):
        match = trained[name]["match"]
        assert match == {"kind": "parameters", "target": target, "found": trained[name]["parameters"]}
        assert abs(match["found"] - target) <= 0.45 * target
        assert rows[name]["parameters"]["mean"] == match["found"]
        assert f"{match['found']:,}" in planned
    assert trained["smaller"]["genotype"] == trained["found"]["genotype"], "one search serves both"
    # as it is stored, the recipe asks for the same
    assert main(["run", str(out / "recipe.yaml"), "--out", str(out), "--device", "cpu"]) == 0
    assert "stages were done before" in capsys.readouterr().err
