"""The folder that is handed to others: network, properties, certificates, and a manifest that says what is claimed.

The folder is made beside its place and renamed: it is whole or absent.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, frozen
from torch import Tensor

from robustnas import __version__, plan
from robustnas.certify.settings import Certify
from robustnas.data.selection import first
from robustnas.errors import InputError
from robustnas.export import box, certificates, onnx_file, vnnlib
from robustnas.export.readme import readme
from robustnas.export.request import IMAGES, TIMEOUT, Request
from robustnas.plan import Plan, Seed
from robustnas.run.asked import known_method, known_seed
from robustnas.run.directory import RunDirectory
from robustnas.run.evaluated import evaluated_images, planned, trained
from robustnas.runtime import terminal
from robustnas.runtime.artifacts import (
    UMASK,
    real_folder,
    write_bytes,
    write_json,
    write_text,
)
from robustnas.runtime.environment import versions
from robustnas.runtime.report import Report, silent
from robustnas.runtime.suggest import did_you_mean
from robustnas.table import results
from robustnas.threat import NORMS, ThreatModel

NETWORK = "network.onnx"
NOT_COMPARED = "not compared: onnxruntime was not installed"


@frozen
class Bundle:
    """Says what was written.

    Args:
        path: the folder.
        manifest: as `manifest.json` holds it.
    """

    path: Path
    manifest: dict[str, Any]


def export(request: Request, report: Report = silent) -> Bundle:
    """Write a trained network of a run with its properties and certificates.

    Raises:
        InputError: the run directory, the method, the seed, the threat or the folder will not do, the package onnx is
            missing, or the network has no form in ONNX.
        RunError: the ONNX file computes something else than the network.
        VerdictError: an attack of the run fooled an image that is certified.
    """
    arranged = planned(request.run)
    known_method(request.run, request.method, arranged.methods)
    seed = known_seed(request.run, arranged.seeds_of(request.method), request.seed)
    threat = _threat(request, arranged)
    directory = RunDirectory(request.run)
    for note in directory.verify(map(directory.folder, arranged.stages_of(request.method, seed))):
        terminal.tell(f"robustnas: {note}", error=True)
    if request.output is None:
        real_folder(directory.path / "export")
    output = _free(request.output or directory.path / "export" / _name(request.method, seed, threat))
    network = trained(directory, arranged, request.method, seed)
    images, labels, places = _images(request, arranged)
    onnx_file.needed()  # refused at once, before anything is computed
    with torch.no_grad():
        predictions = torch.cat([network(image) for image in images.split(1)]).argmax(dim=1)
    data = onnx_file.encode(network, images[0])
    agreement = onnx_file.compare(data, network, images, threat.epsilon)
    results.check(directory, request.method, seed)
    stage = arranged.stage("certify", request.method, seed)
    found = certificates.of(
        None if stage is None else directory.folder(stage),
        network,
        images,
        labels,
        threat,
        (arranged.certify or Certify()).method,
        report,
    )
    manifest = {
        "schema": 1,
        "claim": _claim(threat),
        "command": _command(request, seed, threat, len(images)),
        "run": {
            "dataset": arranged.identity["dataset"]["name"],
            "search_space": (arranged.identity["search_space"] or {}).get("name"),
            "method": request.method,
            "seed": seed.plain,
            "train": _stage_name(directory, arranged, "train", request.method, seed),
        },
        "network": {
            "file": NETWORK,
            "sha256": hashlib.sha256(data).hexdigest(),
            "operator_set": onnx_file.OPERATOR_SET,
            "input": [1, *images.shape[1:]],
            "output": [1, arranged.dataset.classes],
            "compared_with_torch": NOT_COMPARED if agreement is None else asdict(agreement),
        },
        "properties": {
            "threat": {"norm": threat.norm, "epsilon": threat.epsilon},
            "exact": threat.norm == "linf",
            "vnnlib": list(request.versions),
            "images": len(images),
            "index": places.tolist(),
            "decimals": f"rounded outwards: float32 ends and exact ones, to float64, to {box.DIGITS} digits",
        },
        "certificates": {
            "method": found.method,
            "source": found.source,
            "radius_method": found.radius_method,
            "certified": sum(found.certified),
        },
        "versions": {"robustnas": __version__, **versions(("torch", "onnx", "onnxruntime"))},
    }
    with _whole(output) as folder:
        write_bytes(folder / NETWORK, data)
        _properties(folder, request, images, labels, arranged.dataset.classes, threat)
        write_text(folder / "certificates.csv", certificates.table(found, labels.tolist(), predictions.tolist()))
        write_text(folder / "README.txt", readme(manifest))
        write_json(folder / "manifest.json", manifest)
    return Bundle(output, manifest)


def _threat(request: Request, arranged: Plan) -> ThreatModel:
    """Return the threat model that is asked for; refuse one that a box cannot say."""
    norm = request.norm or arranged.threat.norm
    if norm not in NORMS:
        raise InputError(f"found norm {norm!r}; {', '.join(NORMS)} would do{did_you_mean(norm, NORMS)}")
    epsilon = request.epsilon
    if epsilon is None:
        if norm != arranged.threat.norm:
            raise InputError(f"--norm {norm} needs an --epsilon of its own: the recipe's threat is {arranged.threat}")
        epsilon = arranged.threat.epsilon
    try:
        threat = ThreatModel(norm, epsilon)
    except ValueError as fault:
        raise InputError(str(fault)) from None
    if norm != "linf" and not request.enclosing_box:
        raise InputError(
            f"VNN-LIB properties are boxes and the threat is {threat}; --norm linf --epsilon E would do, or "
            "--enclosing-box for the box around the ball, whose `unsat` is a proof for the ball and whose `sat` is none"
        )
    return threat


def _images(request: Request, arranged: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """The exported images (N, C, H, W), float32, their labels (N,) and their places in the test split (N,).

    The first of those that the run evaluates, in its order, so that its certificates are theirs.
    """
    evaluated, places = evaluated_images(arranged)
    count = min(IMAGES, len(places)) if request.images is None else request.images
    if count < 1:
        raise InputError(f"found {count} images; 1 or more would do")
    images = first(evaluated, count)
    return images.take(torch.arange(count)).cpu(), images.labels, places[:count]


def _properties(
    folder: Path, request: Request, images: Tensor, labels: Tensor, classes: int, threat: ThreatModel
) -> None:
    """The properties, and for each version the list of instances.

    `instances.csv` lists the first version written; a second one has a list of its own, because a verifier that is
    run on a list reads one of the two syntaxes.
    """
    boxes = [box.around(image, threat.epsilon) for image in images]
    for number, syntax in enumerate(request.versions):
        instances = []
        for index, (ends, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
            name = f"vnnlib-{syntax}/image-{index:05d}.vnnlib"
            comments = (
                f"{NETWORK}, test image {index} of class {label}, {_region(threat)}, pixels in [0, 1]",
                "satisfiable exactly if an image in the box is not classified so",
            )
            write_text(folder / name, vnnlib.WRITERS[syntax](ends, label, classes, comments))
            instances.append(f"{NETWORK},{name},{request.timeout or TIMEOUT}\n")
        write_text(folder / ("instances.csv" if number == 0 else f"instances-{syntax}.csv"), "".join(instances))


def _region(threat: ThreatModel) -> str:
    box_of = "" if threat.norm == "linf" else "box around the ball "
    return f"{box_of}{threat.norm} {threat.epsilon!r}"


def _claim(threat: ThreatModel) -> str:
    ball = f"every image with pixels in [0, 1] within {threat.norm} distance {threat.epsilon!r} of it"
    claim = f"for an image with certified = yes in certificates.csv, {ball} is classified as its label"
    if threat.norm == "linf":
        return f"{claim}: its property is unsatisfiable"
    return f"{claim}; the properties are about the box around that ball, which is larger"


def _command(request: Request, seed: Seed, threat: ThreatModel, images: int) -> str:
    """A command that writes the same again, where the run directory is."""
    words = ["robustnas", "export", request.run.name or "RUN", request.method, "--seed", str(seed)]
    words += ["--images", str(images), "--norm", threat.norm, "--epsilon", repr(threat.epsilon)]
    words += ["--vnnlib", request.vnnlib]
    words += ["--timeout", str(request.timeout or TIMEOUT), *(["--enclosing-box"] if request.enclosing_box else [])]
    return shlex.join(words)


def _name(method: str, seed: Seed, threat: ThreatModel) -> str:
    return f"{method}-seed{seed}-{threat.norm}-{threat.epsilon:g}"


def _stage_name(directory: RunDirectory, arranged: Plan, kind: plan.Kind, method: str, seed: Seed) -> str | None:
    """The folder of a stage; None where there is none, as for a network made elsewhere."""
    stage = arranged.stage(kind, method, seed)
    return None if stage is None else directory.folder(stage).path.name


def _free(output: Path) -> Path:
    """A folder that nothing is in yet."""
    if output.is_dir() and not any(output.iterdir()):
        return output
    if output.exists():
        raise InputError(f"{output} is there already; export overwrites nothing, another --output would do")
    return output


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """A folder to write into that becomes `output` when all is written, and is gone otherwise."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".part"))
    except OSError as fault:
        raise InputError(f"{output}: cannot be written: {fault.strerror}; another --output would do") from fault
    try:
        yield folder
        folder.chmod(0o777 & ~UMASK)
        if output.is_dir():
            output.rmdir()  # it is empty
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
