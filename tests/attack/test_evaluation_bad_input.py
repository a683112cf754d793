"""What is wrong with an attack, a network or a data set is named, and the rest of the table is still made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustnas import certify
from robustnas.cli import main
from support.evaluated_digits import prepare, run, some, stage, table, trained
from support.fake_package import install

STRANGERS = """
    import inspect

    import torch
    import foolbox
    from attrs import frozen
    from foolbox.attacks.base import FixedEpsilonAttack

    from robustnas.data.images import InMemory, Streamed
    from robustnas_plugins.datasets.digits import Digits


    class Change(FixedEpsilonAttack):
        distance = foolbox.distances.linf

        def __init__(self, do):
            self.do = do
            self.calls = 0

        def run(self, model, inputs, criterion, *, epsilon, **kwargs):
            self.calls += 1
            network = inspect.getclosurevars(model._model).nonlocals["model"]
            return self.do(self, network, inputs, epsilon)


    def changes_weights(self, network, images, epsilon):
        with torch.no_grad():
            next(network.parameters()).mul_(0.5)
        return images


    def halfway(self, network, images, epsilon):
        if self.calls == 2:
            raise IndexError("the second batch")
        return images


    KINDS = {
        "not-a-number": lambda self, network, images, epsilon: images * float("nan"),
        "leaves-ball": lambda self, network, images, epsilon: (images + 2 * epsilon).clamp(0, 1),
        "leaves-box": lambda self, network, images, epsilon: images + epsilon,
        "another-shape": lambda self, network, images, epsilon: images[:, :, 1:],
        "changes-weights": changes_weights,
        "trains": lambda self, network, images, epsilon: network.train() and images,
        "halfway": halfway,
    }


    @frozen
    class Stranger:
        kind: str

        def build(self, threat):
            if self.kind == "another-norm":
                return foolbox.attacks.L2PGD(steps=1)
            if self.kind == "no-attack":
                return object()
            return Change(KINDS[self.kind])


    @frozen
    class Odd(Digits):
        what: str = ""

        def split(self, name):
            images = super().split(name)
            pixels, labels = images.pixels.clone(), images.labels
            if self.what == "bytes as floats":
                return InMemory(pixels * 255, labels)
            if self.what == "one bright image":
                pixels[5] += 2
                return Streamed(list(pixels), labels)
            if self.what == "float labels":
                return InMemory(pixels, labels.float())
            if self.what == "no such class":
                labels = labels.clone()
                labels[3] = 10
            return InMemory(pixels, labels)
"""

POINTS = {
    "robustnas.attacks": {"stranger": "harness_strangers:Stranger", "their-l2": "foolbox.attacks:L2PGD"},
    "robustnas.datasets": {"odd": "harness_strangers:Odd"},
}


@pytest.fixture(scope="module", autouse=True)
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A package of bad attacks and bad data, installed for these tests."""
    site = tmp_path_factory.mktemp("site")
    install(site, "harness-strangers", POINTS, harness_strangers=STRANGERS)
    sys.path.insert(0, str(site))
    yield
    sys.path.remove(str(site))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


TOLD = {
    "not-a-number": r"attack stranger returned for image 0 pixels that are not finite",
    "leaves-ball": r"attack stranger returned for image 0 a perturbation of 0.12, outside the ball of linf 0.06",
    "leaves-box": r"attack stranger returned for image 0 pixels from 0.06 to 1.06, outside [0, 1]",
    "another-shape": r"attack stranger returned torch.float32 of shape",
    "changes-weights": r"attack stranger changed the network (0.weight)",
    "trains": r"attack stranger put the network into training mode",
    "halfway": r"attack stranger raised IndexError on images",
    "another-norm": r"attack stranger perturbs in l_2 and the threat is linf 0.06",
    "no-attack": r"attack stranger: object is not a foolbox Attack",
}


@pytest.mark.parametrize("how", ["survivors", "all"])
def test_a_bad_attack_is_told_and_the_rest_of_the_table_is_made(
    folder: Path, capsys: pytest.CaptureFixture[str], how: str
):
    rest = f"evaluate: {{images: 30, batch: 10, subset: first, attacked: {how}}}\ncertify: null\n"
    entries = "".join(f"  - {{name: stranger, label: {kind}, kind: {kind}}}\n" for kind in TOLD)
    prepare(folder, f"attacks:\n  - fgsm\n{entries}  - {{name: pgd, steps: 2, step_size: 0.06}}\n{rest}")
    assert run(folder) == 1
    message = capsys.readouterr().err
    for kind, text in TOLD.items():
        assert f"failed: net seed 0 attack {kind}: {text}" in message, kind
    assert "Traceback" not in message
    assert f"{len(TOLD)} stage(s) failed" in message
    row = table(folder / "run")
    assert {kind: row["attacks"].get(kind) for kind in TOLD} == dict.fromkeys(TOLD)
    assert row["clean"]["mean"] > 0.5
    assert row["robust"] is None, "a worst case over some of the attacks would be too high"
    for label in ("fgsm", "pgd-2"):
        assert 0 < row["attacks"][label]["mean"] <= row["clean"]["mean"]
    # what came after the strangers is what it would have been without them
    prepare(folder, f"attacks: [fgsm, {{name: pgd, steps: 2, step_size: 0.06}}]\n{rest}")
    assert run(folder, out="without") == 0
    without = table(folder / "without")
    assert without["robust"] is not None
    assert {label: row["attacks"][label] for label in without["attacks"]} == without["attacks"]


def test_an_attack_of_another_norm_is_refused_before_anything_runs(folder: Path, capsys: pytest.CaptureFixture[str]):
    prepare(folder, "attacks: [fgsm, {name: their-l2, steps: 2}]\n")
    assert run(folder) == 2
    message = capsys.readouterr().err
    assert "r.yaml:" in message
    assert "found the threat linf 0.06 for 'their-l2', an attack of l2; l2 would do" in message
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("bytes as floats", "float pixels must lie in [0, 1]"),
        ("one bright image", "values from 2 to 3 in image 5 of split 'test'"),
        ("float labels", "labels must be int64 of shape (N,), found torch.float32"),
        ("no such class", "found:    0 to 10 in split 'test'"),
    ],
)
def test_bad_data_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], what: str, told: str):
    prepare(folder, "attacks: [fgsm]\nevaluate: {images: 30, subset: first}\ncertify: null\n")
    assert run(folder, f"dataset={{name: odd, what: {what}}}") == 2
    message = capsys.readouterr().err
    assert told in message
    assert "Traceback" not in message
    assert not (folder / "run" / "run.json").exists()
    assert not list(folder.glob("run/*/*/result.json"))


@pytest.mark.parametrize("section", ["evaluate", "certify"])
def test_fewer_images_than_asked_for_is_refused_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], section: str
):
    prepare(folder, "attacks: [fgsm]\n")
    assert run(folder, f"{section}.images=598") == 2
    message = capsys.readouterr().err
    assert "598 test images are asked for" in message
    assert f"{section}.images" in message
    assert "there are 597" in message
    assert not (folder / "run" / "run.json").exists()


def test_a_network_of_probabilities_carries_a_mark(folder: Path):
    prepare(folder, "attacks: [fgsm]\nevaluate: {images: 20}\ncertify: null\n")
    for network, flagged in (("make", False), ("likely", True)):
        out = f"run-{network}"
        assert run(folder, f"methods.net.network=evaluated_nets:{network}", out=out) == 0
        names = {flag["name"] for flag in table(folder / out)["flags"]}
        assert any("probabilit" in name or "softmax" in name for name in names) == flagged, names
        assert ("(!)" in (folder / out / "table.md").read_text()) == flagged


# Certificates that attacks prove wrong

CERTIFIED = """\
attacks:
  - fgsm
  - {name: pgd, steps: 4, step_size: 0.03}
  - {name: uniform-noise, label: faint, draws: 1, threat: {epsilon: 1/2550}}
evaluate: {images: 40, batch: 16}
certify: {method: crown, images: 40, norms: [linf]}
"""


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    radius = certify.radius
    monkeypatch.setattr(certify, "radius", lambda *given, **named: 2 * radius(*given, **named))


@pytest.mark.usefixtures("doubled")
def test_a_radius_that_is_too_large_is_told_by_the_attack_that_proves_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    prepare(folder, CERTIFIED)
    assert run(folder) == 1
    message = capsys.readouterr().err
    proved = 0
    for label in ("fgsm", "pgd-4"):
        file = stage(folder / "run", label) / "violation.pt"
        saved = torch.load(file, weights_only=True)
        told = f"attack {label}: test image {saved['index']} has a certified linf radius of {saved['radius']:.6g}"
        assert told in message.replace("net seed 0 ", "")
        assert f"Both images are in {file}" in message
        images, labels = some(597)
        clean, perturbed = saved["clean"], saved["perturbed"]
        assert torch.equal(clean, images[saved["index"]])
        assert saved["norm"] == "linf"
        size = float((perturbed - clean).abs().max())
        assert size == pytest.approx(saved["size"], abs=1e-7)
        assert size < saved["radius"]
        answer = trained()(torch.stack([clean, perturbed])).argmax(dim=1)
        assert answer[0] == labels[saved["index"]] != answer[1], "the two images are the proof"
        assert not (file.parent / "result.json").exists()
        proved += 1
    assert proved == 2
    assert "Traceback" not in message
    row = table(folder / "run")
    assert row["attacks"]["faint"] is not None
    assert row["attacks"]["fgsm"] is None
    assert row["clean"] is not None
    # the certificates that were disproved are not printed as if nothing had happened, now or later
    assert row["certified"] is row["certified_radius"]["linf"] is row["certified_radius_all"]["linf"] is None
    assert main(["table", str(folder / "run")]) == 1
    printed = capsys.readouterr()
    assert "left out, because results contradict each other: net, seed 0: test image" in printed.out
    assert printed.err.count("has a certified linf radius") == 2
    assert table(folder / "run") == row
    assert main(["export", str(folder / "run"), "net", "--images", "1"]) == 1
    assert "has a certified linf radius" in capsys.readouterr().err
    assert not (folder / "run" / "export").exists()


def test_a_verdict_that_is_wrong_is_told_where_no_radius_was_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    margins = certify.margins

    def hopeful(network: nn.Module, images: Tensor, labels: Tensor, *rest: Any, **named: Any) -> Any:
        right = network(images).argmax(dim=1) == labels
        return margins(network, images, labels, *rest, **named) + 5 * right[:, None]

    monkeypatch.setattr(certify, "margins", hopeful)
    prepare(folder, CERTIFIED)
    assert run(folder, "certify.norms=[]") == 1
    message = capsys.readouterr().err
    saved = torch.load(stage(folder / "run", "fgsm") / "violation.pt", weights_only=True)
    assert saved["size"] <= saved["radius"] == 0.06
    assert f"attack fgsm: test image {saved['index']} has a certified linf radius of 0.06" in message
    assert "Traceback" not in message
    assert table(folder / "run")["attacks"]["fgsm"] is None


def test_sound_certificates_pass_the_same_attacks(folder: Path):
    prepare(folder, CERTIFIED)
    assert run(folder) == 0
    row = table(folder / "run")
    assert row["certified"]["mean"] > 0
    assert row["certified"]["mean"] <= row["robust"]["mean"] <= row["clean"]["mean"]
    assert not list(folder.rglob("violation.pt"))
