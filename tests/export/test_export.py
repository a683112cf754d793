"""Bundles for verifiers: boxes cut nothing off, properties mean what they say, the ONNX file is the network."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evidence.golden import marabou
from robustnas import certify
from robustnas.bounds.margins import METHODS
from robustnas.cli import main
from robustnas.errors import InputError, RunError
from robustnas.export import box, bundle, certificates, onnx_file, vnnlib
from robustnas.nn.normalize import PixelNetwork
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts
from support import places
from support.fake_package import install

needs_onnx = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None,
    reason="needs onnx and onnxruntime: pip install 'robustnas[onnx]'",
)
GOLDEN = json.loads((places.GOLDEN / "marabou.json").read_text())

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


# A reader of VNN-LIB that shares nothing with the writer.


def forms(text: str) -> list[Any]:
    """The text as nested lists of words."""
    stack: list[list[Any]] = [[]]
    for word in re.findall(r"\(|\)|[^\s()]+", re.sub(r";.*", "", text)):
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    assert len(stack) == 1
    return stack[0]


def place(name: str, shapes: dict[str, list[int]]) -> int | None:
    """The flat index of an entry, `X_7` or `X[0,0,1,2]`; None for a number."""
    if match := re.fullmatch(r"[XY]_(\d+)", name):
        return int(match[1])
    if match := re.fullmatch(r"([XY])\[([\d,]+)\]", name):
        flat = 0
        for size, index in zip(shapes[match[1]], map(int, match[2].split(",")), strict=True):
            assert index < size
            flat = flat * size + index
        return flat
    return None


def shapes_of(text: str) -> dict[str, list[int]]:
    return {
        name: [int(size) for size in sizes.split(",")]
        for name, sizes in re.findall(r"\(declare-(?:in|out)put ([XY]) float32 \[([\d,]+)\]\)", text)
    }


def holds(text: str, x: Sequence[Fraction], y: Sequence[Fraction]) -> bool:
    """Whether these entries satisfy all assertions."""
    shapes = shapes_of(text)

    def value(word: str) -> Fraction:
        index = place(word, shapes)
        return Fraction(word) if index is None else (x if word[0] == "X" else y)[index]

    def true(form: list[Any]) -> bool:
        head, *rest = form
        if head in ("and", "or"):
            return (all if head == "and" else any)(true(one) for one in rest)
        left, right = map(value, rest)
        return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[head]

    asserted = [form[1] for form in forms(text) if form[0] == "assert"]
    assert len(asserted) == 2 * len(x) + 1
    return all(true(one) for one in asserted)


def read_box(text: str) -> tuple[list[str], list[str]]:
    """Lower and upper ends in flat order, as they are written."""
    shapes, ends = shapes_of(text), {"<=": dict[int, str](), ">=": dict[int, str]()}
    for form in forms(text):
        if form[0] == "assert" and form[1][0] in ends and str(form[1][1]).startswith("X"):
            sign, name, number = form[1]
            index = place(name, shapes)
            assert index is not None
            assert index not in ends[sign]
            ends[sign][index] = number
    count = len(ends["<="])
    assert set(ends["<="]) == set(ends[">="]) == set(range(count))
    return [ends[">="][i] for i in range(count)], [ends["<="][i] for i in range(count)]


def exact(values: Tensor) -> list[Fraction]:
    return [Fraction(value) for value in values.flatten().tolist()]


# Boxes


def pixels() -> Tensor:
    """Pixels as they come: of bytes, of digits, the ends, tiny ones, any."""
    any_ = torch.rand(200, generator=torch.Generator().manual_seed(1))
    odd = torch.tensor([0.0, 1.0, 1e-38, 1e-45, 1 - 2.0**-24, 2.0**-24, 0.5])
    return torch.cat([torch.arange(256) / 255, torch.arange(17) / 16, odd, any_]).reshape(1, 1, -1)


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 1 / 255, 8 / 255, 0.02, 0.1, 0.3, 0.999, 1.0])
def test_a_box_holds_the_exact_ball_and_the_float32_one(epsilon: float) -> None:
    image = pixels()
    made = box.around(image, epsilon)
    threat = ThreatModel("linf", epsilon)
    corners = [threat.project(image + sign, image) for sign in (-1.0, 1.0)]
    radius = torch.tensor(epsilon)
    ends = [(image - radius).clamp_min(0), (image + radius).clamp_max(1)]
    walked = 0
    for index, pixel in enumerate(exact(image)):
        low, high = Fraction(made.lower[index]), Fraction(made.upper[index])
        least, largest = max(pixel - Fraction(epsilon), Fraction(0)), min(pixel + Fraction(epsilon), Fraction(1))
        assert 0 <= low <= least <= largest <= high <= 1
        for reached in (*corners, *ends):
            assert low <= Fraction(reached.flatten()[index].item()) <= high
        assert least - low <= Fraction(2) ** -24
        assert high - largest <= Fraction(2) ** -24
        # read as float64 it still holds both
        assert Fraction(float(made.lower[index])) <= least
        assert Fraction(float(made.upper[index])) >= largest
        walked += 1
    assert walked == image.numel() > 400


def test_nearest_decimals_would_cut_something_off() -> None:
    """Why ends are rounded outwards: `repr` of the float64 difference does not hold the ball."""
    image, epsilon = pixels(), 8 / 255
    cut = [p for p in exact(image) if Fraction(repr(float(p) - epsilon)) > p - Fraction(epsilon)]
    assert len(cut) > 50


def test_decimals_have_no_exponent() -> None:
    made = box.around(pixels(), 1e-9)
    numbers = {*made.lower, *made.upper}
    assert len(numbers) > 400
    assert all(re.fullmatch(r"[01]\.\d{1,20}", number) for number in numbers)
    assert box.downwards(Fraction(-1, 3)) == "0.0"
    assert box.upwards(Fraction(4, 3)) == "1.0"
    assert Fraction(box.downwards(Fraction(1, 3))) < Fraction(1, 3) < Fraction(box.upwards(Fraction(1, 3)))


# Properties


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("classes", "label"), [(2, 1), (10, 3)])
def test_a_property_is_true_exactly_for_images_in_the_box_that_are_not_classified_so(
    version: str, classes: int, label: int
) -> None:
    generator = torch.Generator().manual_seed(classes)
    image = torch.rand(2, 3, 2, generator=generator)
    text = vnnlib.WRITERS[version](box.around(image, 0.1), label, classes, ("a comment (with brackets)",))
    seen = set()
    for trial in range(60):
        reach = 0.1 if trial % 2 else 0.2
        point = (image + reach * (2 * torch.rand(image.shape, generator=generator) - 1)).clamp(0, 1)
        logits = torch.randint(0, 3, (classes,), generator=generator).float()  # with ties
        logits[label] += trial // 2 % 3
        inside = bool(((point - image).abs() <= 0.1).all())
        violated = bool((logits[[j for j in range(classes) if j != label]] >= logits[label]).any())
        assert holds(text, exact(point), exact(logits)) == (inside and violated)
        seen.add((inside, violated))
    assert len(seen) == 4


def test_entries_are_in_the_order_of_memory_in_both_versions() -> None:
    image = torch.arange(24).reshape(2, 3, 4) / 100
    made = box.around(image, 0.0)
    one, two = (vnnlib.WRITERS[version](made, 0, 3, ()) for version in ("1.0", "2.0"))
    assert shapes_of(two) == {"X": [1, 2, 3, 4], "Y": [1, 3]}
    assert read_box(one) == read_box(two)
    lower, upper = read_box(one)
    for index, value in enumerate(exact(image)):
        assert Fraction(lower[index]) <= value <= Fraction(upper[index])
    assert f"(assert (>= X[0,1,2,3] {lower[23]}))" in two
    declared = [form[1] for form in forms(one) if form[0] == "declare-const"]
    assert declared == [*(f"X_{i}" for i in range(24)), "Y_0", "Y_1", "Y_2"]


def test_the_standards_own_parser_reads_version_2() -> None:
    parser = pytest.importorskip("vnnlib", reason="needs vnnlib, the parser of VNN-LIB 2.0")
    for classes in (2, 10):
        made = box.around(torch.rand(3, 2, 2), 0.1)
        query = parser.parse_query_string(vnnlib.version_2(made, 1, classes))
        assert len(query.assertions) == 25
        assert len(query.assertions[-1].expr.to_dnf()) == classes - 1
        assert [one.shape for one in (query.networks[0].inputs[0], query.networks[0].outputs[0])] == [
            [1, 3, 2, 2],
            [1, classes],
        ]


# Networks


class Layers(nn.Module):
    """A convolution, batch norm, something, and pooling to `size` x `size`."""

    def __init__(self, something: nn.Module, size: int = 1):
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), something)
        self.classifier = nn.Linear(4 * size * size, 5)

    def forward(self, images: Tensor) -> Tensor:
        state = nn.functional.adaptive_avg_pool2d(self.layers(images), self.size)
        logits: Tensor = self.classifier(nn.functional.dropout(state.flatten(1), 0.5, self.training))
        return logits


def layers(something: nn.Module, size: int = 1) -> Layers:
    torch.manual_seed(0)
    network = Layers(something, size)
    norm = network.layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return network.eval()


SOMETHING: dict[str, nn.Module] = {
    "nothing": nn.Identity(),
    "max pool, overlapping": nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "average pool, padding not counted": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "average pool, ceil, padding not counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average pool, ceil, padding counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "hard-swish": nn.Hardswish(),
}


@needs_onnx
@pytest.mark.parametrize("name", SOMETHING)
def test_the_file_is_the_network(name: str) -> None:
    network, images = layers(SOMETHING[name]), torch.rand(3, 3, 7, 7)
    network.train()  # the file is of the network in eval mode, whatever mode it is in
    agreement = onnx_file.compare(onnx_file.encode(network, images[0]), network, images, 0.1)
    assert network.training
    assert agreement is not None
    assert agreement.images == 6
    assert agreement.relative_to_largest_logit < 1e-5


@needs_onnx
@pytest.mark.parametrize("genotype", ["DARTS_V1", "DARTS_V2", "NASNet-A", "PC_DARTS_CIFAR"])
def test_networks_of_the_darts_space_survive(genotype: str) -> None:
    """With both kinds of cells and a reduction before a normal cell: every way of halving is there."""
    space = Darts(network_cells=4, network_channels=2)
    torch.manual_seed(0)
    network = PixelNetwork(space.network(space.published[genotype], (3, 9, 9), 4), (0.5,) * 3, (0.2, 0.3, 0.4))
    images = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(16, 3, 9, 9))  # running statistics worth the name
    agreement = onnx_file.compare(onnx_file.encode(network, images[0]), network, images, 0.1)
    assert agreement is not None
    assert agreement.relative_to_largest_logit < 1e-4


@needs_onnx
def test_weights_in_another_layout_and_adaptive_pooling_survive() -> None:
    network = layers(nn.ReLU(), size=2).to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)
    agreement = onnx_file.compare(onnx_file.encode(network, images[0]), network, images, 0.1)
    assert agreement is not None
    assert agreement.relative_to_largest_logit < 1e-5


@needs_onnx
def test_a_file_that_computes_something_else_is_refused() -> None:
    """The exporter drops `divisor_override` without a word; a file of other weights would be the same fault."""
    network, images = layers(nn.AvgPool2d(3, 1, 1, divisor_override=4)), torch.rand(2, 3, 7, 7)
    data = onnx_file.encode(network, images[0])
    with pytest.raises(RunError, match="is not the network"):
        onnx_file.compare(data, network, images, 0.1)


@needs_onnx
def test_what_has_no_form_in_onnx_is_refused_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"cannot be written as ONNX: .*adaptive_avg_pool2d"):
        onnx_file.encode(layers(nn.Identity(), size=3), torch.rand(3, 8, 8))
    assert capfd.readouterr() == ("", ""), "the exporter prints the whole graph"
    with pytest.raises(InputError, match=r"cannot be written as ONNX: .*channels"):
        onnx_file.encode(layers(nn.Identity()), torch.rand(4, 8, 8))
    with pytest.raises(InputError, match=r"float64; float32 would do"):
        onnx_file.encode(layers(nn.Identity()).double(), torch.rand(3, 8, 8, dtype=torch.float64))


# Bundles


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
    arranged = bundle._plan(finished)
    network = bundle._trained(bundle.RunDirectory(finished), arranged, "published", 3)
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
    arranged = bundle._plan(finished)
    network = bundle._trained(bundle.RunDirectory(finished), arranged, "found", 3)
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


# What is refused

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


# Certificates as a table


def test_a_certificate_without_a_figure_has_an_empty_field() -> None:
    threat = ThreatModel("linf", 0.1)
    found = certificates.Certificates(threat, "ibp", "", [None, 0.1 + 0.2], [False, True], {"l2": [None, 1 / 3]}, "ibp")
    text = certificates.table(found, [3, 4], [1, 4])
    assert text.splitlines() == [
        "image,label,prediction,norm,epsilon,method,margin,certified,radius_l2",
        "0,3,1,linf,0.1,ibp,,no,",
        f"1,4,4,linf,0.1,ibp,{0.1 + 0.2!r},yes,{1 / 3!r}",
    ]


# An independent verifier


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_margins_lie_below_what_marabou_found(method: str, dtype: torch.dtype) -> None:
    """Marabou found an image whose margin is at most `below`; a certified lower bound above it would be false."""
    network, images = marabou.network(GOLDEN, dtype), marabou.images(GOLDEN, dtype)
    slack = GOLDEN["provenance"]["slack"]
    walked = 0
    for row in GOLDEN["least_margins"]:
        image, label = images[row["image"]][None], torch.tensor([row["label"]])
        found = float(certify.margins(network, image, label, ThreatModel("linf", row["epsilon"]), method=method).amin())
        assert found <= row["below"] + slack
        if found > slack:
            assert row["property"] == "unsat"
        walked += 1
    assert walked == 12


def test_marabou_proved_and_refuted() -> None:
    """The golden file has verdicts of both kinds and numbers that agree with them; tighter methods come nearer."""
    network, images = marabou.network(GOLDEN), marabou.images(GOLDEN)
    assert {row["property"] for row in GOLDEN["least_margins"]} == {"sat", "unsat"}
    gaps: dict[str, list[float]] = {method: [] for method in METHODS}
    certified = dict.fromkeys(METHODS, 0)
    for row in GOLDEN["least_margins"]:
        assert row["above"] < row["below"] <= row["above"] + 2.0**-8
        assert not row["above"] <= 0 <= row["below"], "too near 0 to say which verdict is right"
        assert row["property"] == ("unsat" if row["above"] > 0 else "sat")
        image, label = images[row["image"]][None], torch.tensor([row["label"]])
        logits = network(image)[0].detach()
        clean = float(logits[row["label"]] - max(v for j, v in enumerate(logits) if j != row["label"]))
        assert row["above"] < clean
        for method in METHODS:
            found = certify.margins(network, image, label, ThreatModel("linf", row["epsilon"]), method=method)
            gaps[method].append((row["below"] - float(found.amin())) / row["epsilon"])
            certified[method] += float(found.amin()) > 0
    means = [math.fsum(gaps[method]) / 12 for method in METHODS]
    print("mean distance to the least margin, over epsilon:", dict(zip(METHODS, means, strict=True)))
    print("certified, of 10 that are robust and 2 that are not:", certified)
    assert all(after <= before + 1e-6 for before, after in pairwise(means))
    assert 0 < certified["crown-ibp"] <= certified["crown"] <= 10
