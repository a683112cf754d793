"""Bundles for verifiers are whole, say what the run found, and hold no false claim."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustnas import certify
from robustnas.cli import main
from robustnas.errors import RunError
from robustnas.export import bundle, certificates
from robustnas.plan import Seed
from robustnas.threat import ThreatModel
from support.fake_package import install
from support.vnnlib_reader import exact, holds, read_box

needs_onnx = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None,
    reason="needs onnx and onnxruntime: pip install 'robustnas[onnx]'",
)

RECIPE = """
dataset: bars
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 2.0e-6}
seeds: [3]
search: {epochs: 1, batch: 12}
methods:
  found: {train: {epochs: 2}}
  published: {genotype: DARTS_V2}
train: {epochs: 12, batch: 16, cutout: 0, auxiliary: 0.4, drop_path: 0, lr: 0.1}
attacks: []
evaluate: {images: 8, subset: first}
certify: {images: 6, norms: [linf]}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory."""
    folder = tmp_path_factory.mktemp("export")
    install(folder / "site", "export-toys", {"robustnas.datasets": {"bars": "support.networks:Bars"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "site"))
        (folder / "r.yaml").write_text(RECIPE)
        assert main(["run", str(folder / "r.yaml"), "--out", str(folder / "run"), "--quiet"]) == 0
        yield folder / "run"


@pytest.fixture(scope="module")
def exported(finished: Path) -> Path:
    """A bundle of all images that the run certified."""
    out = finished.parent / "bundle"
    assert main(["export", str(finished), "published", "--images", "6", "--output", str(out)]) == 0
    return out


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "certificates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def session(folder: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(folder / "network.onnx"), providers=["CPUExecutionProvider"])


def logits_of(runner: Any, image: Tensor) -> Tensor:
    (found,) = runner.run(None, {"X": image[None].numpy()})
    return torch.from_numpy(found)[0]


@needs_onnx
def test_a_bundle_is_complete(finished: Path, exported: Path) -> None:
    names = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()}
    properties = {f"vnnlib-{v}/image-{i:05d}.vnnlib" for v in ("1.0", "2.0") for i in range(6)}
    lists = {"instances.csv", "instances-2.0.csv"}
    assert names == {"network.onnx", "certificates.csv", "manifest.json", "README.txt"} | properties | lists
    for name, version in (("instances.csv", "1.0"), ("instances-2.0.csv", "2.0")):
        listed = [line.split(",") for line in (exported / name).read_text().splitlines()]
        assert listed == [["network.onnx", f"vnnlib-{version}/image-{i:05d}.vnnlib", "300"] for i in range(6)]
    data = (exported / "network.onnx").read_bytes()
    found = manifest(exported)
    assert found["network"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert found["network"]["compared_with_torch"]["images"] == 12
    assert found["network"]["compared_with_torch"]["relative_to_largest_logit"] < 1e-5
    assert found["versions"]["torch"]
    assert found["network"]["sha256"] in (exported / "README.txt").read_text()
    written = b"".join((exported / name).read_bytes() for name in names)
    assert str(finished.parent).encode() not in written, "a bundle names no folder of the machine it comes from"
    assert b"site-packages" not in written
    assert not list(exported.parent.glob("*.part"))
    assert (exported.stat().st_mode & 0o077) == (finished.stat().st_mode & 0o077), "a bundle is not its owner's alone"


@needs_onnx
def test_the_certificates_are_the_runs(finished: Path, exported: Path) -> None:
    (stage,) = finished.glob("certify/published-*/result.json")
    result = json.loads(stage.read_text())
    found = rows(exported)
    assert [float(row["margin"]) for row in found] == result["margin"]
    assert [row["certified"] == "yes" for row in found] == result["certified"]
    assert [float(row["radius_linf"]) for row in found] == result["radius"]["linf"]
    assert {(row["norm"], row["epsilon"], row["method"]) for row in found} == {("linf", "2e-06", "crown-ibp")}
    (clean,) = finished.glob("clean/published-*/result.json")
    assert all(row["label"] == row["prediction"] for row in found if row["certified"] == "yes")
    assert [int(row["prediction"]) for row in found] == json.loads(clean.read_text())["predictions"][:6]
    assert manifest(exported)["certificates"]["source"] == f"certify stage of the run, {stage.parent.name}"
    assert 0 < manifest(exported)["certificates"]["certified"] == sum(result["certified"])


@needs_onnx
def test_the_network_is_one_file_for_one_image_with_normalisation_inside(exported: Path) -> None:
    import onnx

    model = onnx.load(str(exported / "network.onnx"), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [[d.dim_value for d in one.type.tensor_type.shape.dim] for one in model.graph.input] == [[1, 1, 6, 6]]
    assert [[d.dim_value for d in one.type.tensor_type.shape.dim] for one in model.graph.output] == [[1, 3]]
    assert all(not one.external_data for one in model.graph.initializer)
    assert [node.op_type for node in model.graph.node if node.op_type != "Constant"][:2] == ["Sub", "Div"]
    assert [one.version for one in model.opset_import] == [13]


@needs_onnx
def test_no_certified_image_is_refuted_and_a_false_claim_is(finished: Path, exported: Path, tmp_path: Path) -> None:
    """Points of each box through onnxruntime: none satisfies a certified property.  PGD satisfies one at 0.3."""
    generator = torch.Generator().manual_seed(0)
    runner, checked = session(exported), 0
    for index, row in enumerate(rows(exported)):
        for version in ("1.0", "2.0"):
            text = (exported / f"vnnlib-{version}" / f"image-{index:05d}.vnnlib").read_text()
            lower, upper = (torch.tensor([float(n) for n in ends]).reshape(1, 6, 6) for ends in read_box(text))
            for trial in range(4):
                share = torch.rand(lower.shape, generator=generator)
                share = share.round() if trial % 2 else share
                point = lower + share * (upper - lower)
                inside = [
                    min(max(p, Fraction(a)), Fraction(b)) for p, a, b in zip(exact(point), *read_box(text), strict=True)
                ]
                logits = logits_of(runner, point)
                assert not (row["certified"] == "yes" and holds(text, inside, exact(logits)))
                checked += row["certified"] == "yes"
    assert checked >= 8

    far = tmp_path / "far"
    assert main(["export", str(finished), "published", "--epsilon", "0.3", "--images", "6", "--output", str(far)]) == 0
    assert {row["certified"] for row in rows(far)} == {"no"}
    arranged = bundle.planned(finished)
    network = bundle.trained(bundle.RunDirectory(finished), arranged, "published", Seed(3))
    images = arranged.dataset.split("test").take(torch.arange(6))
    labels = arranged.dataset.split("test").labels[:6]
    threat, shown = ThreatModel("linf", 0.3), images.clone()
    for _ in range(20):
        leaf = shown.clone().requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(network(leaf), labels), leaf)
        shown = threat.project(shown + 0.1 * slope.sign(), images)
    texts = [(far / "vnnlib-1.0" / f"image-{i:05d}.vnnlib").read_text() for i in range(6)]
    refuted = [holds(t, exact(x), exact(logits_of(runner, x))) for t, x in zip(texts, shown, strict=True)]
    assert any(refuted)


@needs_onnx
def test_another_threat_is_certified_anew(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "other"
    typed = ["export", str(finished), "found", "--epsilon", "2/255000", "--images", "8", "--vnnlib", "2"]
    assert main([*typed, "--timeout", "60", "--output", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}\n  ")
    arranged = bundle.planned(finished)
    network = bundle.trained(bundle.RunDirectory(finished), arranged, "found", Seed(3))
    test = arranged.dataset.split("test")
    images, labels = test.take(torch.arange(8)), test.labels[:8]
    least = certify.margins(network, images, labels, ThreatModel("linf", 2 / 255000)).amin(dim=1)
    found = rows(out)
    torch.testing.assert_close(torch.tensor([float(row["margin"]) for row in found]), least)
    assert [row["certified"] == "yes" for row in found] == (least > 0).tolist()
    assert [row["radius_linf"] == "" for row in found] == [False] * 6 + [True] * 2, "the run has six radii"
    assert {p.name for p in out.iterdir() if p.name.startswith(("vnnlib", "inst"))} == {"vnnlib-2.0", "instances.csv"}
    assert (out / "instances.csv").read_text().splitlines()[7].endswith("image-00007.vnnlib,60")
    assert manifest(out)["certificates"]["source"] == "computed by the export"


@needs_onnx
def test_the_box_around_another_ball_is_written_only_when_asked_for(finished: Path, tmp_path: Path) -> None:
    typed = ["export", str(finished), "published", "--norm", "l2", "--epsilon", "0.001", "--images", "2"]
    out = tmp_path / "l2"
    assert main([*typed, "--output", str(out)]) == 2
    assert not out.exists()
    assert main([*typed, "--output", str(out), "--enclosing-box"]) == 0
    assert manifest(out)["properties"]["exact"] is False
    assert "`sat` says nothing" in (out / "README.txt").read_text()
    assert {row["norm"] for row in rows(out)} == {"l2"}
    text = (out / "vnnlib-1.0" / "image-00001.vnnlib").read_text()
    assert "box around the ball l2 0.001" in text
    lower, upper = read_box(text)
    widths = [Fraction(b) - Fraction(a) for a, b in zip(lower, upper, strict=True)]
    assert max(widths) == pytest.approx(0.002, rel=1e-3)


@needs_onnx
def test_the_default_folder_is_in_the_run_and_nothing_is_overwritten(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert main(["export", str(copy), "published", "--images", "1", "--vnnlib", "1"]) == 0
    folder = copy / "export" / "published-seed3-linf-2e-06"
    data = (folder / "network.onnx").read_bytes()
    capsys.readouterr()
    assert main(["export", str(copy), "published", "--images", "2"]) == 2
    assert "overwrites nothing" in capsys.readouterr().err
    assert len(rows(folder)) == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["export", str(copy), "published", "--images", "1", "--output", str(empty)]) == 0
    assert (empty / "network.onnx").read_bytes() == data, "the same network is the same file"


@needs_onnx
def test_a_bundle_is_whole_or_absent(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> str:
        raise RunError("no space left")

    monkeypatch.setattr(bundle, "readme", full)
    assert main(["export", str(finished), "published", "--images", "1", "--output", str(tmp_path / "x" / "y")]) == 1
    assert not any((tmp_path / "x").iterdir())


@needs_onnx
def test_without_onnxruntime_the_manifest_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(finished), "published", "--images", "1", "--output", str(tmp_path / "b")]) == 0
    assert manifest(tmp_path / "b")["network"]["compared_with_torch"].startswith("not compared")
    assert "not compared: onnxruntime was not installed" in (tmp_path / "b" / "README.txt").read_text()


FAULTS = {
    "no run": (["{tmp}/none", "published"], "is not a run directory"),
    "no such method": (
        ["{run}", "publisht"],
        "no method 'publisht'; did you mean 'published'?; it has found, published",
    ),
    "no such seed": (["{run}", "found", "--seed", "0"], "has no seed 0; it has 3"),
    "no such norm": (["{run}", "found", "--norm", "linff"], "did you mean 'linf'?"),
    "another norm without a radius": (["{run}", "found", "--norm", "l2"], "needs an --epsilon of its own"),
    "a ball that is no box": (["{run}", "found", "--norm", "l2", "--epsilon", "0.5"], "--enclosing-box"),
    "a radius above 1": (["{run}", "found", "--epsilon", "8"], "at most 1, found 8"),
    "a negative radius": (["{run}", "found", "--epsilon=-0.1"], "at least 0"),
    "no number": (["{run}", "found", "--epsilon", "8/0"], "divides by zero"),
    "no images": (["{run}", "found", "--images", "0"], "a whole number from 1 would do"),
    "too many images": (["{run}", "found", "--images", "99999"], "99999 images are asked for and there are"),
    "no such version": (["{run}", "found", "--vnnlib", "3"], "1, 2, both would do"),
    "a slip": (["{run}", "found", "--image", "3"], "did you mean '--images'?"),
    "a file in the way": (["{run}", "found", "--output", "{run}/recipe.yaml"], "overwrites nothing"),
    "a file above it": (["{run}", "found", "--output", "{run}/recipe.yaml/x"], "cannot be written"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_with_status_2_and_one_message(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    typed, told = FAULTS[name]
    if name == "a file above it" and find_spec("onnx") is None:
        pytest.skip("found while writing, which needs onnx")
    status = main(["export", *(word.format(run=finished, tmp=tmp_path) for word in typed)])
    out, error = capsys.readouterr()
    assert (status, out) == (2, "")
    assert told in error
    assert "Traceback" not in error
    assert not (finished / "export").exists()


def test_a_network_that_is_not_trained_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("train"))
    assert main(["export", str(tmp_path / "copy"), "found"]) == 2
    error = capsys.readouterr().err
    assert "holds no trained network of found seed 3" in error
    assert f"robustnas run {tmp_path / 'copy' / 'recipe.yaml'} --out {tmp_path / 'copy'}" in error


def test_without_onnx_the_message_says_what_to_install(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("onnx", "onnx.checker", "onnx.shape_inference"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["export", str(finished), "found", "--output", str(tmp_path / "b")]) == 2
    assert "pip install 'robustnas[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_certificate_without_a_figure_has_an_empty_field() -> None:
    threat = ThreatModel("linf", 0.1)
    found = certificates.Certificates(threat, "ibp", "", [None, 0.1 + 0.2], [False, True], {"l2": [None, 1 / 3]}, "ibp")
    text = certificates.table(found, [3, 4], [1, 4])
    assert text.splitlines() == [
        "image,label,prediction,norm,epsilon,method,margin,certified,radius_l2",
        "0,3,1,linf,0.1,ibp,,no,",
        f"1,4,4,linf,0.1,ibp,{0.1 + 0.2!r},yes,{1 / 3!r}",
    ]
